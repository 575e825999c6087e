"""Distributions of the time that a worker computes in one step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from experiments.core.errors import InputError, did_you_mean

Seconds = NDArray[np.float64]


class Times(Protocol):
    """A distribution of computing times in seconds, sampled for every step of every worker."""

    @property
    def mean_s(self) -> float:
        """The mean of the distribution."""
        ...

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Seconds:
        """Independent samples, float64 of ``shape``."""
        ...

    def __str__(self) -> str:
        """The text in tables."""
        ...


@dataclass(frozen=True)
class ConstantTime:
    """Every step takes the same time."""

    mean_s: float

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Seconds:
        return np.full(shape, self.mean_s)

    def __str__(self) -> str:
        return f"{self.mean_s * 1e3:.3g} ms, always"


@dataclass(frozen=True)
class Lognormal:
    """Many small delays, each proportional to the step time."""

    mean_s: float
    variation: float
    """Standard deviation by mean."""

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Seconds:
        variance = math.log1p(self.variation**2)
        return rng.lognormal(math.log(self.mean_s) - variance / 2, math.sqrt(variance), shape)

    def __str__(self) -> str:
        return f"{self.mean_s * 1e3:.3g} ms, lognormal, standard deviation {self.variation:.3g} of it"


@dataclass(frozen=True)
class ShiftedExponential:
    """A minimum time plus an exponential delay; a variation of 1 is a pure exponential.

    Source: Lee et al. 2018, arXiv:1512.02673, section II.
    """

    mean_s: float
    variation: float
    """Standard deviation by mean, at most 1."""

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Seconds:
        wait_s = self.mean_s * self.variation
        return self.mean_s - wait_s + rng.exponential(wait_s, shape)

    def __str__(self) -> str:
        return f"{self.mean_s * 1e3:.3g} ms, of which {self.variation:.3g} is an exponential delay"


@dataclass(frozen=True)
class Gamma:
    """The sum of several exponential delays."""

    mean_s: float
    variation: float
    """Standard deviation by mean."""

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Seconds:
        return rng.gamma(self.variation**-2, self.mean_s * self.variation**2, shape)

    def __str__(self) -> str:
        return f"{self.mean_s * 1e3:.3g} ms, gamma, standard deviation {self.variation:.3g} of it"


class Measured:
    """Samples measured times, or a curve through some of their quantiles."""

    def __init__(self, seconds: Sequence[float], fractions: Sequence[float] | None = None, slowest_of: int = 1) -> None:
        """
        Args:
            seconds: measured times; with ``fractions``, quantiles in ascending order.
            fractions: of each quantile, from 0 to 1, with linear interpolation; None: all times have equal weight.
            slowest_of: each time is the maximum over this many workers; samples are for one worker.
        """
        self.seconds = np.sort(np.asarray(seconds, float))
        count = len(self.seconds)
        self.fractions = (np.arange(count) + 0.5) / count if fractions is None else np.asarray(fractions, float)
        self.slowest_of = slowest_of
        grid = (np.arange(10_000) + 0.5) / 10_000
        self.mean_s = float(np.mean(self._quantile(grid)))

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Seconds:
        return self._quantile(rng.random(shape))

    def _quantile(self, fractions: Seconds) -> Seconds:
        # The slowest of n independent workers has the distribution F^n, so a worker's quantile u is the slowest's u^n.
        return np.asarray(np.interp(fractions**self.slowest_of, self.fractions, self.seconds), float)

    def __str__(self) -> str:
        low, high = self._quantile(np.array([0.05, 0.95])) * 1e3
        return f"{self.mean_s * 1e3:.3g} ms, as measured: {low:.3g} to {high:.3g} ms in 90 % of steps"


MIN_VARIATION = 1e-6
"""Smaller values overflow; use `constant` instead."""
DISTRIBUTIONS: dict[str, Callable[[float, float], Times]] = {
    "lognormal": Lognormal,
    "shifted_exponential": ShiftedExponential,
    "gamma": Gamma,
}


def parse(text: str, mean_s: float) -> Times:
    """Parse the name of a distribution, such as ``constant`` or ``lognormal:0.2``.

    Raises:
        InputError: the distribution does not exist, or its spread is out of range.
    """
    name, _, spread = text.partition(":")
    if name == "constant" and not spread:
        return ConstantTime(mean_s)
    if name not in DISTRIBUTIONS:
        known = [*(f"{known}:0.2" for known in DISTRIBUTIONS), "constant"]
        raise InputError([f"--times {text} is not a distribution; {did_you_mean(text, known)}"])
    most = 1.0 if name == "shifted_exponential" else 10.0
    try:
        variation = float(spread)
    except ValueError:
        variation = math.nan
    if not MIN_VARIATION <= variation <= most:
        hint = f"write standard deviation / mean, from {MIN_VARIATION:g} to {most:g}, as in --times {name}:0.2"
        raise InputError([f"--times {text} has no valid spread for {name}; {hint}"])
    return DISTRIBUTIONS[name](mean_s, variation)
