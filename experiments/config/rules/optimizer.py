"""The rules of the optimizer's further keys: groups of parameters, and phases of the task. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.config.rules.base import ConfigView

NOT_ARGUMENTS = ("groups", "phases", "schedule")
"""Keys of an optimizer that its class does not get."""


def merge_phase(node: Mapping[str, Any], phase: Mapping[str, Any]) -> dict[str, Any]:
    """The optimizer of a phase: its own if it names a class, else the common one with its values."""
    common = {} if "_target_" in phase else {name: value for name, value in node.items() if name != "phases"}
    return {**common, "_partial_": True, **phase}


def _groups(view: ConfigView) -> list[str]:
    return _find_group_problems(view.get("optimizer", dict), "optimizer") + [
        problem
        for name, phase in _phases(view.get("optimizer", dict)).items()
        for problem in _find_group_problems(phase, f"optimizer.phases.{name}")
    ]


def _find_group_problems(node: dict[str, Any], key: str) -> list[str]:
    groups = node.get("groups")
    example = 'write `groups: [{match: ["*.bias"], weight_decay: 0}]`'
    if groups is None:
        return []
    if not isinstance(groups, list):
        return [f"{key}.groups={groups!r} is not a list; {example}"]
    problems = []
    for number, group in enumerate(groups):
        match = group.get("match") if isinstance(group, dict) else None
        if not isinstance(match, list) or not match or not all(isinstance(pattern, str) for pattern in match):
            problems.append(f"{key}.groups[{number}]={group!r} has no list of patterns under `match`; {example}")
        elif len(group) == 1:
            problems.append(f"{key}.groups[{number}]={group!r} changes no value of the optimizer; {example}")
    return problems


def _phases(node: dict[str, Any]) -> dict[str, dict[str, Any]]:
    phases = node.get("phases")
    return (
        {name: phase for name, phase in phases.items() if isinstance(phase, dict)} if isinstance(phases, dict) else {}
    )


def _phase_maps(view: ConfigView) -> list[str]:
    phases = view.get("optimizer", dict).get("phases")
    example = "write `phases: {critic: {lr: 0.0004}}`"
    if phases is not None and not isinstance(phases, dict):
        return [f"optimizer.phases={phases!r} is not a map; {example}"]
    return [
        f"optimizer.phases.{name}={phase!r} is not a map; {example}"
        for name, phase in (phases or {}).items()
        if not isinstance(phase, dict)
    ] + [
        f"optimizer.phases.{name}.phases: a phase has no phases of its own; write them below optimizer.phases"
        for name, phase in (phases or {}).items()
        if isinstance(phase, dict) and "phases" in phase
    ]


def _schedule(view: ConfigView) -> str | None:
    schedule = view.get("optimizer", dict).get("schedule")
    if schedule is None:
        return None
    return (
        f"optimizer.schedule={schedule!r} is a second schedule of the whole training; set schedule=..., or "
        "optimizer.phases.NAME.schedule for one phase"
    )


RULES = (_groups, _phase_maps, _schedule)
