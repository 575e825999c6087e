"""Compares the digests of a data split that runs recorded. `experiments.train.data_digest` makes them."""

from __future__ import annotations

SEPARATOR = "-"
"""Between the digest of the first examples and that of all targets, arrays and file sizes."""


def differ(one: str, other: str) -> bool:
    """Whether two digests are of different data, as far as both can tell."""
    return any(mine != yours for mine, yours in zip(one.split(SEPARATOR), other.split(SEPARATOR), strict=False))


def is_partial(one: str, other: str) -> bool:
    """Whether one of two digests, of an earlier version of Lathe, covers only the first examples of its split."""
    return (SEPARATOR in one) != (SEPARATOR in other)


PARTIAL = "an earlier version of Lathe recorded only its first examples, so a change of the others is not noticed"
"""What the user should know where `is_partial`."""
