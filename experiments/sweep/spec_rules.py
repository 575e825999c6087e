"""What must hold between the parts of a sweep's spec: every rule is told, as far as it can be judged."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.config.overrides import read_override
from experiments.config.rules.base import ConfigView, NotApplicable
from experiments.config.source_map import SourceMap
from experiments.config.sweep_values import SweepValues
from experiments.core.errors import InputError
from experiments.sweep.space import Choice, Interval, Space, endless, is_conditional, keys, overlaps, size
from experiments.sweep.sweep import ADAPTIVE

SHARED = ("launcher", "tracking", "hardware", "runs_dir", "data_root", "resume")
"""Keys that all trials of a sweep share: workers are started and runs are found by them."""
NAMES = ("name", "description", "tags")
"""Keys that tell trials apart for a reader, but not what they do."""
POSITIVE = (
    "num_seeds", "max_attempts", "strategy.startup_points", "pruner.first_step",
    "budget.max_points", "budget.wall_h", "budget.device_h",
)  # fmt: skip
LARGEST_SEED = 2**32 - 1
MOST_TRIALS = 50_000


@dataclass(frozen=True)
class RuleContext:
    """One spec, which may be faulty."""

    facts: ConfigView
    space: Space
    groups: Sequence[str]
    origins: SourceMap
    may_be_single: bool

    def get(self, key: str, *kinds: type) -> Any:
        return self.facts.get(key, *kinds)

    def typed(self, key: str) -> str:
        """A key of the question and its value, as they were written."""
        return self.origins.typed(f"sweep.{key}", self.facts.get(key, int, float, str, list, dict, type(None)))


def find_faults(case: RuleContext) -> list[str]:
    """Every rule that does not hold."""
    problems: list[str] = overlaps(case.space, case.groups)
    for rule in RULES:
        try:
            problems += rule(case)
        except NotApplicable:  # what is wrong with the values it needs is told
            continue
    return problems


def _positive(case: RuleContext) -> Iterator[str]:
    for key in POSITIVE:
        try:
            value = case.get(key, int, float)
        except NotApplicable:
            continue
        if not value > 0:
            yield f"{case.typed(key)} is not more than 0; write a larger number"


def _factor(case: RuleContext) -> Iterator[str]:
    if case.get("pruner.factor", int) < 2:
        yield f"{case.typed('pruner.factor')} lets every trial go on; write 2 or more"


def _seed(case: RuleContext) -> Iterator[str]:
    if not 0 <= case.get("strategy.seed", int) <= LARGEST_SEED:
        yield f"{case.typed('strategy.seed')} is not between 0 and {LARGEST_SEED}; write such a number"


def _name(case: RuleContext) -> Iterator[str]:
    if not re.fullmatch(r"\w[\w.-]*", case.get("name", str)):
        yield f"{case.typed('name')} is no name of a folder; write letters, digits, '_', '-' and '.'"


def _metric(case: RuleContext) -> Iterator[str]:
    if not case.get("metric", str).startswith("val/"):
        yield (
            f"{case.typed('metric')} is not of the validation split, by which alone trials may be chosen; "
            "write one such as val/accuracy_top1"
        )


def _list(case: RuleContext) -> Iterator[str]:
    listed, name = case.get("points", list), case.get("strategy.name", str)
    if name == "list" and not listed:
        yield "sweep.strategy.name=list has no points; list sets of overrides in `points`, such as [[optimizer.lr=0.1]]"
    if name == "list" and case.space:
        yield (
            f"sweep.strategy.name=list takes its points from `points`, and the space has {', '.join(keys(case.space))}; "
            "take that away, or write `sweep.strategy=grid` and leave `points` out"
        )
    if name != "list" and listed:
        yield f"`points` lists sets of overrides, which sweep.strategy.name={name} does not take; write `sweep.strategy=list`"


def _space(case: RuleContext) -> Iterator[str]:
    name, seeds = case.get("strategy.name", str), case.get("num_seeds", int)
    if name != "list" and not case.space and not (name == "grid" and (seeds > 1 or case.may_be_single)):
        yield "the space is empty; say what varies, such as optimizer.lr=0.01,0.1"


def _points(case: RuleContext) -> Iterator[str]:
    name = case.get("strategy.name", str)
    if name in ("random", *ADAPTIVE) and case.get("budget.max_points", int, type(None)) is None:
        yield f"sweep.strategy.name={name} never ends by itself; write `sweep.budget.max_points=30` or the like"


def _grid(case: RuleContext) -> Iterator[str]:
    if case.get("strategy.name", str) == "grid":
        yield from endless(case.space)


def _many(case: RuleContext) -> Iterator[str]:
    name, points = case.get("strategy.name", str), case.get("budget.max_points", int, type(None))
    count = size(case.space) if name == "grid" else points
    if name in ADAPTIVE or count is None:
        return
    count = min(count, points or count) * case.get("num_seeds", int)
    if count > MOST_TRIALS:
        yield (
            f"sweep.strategy.name={name} asks for {count:,} trials at once, and {MOST_TRIALS:,} are the most; "
            "write `sweep.strategy=random sweep.budget.max_points=100`, or fewer values"
        )


def _modelled(case: RuleContext) -> Iterator[str]:
    name = case.get("strategy.name", str)
    if name not in ("cmaes", "gp"):
        return
    if is_conditional(case.space):
        yield (
            f"sweep.strategy.name={name} takes keys that every point has, and some come with an option; "
            "write `sweep.strategy=tpe`"
        )
    if name == "cmaes":
        chosen = [key for key, part in case.space.items() if isinstance(part, Choice)]
        if chosen:
            yield (
                f"sweep.strategy.name=cmaes takes numbers between two ends, and not a choice ({', '.join(chosen)}); "
                "write `sweep.strategy=tpe`, or an interval or a range"
            )
        elif len(case.space) == 1 and isinstance(next(iter(case.space.values())), Interval):
            yield "sweep.strategy.name=cmaes goes by how keys hang together, and there is one; write `sweep.strategy=gp`"


def _base(case: RuleContext) -> Iterator[str]:
    varied = keys(case.space)
    for place, typed, key in _overrides(case, "base"):
        if key in varied:
            yield f"{key} stands in base ({typed}{place}) and in the space; take one of them away"


def _overrides(case: RuleContext, name: str) -> Iterator[tuple[str, str, str]]:
    """Place, text and key of the overrides that stand in a list of the spec, of those that are well formed."""
    for place, typed in _listed(case, name):
        try:
            key, value = read_override(typed)
        except InputError:
            continue
        if not isinstance(value, SweepValues):
            yield place, typed, key


def _listed(case: RuleContext, name: str) -> Iterator[tuple[str, str]]:
    for index, item in enumerate(case.get(name, list)):
        for depth, typed in enumerate(item) if isinstance(item, list) else [(None, item)]:
            inner = "" if depth is None else f"[{depth}]"
            if isinstance(typed, str):
                yield case.origins.place(f"sweep.{name}[{index}]{inner}"), typed


def _well_formed(case: RuleContext) -> Iterator[str]:
    for name in ("base", "points"):
        for place, typed in _listed(case, name):
            if typed.startswith("~") and name == "base":
                continue
            try:
                key, value = read_override(typed)
            except InputError as err:
                yield f"{name}{place}: {err.problems[0]}"
                continue
            if isinstance(value, SweepValues):
                yield f"{name}{place}: {typed} gives several values; put them into the space"
            elif typed.startswith("~"):
                yield f"{name}{place}: {typed} takes a key away, and a point gives keys values; write one"
            elif key == "sweep" or key.startswith("sweep."):
                yield f"{name}{place}: {typed} is of the spec, not of its experiment; write it as a key of its own"


def _shared(case: RuleContext) -> Iterator[str]:
    for key in dict.fromkeys([*keys(case.space), *(key for _, _, key in _overrides(case, "points"))]):
        root = re.split(r"[./]", key)[0]
        if root in SHARED:
            yield f"{key} varies, and all trials of a sweep share it; give it one value"
        if root in NAMES:
            yield f"{key} varies, and does not change what a trial does; give it one value"


def _seeds(case: RuleContext) -> Iterator[str]:
    if "seed" in keys(case.space) and case.get("num_seeds", int) > 1:
        yield f"seed is in the space, and {case.typed('num_seeds')} varies it too; take one of them away"


RULES: tuple[Callable[[RuleContext], Iterator[str]], ...] = (
    _name, _positive, _factor, _seed, _metric, _list, _space, _points, _grid, _many, _modelled,
    _well_formed, _base, _shared, _seeds,
)  # fmt: skip
