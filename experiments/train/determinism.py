"""Sets torch's options for a level of determinism."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

import numpy
import torch

from experiments.core.seeding import derive_seed
from modules.parallel.topology import RankCoordinates

NO_DETERMINISTIC_FORM = "does not have a deterministic implementation"


def set_level(level: str, warn: Callable[[str], None]) -> None:
    """Set the level of this process; call this before the first component is built.

    ``bitwise``: every operation runs in its deterministic form. ``seeded``: random numbers follow from the seed, and torch
    chooses operations by fixed rules. ``off``: on a GPU torch also benchmarks convolutions and multiplies fp32 as TF32.

    Args:
        level: bitwise, seeded or off.
        warn: called once for every operation that has no deterministic form.
    """
    torch.use_deterministic_algorithms(level == "bitwise", warn_only=True)
    torch.backends.cudnn.benchmark = level == "off"
    torch.set_float32_matmul_precision("high" if level == "off" else "highest")
    if level == "bitwise":
        # Otherwise torch fills all uninitialised memory, which no training reads.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # set by a module class
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
        _redirect_warnings(warn)


@contextmanager
def restore_process_state() -> Iterator[None]:
    """Restore what an attempt changes in its process: torch's options, its threads, and the random states."""
    level = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    states = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(level[0], warn_only=True)
        torch.backends.cudnn.benchmark = level[1]
        torch.set_float32_matmul_precision(precision)
        torch.set_num_threads(threads)
        random.setstate(states[0])
        numpy.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _redirect_warnings(warn: Callable[[str], None]) -> None:
    """Send torch's warnings about operations to `warn`, once per operation; other warnings are shown as before."""
    show, seen = warnings.showwarning, set[str]()

    def on_warning(
        message: Warning | str, category: type[Warning], filename: str, lineno: int,
        file: TextIO | None = None, line: str | None = None,
    ) -> None:  # fmt: skip
        text = str(message)
        if NO_DETERMINISTIC_FORM not in text:
            show(message, category, filename, lineno, file, line)
        elif (name := text.partition(NO_DETERMINISTIC_FORM)[0].strip()) not in seen:
            seen.add(name)
            warn(f"determinism=bitwise: {name} has no deterministic form, so two runs may differ in their last bits")

    warnings.showwarning = on_warning
    warnings.filterwarnings("always", message=f".*{NO_DETERMINISTIC_FORM}")


def seed_step(seed: int, step: int, coordinates: RankCoordinates) -> None:
    """Seed all random generators for one step. No generator state has to be saved, as only seed and step matter.

    Ranks that hold slices of the same layers get the same numbers; replicas and pipeline stages get different ones.
    """
    number = derive_seed(seed, "step", step, coordinates.data, coordinates.pipe)
    # torch.manual_seed takes 90 us because it checks for every kind of device (torch 2.13, 2026-11-24); this takes 1 us.
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed(number)
    random.seed(number)
    numpy.random.seed(number % 2**32)
