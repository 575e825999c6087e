"""The rules of asynchronous and hybrid replicas with parameter servers."""

from __future__ import annotations

import math
from collections.abc import Callable

from experiments.config.rules.base import ConfigView
from experiments.config.rules.topology import divisors, resolve_topology
from modules.parallel.topology import Meaning


def _only_with_servers(
    rule: Callable[[ConfigView], str | list[str] | None],
) -> Callable[[ConfigView], str | list[str] | None]:
    """A rule that applies only with parameter servers."""

    def judge(view: ConfigView) -> str | list[str] | None:
        return rule(view) if view.engine.has("num_servers") else None

    return judge


def _groups(view: ConfigView) -> str | None:
    size, replicas, key = view.setting_integer("group_size"), resolve_topology(view).data, view.engine.key
    if replicas % size == 0:
        return None
    rule = f"does not divide the {replicas} replicas ({key('data')})"
    return f"{key('group_size')}={size} {rule}; try {divisors(replicas, size)}"


def _backup(view: ConfigView) -> list[str]:
    backup, replicas = view.setting_integer("num_backup_workers"), resolve_topology(view).data
    key, num_backup = view.engine.key, view.engine.key("num_backup_workers")
    setting, problems = f"{num_backup}={backup}", list[str]()
    if backup >= replicas:
        hint = f"lower it to {replicas - 1}" if replicas > 1 else f"set hardware.devices_per_node=2, or {num_backup}=0"
        problems.append(
            f"{setting} of {replicas} replicas ({key('data')}) leaves no replica whose gradients count; {hint}"
        )
    if backup and view.setting_integer("group_size") > 1:
        problems.append(
            f"{setting} works only where each replica pushes its own gradients; set {key('group_size')}=1, or {num_backup}=0"
        )
    if backup and not _is_synchronous(view):
        problems.append(f"{setting} needs synchronous replicas; set {key('max_staleness')}=0, or {num_backup}=0")
    return problems


def _is_synchronous(view: ConfigView) -> bool:
    return bool(view.setting("max_staleness", int, type(None)) == 0)


def _correction(view: ConfigView) -> str | None:
    kind, key = view.setting("correction", str), view.engine.key("correction")
    if kind != "none" and _is_synchronous(view):
        rule = f"corrects stale gradients, but {view.engine.key('max_staleness')}=0 allows none"
        return f"{key}={kind} {rule}; set {key}=none"
    return None


def _warm_start(view: ConfigView) -> str | None:
    warm, max_steps = view.setting_integer("warm_start_steps"), view.integer_or_none("max_steps")
    if max_steps is None or warm < max_steps:
        return None
    setting = f"{view.engine.key('warm_start_steps')}={warm}"
    return f"{setting} leaves no step of max_steps={max_steps} for the other replicas; lower it"


def _delays(view: ConfigView) -> list[str]:
    replicas, delays, key = resolve_topology(view).data, view.setting("delays_s", dict), view.engine.key("delays_s")
    unknown = [
        f"{key} names replica {number}, but there are only replicas 0 to {replicas - 1}; name one of these"
        for number in delays
        if not str(number).isdecimal() or int(number) >= replicas
    ]
    wrong = [
        f"{key}.{number}={delay} is not a number of seconds of at least 0; write for example 0.05"
        for number, delay in delays.items()
        if isinstance(delay, (int, float)) and not 0 <= delay < math.inf
    ]
    return unknown + wrong


def _every(view: ConfigView) -> list[str]:
    if not _is_synchronous(view):
        return []
    meanings: tuple[Meaning, ...] = ("push_every_steps", "pull_every_steps")
    key = view.engine.key
    return [
        f"{key(name)}={view.setting(name, int)}: synchronous replicas ({key('max_staleness')}=0) exchange "
        f"every gradient; set {key(name)}=1"
        for name in meanings
        if view.setting(name, int) > 1
    ]


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
        (_groups, _backup, _correction, _warm_start, _delays, _every, _fp16, _workers, _profile),
    )
)
