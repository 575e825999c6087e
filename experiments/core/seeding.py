"""Seeds that follow from one seed and a few words, so that no two uses of chance share a stream."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *words: str | int) -> int:
    """A seed for one use of chance: the same on every machine, unrelated for any other seed or words.

    Args:
        seed: what the user stated.
        words: what the chance is for, such as ``"order", 3``.

    Returns:
        int in ``[0, 2**63)``.
    """
    told = repr((seed, *words)).encode()  # repr keeps 1 and "1", ("ab", "c") and ("a", "bc") apart
    return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest(), "big") >> 1
