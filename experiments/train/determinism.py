"""How far two runs of one trial agree: the level that a configuration states, and what torch has to do for it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import TextIO

import torch

NO_FORM = "does not have a deterministic implementation"


def set_level(level: str, warn: Callable[[str], None]) -> None:
    """Make this process keep to a level, before its first part is built.

    ``bitwise``: every operation in its deterministic form. ``seeded``: chance follows from the seed, and torch chooses
    operations by fixed rules. ``off``: on a GPU torch also times convolutions against each other and multiplies fp32 as TF32.

    Args:
        level: of the configuration.
        warn: takes a line for every operation that has no deterministic form, once.
    """
    torch.use_deterministic_algorithms(level == "bitwise", warn_only=True)
    torch.backends.cudnn.benchmark = level == "off"
    torch.set_float32_matmul_precision("high" if level == "off" else "highest")
    if level == "bitwise":
        # It would else fill all that is allocated and not yet written to, which no part of a training reads.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # set by a module class
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS begins
        _listen(warn)


def _listen(warn: Callable[[str], None]) -> None:
    """Pass on what torch says of an operation, which it says once for each; all other warnings go where they went."""
    show, told = warnings.showwarning, set[str]()

    def on_warning(
        message: Warning | str, category: type[Warning], filename: str, lineno: int,
        file: TextIO | None = None, line: str | None = None,
    ) -> None:  # fmt: skip
        text = str(message)
        if NO_FORM not in text:
            show(message, category, filename, lineno, file, line)
        elif (name := text.partition(NO_FORM)[0].strip()) not in told:
            told.add(name)
            warn(f"determinism=bitwise: {name} has no deterministic form, so two runs may differ in their last bits")

    warnings.showwarning = on_warning
    warnings.filterwarnings("always", message=f".*{NO_FORM}")
