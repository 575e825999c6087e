"""What a data set does with examples that cannot be read."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Final, Literal

from modules.data.base import ComponentWarning

OnBadExample = Literal["error", "skip"]
MOST_NAMED: Final = 20
"""Skipped examples that a warning names."""


def check_on_bad_example(owner: str, value: str) -> None:
    """
    Raises:
        ValueError: it is another text.
    """
    if value not in ("error", "skip"):
        raise ValueError(f"{owner} wants on_bad_example as error or skip, but got {value!r}")


def warn(message: str) -> None:
    """Add a message to the warnings of the run."""
    warnings.warn(message, ComponentWarning, stacklevel=3)


def warn_skipped(names: Sequence[str], what: str) -> None:
    """Report examples that are skipped.

    Args:
        names: of files, or of lines of a file.
        what: they are, such as "photos of /data/pets".
    """
    more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    warn(
        f"{len(names):,} {what} cannot be read and are skipped (data.on_bad_example=skip): {', '.join(names[:MOST_NAMED])}{more}"
    )
