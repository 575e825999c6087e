"""What came of a row when it was measured: a file that is committed beside the page, written by the command alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml

from experiments.core.atomic import write_text
from experiments.core.errors import InputError

NOTE = "# Written by `lathe zoo --run`.\n"
MOST_DIGITS = 6
"""Of a value; more of them differ from machine to machine."""


@dataclass(frozen=True)
class MeasuredRecord:
    """One row, measured with several seeds."""

    row: str
    trial: str
    """Id of the configuration that was asked for, before a budget made it shorter."""
    overrides: list[str]
    """Of the command line, beyond the row's own."""
    metric: str
    seeds: list[int]
    values: list[float]
    """Of the metric at the end of each seed's run."""
    steps: int
    steps_in_all: int
    """What the experiment asks for; more than `steps` where a budget made it shorter."""
    budget_s: float | None
    """Of one run."""
    wall_s: list[float]
    cpu_s: list[float]
    """Seconds of a core that each run took, evaluations among it, imports not."""
    device: str
    devices: int
    threads: int
    side_by_side: int
    """Runs that shared the machine."""
    torch: str
    revision: str | None
    """Commit of the code; null outside git."""
    dirty: bool
    """Whether the code was not that of the commit."""
    date: str
    runs: list[str]
    curve_metric: str
    curve_steps: list[int]
    curves: list[list[float]]
    """Of each seed, a value for each of the steps."""
    shorter: list[str] = field(default_factory=list)
    """Overrides that made it as short as the budget."""

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None of one alone."""
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def is_whole(self) -> bool:
        """Whether the training went as far as the experiment asks."""
        return self.steps >= self.steps_in_all

    def stands(self, trial: str, metric: str | None, seeds: int, budget_s: float | None) -> bool:
        """Whether measuring it again, with as many seeds and as much time, would tell nothing new."""
        as_far = self.is_whole or (self.budget_s is not None and budget_s is not None and budget_s <= self.budget_s)
        return (self.trial, self.metric) == (trial, metric) and len(self.seeds) >= seeds and as_far


@dataclass(frozen=True)
class Refusal:
    """Why a row that was tried has not been measured."""

    row: str
    refused: str


class Records:
    """The records in the folder beside a page."""

    def __init__(self, page: Path) -> None:
        """
        Args:
            page: such as docs/zoo.md; its records and figures lie in docs/zoo.
        """
        self.folder = page.with_suffix("")

    def figure(self, row: str) -> Path:
        """Where the curve of a row is drawn."""
        return self.folder / f"{row}.svg"

    def find(self, row: str) -> MeasuredRecord | Refusal | None:
        """What is known of a row; None where it was never tried.

        Raises:
            InputError: its file is damaged.
        """
        path = self._path(row)
        if not path.exists():
            return None
        try:
            told = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        except (OSError, ValueError, yaml.YAMLError) as err:
            raise _damaged(path, str(err).splitlines()[0]) from err
        kind = Refusal if isinstance(told, dict) and "refused" in told else MeasuredRecord
        if problem := _problem(told, kind):
            raise _damaged(path, problem)
        return kind(**told)

    def keep(self, record: MeasuredRecord | Refusal) -> None:
        """Put a record in the place of the one before.

        Raises:
            OSError: it cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self._path(record.row), NOTE + _as_text(asdict(record)))

    def _path(self, row: str) -> Path:
        return self.folder / f"{row}.yaml"


def _damaged(path: Path, why: str) -> InputError:
    return InputError([f"{path} is no record of a row: {why}; restore it, or remove it and measure again"])


def _problem(told: Any, kind: type[MeasuredRecord] | type[Refusal]) -> str:
    """What keys are missing or of no meaning; "" where all is well."""
    if not isinstance(told, dict):
        return "it is no map"
    known = fields(kind)
    missing = [one.name for one in known if one.default_factory is MISSING and one.name not in told]
    strange = [str(key) for key in told if key not in {one.name for one in known}]
    if missing or strange:
        return f"it lacks {', '.join(missing)}" if missing else f"it knows no {', '.join(strange)}"
    if kind is MeasuredRecord:
        of_seeds = [told[name] for name in ("seeds", "values", "wall_s", "cpu_s", "curves")]
        if not all(isinstance(one, list) and one and len(one) == len(of_seeds[0]) for one in of_seeds):
            return "seeds, values, wall_s, cpu_s and curves are not as many, or none"
    return ""


def rounded(value: float) -> float:
    """A value as records have it."""
    return float(f"{value:.{MOST_DIGITS}g}")


def _as_text(told: Mapping[str, Any]) -> str:
    """A line for each key, and for each seed's curve."""
    styles = ((key, value, None if isinstance(value, list) else False) for key, value in told.items())
    return "".join(
        yaml.safe_dump({key: value}, default_flow_style=style, width=10**6, allow_unicode=True)
        for key, value, style in styles
    )
