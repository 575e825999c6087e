"""Seeds derived from one seed, so that no two uses share a random stream."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *labels: str | int) -> int:
    """Derive the seed of one use: equal on every machine, unrelated for other seeds and labels.

    Args:
        seed: the seed of the configuration.
        labels: the use, such as ``"order", 3``.

    Returns:
        int in ``[0, 2**63)``.
    """
    text = repr((seed, *labels)).encode()  # repr keeps 1 and "1", ("ab", "c") and ("a", "bc") apart
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
