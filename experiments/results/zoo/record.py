"""The measured result of a row: a file beside the page, which only `lathe zoo --run` writes."""

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
DELIVERED_WEIGHTS, LAST_STEP = "delivered", "last step"
MAX_DIGITS = 6
"""Of a value; further digits differ between machines."""


@dataclass(frozen=True)
class MeasuredRecord:
    """The result of one row with several seeds."""

    row: str
    trial: str
    """Id of the configuration, before a budget shortened it."""
    overrides: list[str]
    """Of the command line, besides those of the row."""
    metric: str
    seeds: list[int]
    values: list[float]
    """The value of the metric for the weights that the run delivers, per seed."""
    steps: int
    steps_in_all: int
    """Steps of the experiment; more than `steps` if a budget shortened the runs."""
    budget_s: float | None
    """Of one run."""
    wall_s: list[float]
    cpu_s: list[float]
    """CPU time per run, with evaluations and without imports."""
    device: str
    devices: int
    threads: int
    side_by_side: int
    """Runs on the machine at the same time."""
    torch: str
    revision: str | None
    """Commit of the code; null outside git."""
    dirty: bool
    """Whether the code differed from the commit."""
    date: str
    runs: list[str]
    curve_metric: str
    curve_steps: list[int]
    curves: list[list[float]]
    """Per seed, a value for each step."""
    shorter: list[str] = field(default_factory=list)
    """Overrides that shortened the runs to the budget."""
    weights: str = field(default_factory=lambda: LAST_STEP)
    """The weights that were measured. Before 2026-11-29 they were always those of the last step."""

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None for one seed."""
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def is_complete(self) -> bool:
        """Whether the training had all steps of the experiment."""
        return self.steps >= self.steps_in_all

    @property
    def is_outdated(self) -> bool:
        """Whether the measured weights may be others than those that the run delivered."""
        return self.weights != DELIVERED_WEIGHTS

    def is_current(self, trial: str, metric: str | None, seeds: int, budget_s: float | None) -> bool:
        """Whether a measurement with so many seeds and this budget would add nothing."""
        is_as_long = self.is_complete or (
            self.budget_s is not None and budget_s is not None and budget_s <= self.budget_s
        )
        is_same = (self.trial, self.metric) == (trial, metric) and not self.is_outdated
        return is_same and len(self.seeds) >= seeds and is_as_long


@dataclass(frozen=True)
class Refusal:
    """Why a row could not be measured."""

    row: str
    refused: str


class Records:
    """The records in the folder beside a page."""

    def __init__(self, page: Path) -> None:
        """
        Args:
            page: such as docs/zoo.md; its records and figures are in docs/zoo.
        """
        self.folder = page.with_suffix("")

    def figure(self, row: str) -> Path:
        """The path of the curve of a row."""
        return self.folder / f"{row}.svg"

    def find(self, row: str) -> MeasuredRecord | Refusal | None:
        """The record of a row; None if there is none.

        Raises:
            InputError: its file is damaged.
        """
        path = self._path(row)
        if not path.exists():
            return None
        try:
            content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        except (OSError, ValueError, yaml.YAMLError) as err:
            raise _damaged(path, str(err).splitlines()[0]) from err
        kind = Refusal if isinstance(content, dict) and "refused" in content else MeasuredRecord
        if problem := _problem(content, kind):
            raise _damaged(path, problem)
        return kind(**content)

    def write(self, record: MeasuredRecord | Refusal) -> None:
        """Write a record; replaces an earlier one.

        Raises:
            OSError: it cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self._path(record.row), NOTE + _as_text(asdict(record)))

    def _path(self, row: str) -> Path:
        return self.folder / f"{row}.yaml"


def _damaged(path: Path, reason: str) -> InputError:
    return InputError([f"{path} is not a valid record: {reason}; restore it, or remove it and measure again"])


def _problem(content: Any, kind: type[MeasuredRecord] | type[Refusal]) -> str:
    """The missing or unknown keys; "" if there are none."""
    if not isinstance(content, dict):
        return "it is not a map"
    known = fields(kind)
    missing = [one.name for one in known if one.default_factory is MISSING and one.name not in content]
    unknown = [str(key) for key in content if key not in {one.name for one in known}]
    if missing or unknown:
        return f"it lacks {', '.join(missing)}" if missing else f"it has the unknown keys {', '.join(unknown)}"
    if kind is MeasuredRecord:
        per_seed = [content[name] for name in ("seeds", "values", "wall_s", "cpu_s", "curves")]
        if not all(isinstance(one, list) and one and len(one) == len(per_seed[0]) for one in per_seed):
            return "seeds, values, wall_s, cpu_s and curves differ in length, or are empty"
    return ""


def round_value(value: float) -> float:
    """A value with the digits of a record."""
    return float(f"{value:.{MAX_DIGITS}g}")


def _as_text(content: Mapping[str, Any]) -> str:
    """YAML with one line per key, and per curve of a seed."""
    styles = ((key, value, None if isinstance(value, list) else False) for key, value in content.items())
    return "".join(
        yaml.safe_dump({key: value}, default_flow_style=style, width=10**6, allow_unicode=True)
        for key, value, style in styles
    )
