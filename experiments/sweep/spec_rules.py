"""Rules between the keys of a sweep spec; all violations are reported together."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.config.overrides import read_override
from experiments.config.rules.base import ConfigView, NotApplicable
from experiments.config.source_map import SourceMap
from experiments.config.sweep_values import SweepValues
from experiments.core.errors import InputError, did_you_mean
from experiments.sweep.space import (
    Choice,
    Interval,
    Space,
    count_points,
    find_overlaps,
    find_unbounded,
    is_conditional,
    list_keys,
)
from experiments.sweep.strategies.make_strategy import is_adaptive

SHARED = ("launcher", "tracking", "hardware", "runs_dir", "data_root", "resume")
"""Keys that all trials of a sweep share, because workers and run folders depend on them."""
NAMES = ("name", "description", "tags")
"""Keys that describe a trial without changing what it computes."""
SINGLE = "single"
"""The folder of runs outside sweeps (`experiments.trial.trial.freeze`)."""
POSITIVE = (
    "num_seeds", "max_attempts", "strategy.startup_points", "pruner.first_step",
    "budget.max_points", "budget.wall_h", "budget.device_h",
)  # fmt: skip
LARGEST_SEED = 2**32 - 1
MAX_TRIALS = 50_000


@dataclass(frozen=True)
class RuleContext:
    """A spec to check."""

    view: ConfigView
    space: Space
    groups: Sequence[str]
    source_map: SourceMap
    may_be_single: bool

    def get(self, key: str, *kinds: type) -> Any:
        return self.view.get(key, *kinds)

    def format_key(self, key: str) -> str:
        """A key of the spec and its value, as written."""
        return self.source_map.as_written(f"sweep.{key}", self.view.get(key, int, float, str, list, dict, type(None)))


def find_problems(context: RuleContext) -> list[str]:
    """The message of each violated rule."""
    problems: list[str] = find_overlaps(context.space, context.groups)
    for rule in RULES:
        try:
            problems += rule(context)
        except NotApplicable:  # a value that it needs is invalid, which is reported already
            continue
    return problems


def remove_old_keys(values: dict[str, Any], source_map: SourceMap) -> list[str]:
    """Remove keys that no longer exist; the message of each."""
    strategy = values.get("strategy")
    if not isinstance(strategy, dict) or "storage" not in strategy:
        return []
    del strategy["storage"]
    location = source_map.location("sweep.strategy.storage")
    return [f"sweep.strategy.storage{location} no longer exists, because the ledger holds the study; remove the key"]


def _positive(context: RuleContext) -> Iterator[str]:
    for key in POSITIVE:
        try:
            value = context.get(key, int, float)
        except NotApplicable:
            continue
        if not value > 0:
            yield f"{context.format_key(key)} is not more than 0; write a larger number"


def _factor(context: RuleContext) -> Iterator[str]:
    if context.get("pruner.factor", int) < 2:
        yield f"{context.format_key('pruner.factor')} prunes no trial; write 2 or more"


def _seed(context: RuleContext) -> Iterator[str]:
    if not 0 <= context.get("strategy.seed", int) <= LARGEST_SEED:
        yield f"{context.format_key('strategy.seed')} is not between 0 and {LARGEST_SEED}; write a number in this range"


def _name(context: RuleContext) -> Iterator[str]:
    if not re.fullmatch(r"\w[\w.-]*", context.get("name", str)):
        yield f"{context.format_key('name')} is not a valid folder name; use letters, digits, '_', '-' and '.'"
    if context.get("name", str) == SINGLE:
        yield f"{context.format_key('name')} is the folder of runs that belong to no sweep; choose another name"


def _metric(context: RuleContext) -> Iterator[str]:
    if not context.get("metric", str).startswith("val/"):
        yield (
            f"{context.format_key('metric')} is not a metric of the validation split, and trials are selected by these only; "
            "write one such as val/accuracy_top1"
        )


def _list(context: RuleContext) -> Iterator[str]:
    listed, name = context.get("points", list), context.get("strategy.name", str)
    if name == "list" and not listed:
        yield "sweep.strategy.name=list has no points; list the overrides of each point in `points`, such as [[optimizer.lr=0.1]]"
    if name == "list" and context.space:
        yield (
            f"sweep.strategy.name=list takes its points from `points`, but the space has {', '.join(list_keys(context.space))}; "
            "remove these keys, or write `sweep.strategy=grid` and remove `points`"
        )
    if name != "list" and listed:
        yield f"`points` lists overrides, but sweep.strategy.name={name} does not use them; write `sweep.strategy=list`"


def _space(context: RuleContext) -> Iterator[str]:
    name, seeds = context.get("strategy.name", str), context.get("num_seeds", int)
    if name != "list" and not context.space and not (name == "grid" and (seeds > 1 or context.may_be_single)):
        yield "the space is empty; vary a key, such as optimizer.lr=0.01,0.1"


def _points(context: RuleContext) -> Iterator[str]:
    name = context.get("strategy.name", str)
    if (name == "random" or is_adaptive(context.get("strategy", dict))) and context.get(
        "budget.max_points", int, type(None)
    ) is None:
        yield f"sweep.strategy.name={name} has no end; set a budget, such as `sweep.budget.max_points=30`"


def _grid(context: RuleContext) -> Iterator[str]:
    if context.get("strategy.name", str) == "grid":
        yield from find_unbounded(context.space)


def _many(context: RuleContext) -> Iterator[str]:
    name, points = context.get("strategy.name", str), context.get("budget.max_points", int, type(None))
    averaged = {key: context.space[key] for key in _list_averaged(context) if key in context.space}
    space = {key: dimension for key, dimension in context.space.items() if key not in averaged}
    count = count_points(space) if name == "grid" else points
    if is_adaptive(context.get("strategy", dict)) or count is None:
        return
    count = min(count, points or count) * (count_points(averaged) or 1) * context.get("num_seeds", int)
    if count > MAX_TRIALS:
        yield (
            f"sweep.strategy.name={name} asks for {count:,} trials at once, but {MAX_TRIALS:,} is the maximum; "
            "write `sweep.strategy=random sweep.budget.max_points=100`, or fewer values"
        )


def _modelled(context: RuleContext) -> Iterator[str]:
    name = context.get("strategy.name", str)
    if name not in ("cmaes", "gp"):
        return
    if is_conditional(context.space):
        yield (
            f"sweep.strategy.name={name} needs keys that all points have, but some keys belong to one option; "
            "write `sweep.strategy=tpe`"
        )
    if name == "cmaes":
        chosen = [key for key, dimension in context.space.items() if isinstance(dimension, Choice)]
        if chosen:
            yield (
                f"sweep.strategy.name=cmaes needs numeric intervals, not a choice ({', '.join(chosen)}); "
                "write `sweep.strategy=tpe`, or an interval or a range"
            )
        elif len(context.space) == 1 and isinstance(next(iter(context.space.values())), Interval):
            yield "sweep.strategy.name=cmaes needs at least two keys; write `sweep.strategy=gp`"


def _base(context: RuleContext) -> Iterator[str]:
    varied = list_keys(context.space)
    for location, text, key in _overrides(context, "base"):
        if key in varied:
            yield f"{key} is in base ({text}{location}) and in the space; remove one"


def _overrides(context: RuleContext, name: str) -> Iterator[tuple[str, str, str]]:
    """Location, text and key of the valid overrides in a list of the spec."""
    for location, text in _list_texts(context, name):
        try:
            key, value = read_override(text)
        except InputError:
            continue
        if not isinstance(value, SweepValues):
            yield location, text, key


def _list_texts(context: RuleContext, name: str) -> Iterator[tuple[str, str]]:
    """Location and text of the items in a list of the spec."""
    for index, item in enumerate(context.get(name, list)):
        for depth, text in enumerate(item) if isinstance(item, list) else [(None, item)]:
            inner = "" if depth is None else f"[{depth}]"
            if isinstance(text, str):
                yield context.source_map.location(f"sweep.{name}[{index}]{inner}"), text


def _well_formed(context: RuleContext) -> Iterator[str]:
    for name in ("base", "points"):
        for location, text in _list_texts(context, name):
            if text.startswith("~") and name == "base":
                continue
            try:
                key, value = read_override(text)
            except InputError as err:
                yield f"{name}{location}: {err.problems[0]}"
                continue
            shown = f"{name}{location}: {text}"
            if isinstance(value, SweepValues):
                yield f"{shown} has several values; move them to the space"
            elif text.startswith("~"):
                yield f"{shown} removes a key, but a point sets values; write KEY=VALUE"
            elif key == "sweep" or key.startswith("sweep."):
                yield f"{shown} is a key of the spec, not of the configuration; write it as a key of the sweep file"


def _shared(context: RuleContext) -> Iterator[str]:
    for key in dict.fromkeys([*list_keys(context.space), *(key for _, _, key in _overrides(context, "points"))]):
        root = re.split(r"[./]", key)[0]
        if root in SHARED:
            yield f"{key} varies, but all trials of a sweep share it; set one value"
        if root in NAMES:
            yield f"{key} varies, but does not change what a trial computes; set one value"


def _average_over(context: RuleContext) -> Iterator[str]:
    shown = context.format_key("average_over")
    if context.get("strategy.name", str) == "list" and context.get("average_over", list):
        yield f"{shown} needs a space, but strategy=list has only points; write `sweep.strategy=grid` and a space"
        return
    for key in _list_averaged(context):
        dimension = context.space.get(key)
        if dimension is None:
            hint = f"list its values in the space, such as `{key}=0,1,2`, or {did_you_mean(key, context.space)}"
            yield f"{shown}: {key} does not vary; {hint}"
        elif not isinstance(dimension, Choice):
            yield f"{shown}: {key} is an interval, but a mean needs the same values in all points; list them"
        elif any(dimension.inside.values()):
            yield f"{shown}: {key} has keys of its own for each option, which would be different points; leave {key} out"


def _list_averaged(context: RuleContext) -> list[str]:
    """The keys of `average_over`; what is no text there is reported already."""
    return list(dict.fromkeys(key for key in context.get("average_over", list) if isinstance(key, str)))


def _seeds(context: RuleContext) -> Iterator[str]:
    if "seed" in list_keys(context.space) and context.get("num_seeds", int) > 1:
        yield f"seed is in the space, and {context.format_key('num_seeds')} varies it too; remove one"


RULES: tuple[Callable[[RuleContext], Iterator[str]], ...] = (
    _name, _positive, _factor, _seed, _metric, _list, _space, _points, _grid, _many, _modelled,
    _well_formed, _base, _shared, _seeds, _average_over,
)  # fmt: skip
