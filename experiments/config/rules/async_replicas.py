"""The rules of asynchronous and hybrid replicas with parameter servers."""

from __future__ import annotations

import math
from collections.abc import Callable

from experiments.config.rules.base import ConfigView
from experiments.config.rules.topology import NOT_ELEMENTWISE, divisors, has_servers, resolve_topology


def _only_with_servers(
    rule: Callable[[ConfigView], str | list[str] | None],
) -> Callable[[ConfigView], str | list[str] | None]:
    """A rule that applies only with parameter servers."""

    def judge(view: ConfigView) -> str | list[str] | None:
        return rule(view) if has_servers(view) else None

    return judge


def _groups(view: ConfigView) -> str | None:
    size, replicas = view.integer("parallel.group_size"), resolve_topology(view).data
    if replicas % size == 0:
        return None
    return f"parallel.group_size={size} does not divide the {replicas} replicas (parallel.data); try {divisors(replicas, size)}"


def _backup(view: ConfigView) -> list[str]:
    backup, replicas = view.integer("parallel.num_backup_workers"), resolve_topology(view).data
    setting, problems = f"parallel.num_backup_workers={backup}", list[str]()
    if backup >= replicas:
        hint = (
            f"lower it to {replicas - 1}"
            if replicas > 1
            else "set hardware.devices_per_node=2, or parallel.num_backup_workers=0"
        )
        problems.append(
            f"{setting} of {replicas} replicas (parallel.data) leaves no replica whose gradients count; {hint}"
        )
    if backup and view.integer("parallel.group_size") > 1:
        problems.append(
            f"{setting} works only where each replica pushes its own gradients; set parallel.group_size=1, "
            "or parallel.num_backup_workers=0"
        )
    if backup and view.get("parallel.max_staleness", int, type(None)) != 0:
        problems.append(
            f"{setting} needs synchronous replicas; set parallel.max_staleness=0, or parallel.num_backup_workers=0"
        )
    return problems


def _correction(view: ConfigView) -> str | None:
    kind = view.get("parallel.correction", str)
    if kind != "none" and view.get("parallel.max_staleness", int, type(None)) == 0:
        rule = "corrects stale gradients, but parallel.max_staleness=0 allows none"
        return f"parallel.correction={kind} {rule}; set parallel.correction=none"
    return None


def _warm_start(view: ConfigView) -> str | None:
    warm, max_steps = view.integer("parallel.warm_start_steps"), view.integer_or_none("max_steps")
    if max_steps is None or warm < max_steps:
        return None
    return f"parallel.warm_start_steps={warm} leaves no step of max_steps={max_steps} for the other replicas; lower it"


def _delays(view: ConfigView) -> list[str]:
    replicas, delays = resolve_topology(view).data, view.get("parallel.delays_s", dict)
    unknown = [
        f"parallel.delays_s names replica {number}, but there are only replicas 0 to {replicas - 1}; name one of these"
        for number in delays
        if not str(number).isdecimal() or int(number) >= replicas
    ]
    wrong = [
        f"parallel.delays_s.{number}={delay} is not a number of seconds of at least 0; write for example 0.05"
        for number, delay in delays.items()
        if isinstance(delay, (int, float)) and not 0 <= delay < math.inf
    ]
    return unknown + wrong


def _every(view: ConfigView) -> list[str]:
    if view.get("parallel.max_staleness", int, type(None)) != 0:
        return []
    return [
        f"parallel.{name}={view.get(f'parallel.{name}', int)}: synchronous replicas (parallel.max_staleness=0) exchange "
        f"every gradient; set parallel.{name}=1"
        for name in ("push_every_steps", "pull_every_steps")
        if view.get(f"parallel.{name}", int) > 1
    ]


def _optimizer(view: ConfigView) -> str | None:
    """Several servers split weights at any position, so the optimizer has to be elementwise."""
    servers, target = view.integer("parallel.num_servers"), view.get("optimizer._target_", str)
    if servers == 1 or target not in NOT_ELEMENTWISE:
        return None
    rule = f"gives another result on slices of a weight than on the whole, and parallel.num_servers={servers} gives it slices"
    return (
        f"optimizer._target_={target} {rule}; set parallel.num_servers=1, or use an elementwise optimizer such as Adam"
    )


def _fp16(view: ConfigView) -> str | None:
    if view.get("precision", str) != "fp16":
        return None
    return "precision=fp16 needs one loss scale for all replicas, which they do not share; use precision=bf16, which needs none"


def _workers(view: ConfigView) -> str | None:
    workers = view.integer("num_data_workers")
    if not workers:
        return None
    rule = "a replica learns its next batch only when it requests work, so it reads the batch itself"
    return f"num_data_workers={workers}: {rule}; set num_data_workers=0"


def _profile(view: ConfigView) -> str | None:
    if view.get("profile", bool) is not True:
        return None
    return (
        "profile=true needs ranks that take every step together; set profile=false, "
        "and read the metrics async/compute_ms_mean and its neighbours"
    )


RULES = tuple(
    map(
        _only_with_servers,
        (_groups, _backup, _correction, _warm_start, _delays, _every, _optimizer, _fp16, _workers, _profile),
    )
)
