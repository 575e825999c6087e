"""What replicas that run apart, and the servers between them, can do together: the rules of `parallel=async` and its kin."""

from __future__ import annotations

import math
from collections.abc import Callable

from experiments.config.rules.base import ConfigView
from experiments.config.rules.topology import ELEMENTWISE, divisors, has_servers, resolve_topology


def _only_with_servers(
    rule: Callable[[ConfigView], str | list[str] | None],
) -> Callable[[ConfigView], str | list[str] | None]:
    """A rule that is asked only where there are parameter servers."""

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
        problems.append(f"{setting} of {replicas} replicas (parallel.data) leaves none whose gradient counts; {hint}")
    if backup and view.integer("parallel.group_size") > 1:
        problems.append(
            f"{setting} works only where each replica pushes its own gradients; set parallel.group_size=1, "
            "or parallel.num_backup_workers=0"
        )
    if backup and view.get("parallel.max_staleness", int, type(None)) != 0:
        problems.append(
            f"{setting}: backups are of synchronous replicas; set parallel.max_staleness=0, or parallel.num_backup_workers=0"
        )
    return problems


def _correction(view: ConfigView) -> str | None:
    kind = view.get("parallel.correction", str)
    if kind != "none" and view.get("parallel.max_staleness", int, type(None)) == 0:
        rule = "corrects what is stale, and with parallel.max_staleness=0 nothing is"
        return f"parallel.correction={kind} {rule}; set parallel.correction=none"
    return None


def _warm_start(view: ConfigView) -> str | None:
    warm, max_steps = view.integer("parallel.warm_start_steps"), view.integer_or_none("max_steps")
    if max_steps is None or warm < max_steps:
        return None
    return f"parallel.warm_start_steps={warm} leaves the other replicas none of max_steps={max_steps}; lower it"


def _delays(view: ConfigView) -> list[str]:
    replicas, delays = resolve_topology(view).data, view.get("parallel.delays_s", dict)
    strangers = [
        f"parallel.delays_s names replica {number}, but there are {replicas}, from 0; name one of these"
        for number in delays
        if not str(number).isdecimal() or int(number) >= replicas
    ]
    wrong = [
        f"parallel.delays_s.{number}={delay} is no number of seconds from 0 on; write such as 0.05"
        for number, delay in delays.items()
        if isinstance(delay, (int, float)) and not 0 <= delay < math.inf
    ]
    return strangers + wrong


def _every(view: ConfigView) -> list[str]:
    if view.get("parallel.max_staleness", int, type(None)) != 0:
        return []
    return [
        f"parallel.{name}={view.get(f'parallel.{name}', int)}: replicas in step (parallel.max_staleness=0) exchange with every "
        f"gradient; set parallel.{name}=1"
        for name in ("push_every_steps", "pull_every_steps")
        if view.get(f"parallel.{name}", int) > 1
    ]


def _optimizer(view: ConfigView) -> str | None:
    """Servers cut anywhere; one alone has every weight whole."""
    servers, target = view.integer("parallel.num_servers"), view.get("optimizer._target_", str)
    if servers == 1 or target.rpartition(".")[2] in ELEMENTWISE:
        return None
    rule = f"sees slices of the weights on parallel.num_servers={servers}, and is not known to treat every number alike"
    return f"optimizer._target_={target} {rule}, as {', '.join(ELEMENTWISE)} do; set parallel.num_servers=1"


def _fp16(view: ConfigView) -> str | None:
    if view.get("precision", str) != "fp16":
        return None
    return (
        "precision=fp16 scales a loss that replicas would have to agree on; take precision=bf16, which needs no scale"
    )


def _workers(view: ConfigView) -> str | None:
    workers = view.integer("num_data_workers")
    if not workers:
        return None
    rule = "which batch a replica takes is known when it asks, so it fetches itself"
    return f"num_data_workers={workers}: {rule}; set num_data_workers=0"


def _profile(view: ConfigView) -> str | None:
    if view.get("profile", bool) is not True:
        return None
    return "profile=true traces ranks that make every step together; set profile=false (async/compute_ms_mean and its like tell)"


RULES = tuple(
    map(
        _only_with_servers,
        (_groups, _backup, _correction, _warm_start, _delays, _every, _optimizer, _fp16, _workers, _profile),
    )
)
