"""The global random generators, for code of others that draws from them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_globals(seed: int) -> None:
    """Seed the generators of torch (on the CPU), NumPy and Python."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed takes 90 us, as it looks for every kind of device
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def restored_globals() -> Iterator[None]:
    """Restore the state of the same generators at the end."""
    states = torch.default_generator.get_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.default_generator.set_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
