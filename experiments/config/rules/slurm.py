"""The rules of the options for SLURM. Imports no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Any

from experiments.config.rules.base import ConfigView, NotApplicable
from experiments.core.secrets import REFERENCE

SLURM = "launchers.slurm.Slurm"
TIME = re.compile(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)")
MAX_SIGNAL_DELAY_S = 65535
"""SLURM's own limit."""
MARGIN_S = 120
"""SLURM may signal a minute early, and a worker starts no trial in the half minute before that."""
POSITIVE = (
    "hardware.slurm.cpus_per_device", "hardware.slurm.mem_gb_per_device", "hardware.slurm.signal_delay_s", "launcher.workers",
    "launcher.devices_per_trial", "launcher.trials_per_device",
)  # fmt: skip
OWN_OPTIONS = {
    "account": "hardware.slurm.account", "array": "launcher.workers", "constraint": "hardware.slurm.constraint",
    "cpus-per-gpu": "hardware.slurm.cpus_per_device", "cpus-per-task": "hardware.slurm.cpus_per_device",
    "export": "launcher.environment", "gpus": "hardware.slurm.gpu_type", "gpus-per-node": "hardware.slurm.gpu_type",
    "gpus-per-task": "hardware.slurm.gpu_type", "gres": "hardware.slurm.gres", "job-name": "sweep.name",
    "mem": "hardware.slurm.mem_gb_per_device", "mem-per-cpu": "hardware.slurm.mem_gb_per_device",
    "mem-per-gpu": "hardware.slurm.mem_gb_per_device", "nodes": "hardware.nodes", "ntasks": "hardware.devices_per_node",
    "ntasks-per-node": "hardware.devices_per_node", "partition": "hardware.slurm.partition", "qos": "hardware.slurm.qos",
    "signal": "hardware.slurm.signal_delay_s", "time": "hardware.slurm.time",
}  # fmt: skip
"""Options of sbatch, with the key that sets each."""
FIXED_OPTIONS = ("error", "open-mode", "output", "requeue", "no-requeue", "wrap")
"""Options that Lathe sets itself, to find logs and to requeue workers."""
ALWAYS_PASSED_ON = ("HOME", "LOGNAME", "PATH", "SHELL", "TZ", "USER")
NOT_FOR_WORKERS = ("name", "description", "tags", "hardware", "launcher", "tracking")


def seconds(time: str) -> int | None:
    """Length of a time limit; None if it is not in one of the two accepted forms."""
    match = TIME.fullmatch(time)
    if match is None:
        return None
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def max_device_h(workers: int, nodes: int, devices_per_node: int, time: str) -> float:
    """Maximum device-hours of a submission whose workers are not requeued."""
    limit_s = seconds(time)
    assert limit_s is not None, time
    return workers * nodes * devices_per_node * limit_s / 3600


def find_problems(config: dict[str, Any]) -> list[str]:
    """The problems of how workers share their hardware."""
    problems: list[str] = []
    for rule in RULES:
        try:
            result = rule(ConfigView(config, ()))
        except NotApplicable:
            continue
        problems += [result] if isinstance(result, str) else result or []
    return problems


def _positive(view: ConfigView) -> list[str]:
    problems = []
    for key in POSITIVE:
        try:
            value = view.get(key, int, float)
        except NotApplicable:  # null, or reported already
            continue
        if not value > 0:
            problems.append(f"{key}={value} is not more than 0; write a larger number")
    return problems


def _needs_a_site(view: ConfigView) -> str | None:
    if view.get("launcher._target_", str) != SLURM or view.get("hardware.slurm", dict, type(None)) is not None:
        return None
    return (
        "launcher=slurm needs hardware.slurm, which is null; use a hardware option that sets it, such as "
        "hardware=cpu_partition, or describe your cluster as docs/slurm.md shows"
    )


def _time(view: ConfigView) -> str | None:
    time = view.get("hardware.slurm.time", str)
    if seconds(time):
        return None
    why = "means no limit" if seconds(time) == 0 else "is not a time limit"
    return f"hardware.slurm.time={time} {why}; write hours:minutes:seconds or days-hours:minutes:seconds, such as '04:00:00'"


def _signal_delay(view: ConfigView) -> str | None:
    delay_s, time = view.get("hardware.slurm.signal_delay_s", int), view.get("hardware.slurm.time", str)
    limit_s = seconds(time)
    if delay_s > MAX_SIGNAL_DELAY_S:
        return f"hardware.slurm.signal_delay_s={delay_s} is more than {MAX_SIGNAL_DELAY_S}, SLURM's maximum; lower it"
    if delay_s <= 0 or not limit_s or limit_s >= delay_s + MARGIN_S:
        return None
    return (
        f"hardware.slurm.signal_delay_s={delay_s} leaves no time for a trial in time={time}: a worker needs at least "
        f"signal_delay_s + {MARGIN_S} s, because SLURM may signal a minute early; lower the first or raise the second"
    )


def _cores(view: ConfigView) -> str | None:
    """Each thread of the trials on a device needs its own core."""
    cores = view.get("hardware.slurm.cpus_per_device", int)
    side_by_side = view.get("launcher", dict).get("trials_per_device", 1)
    if type(side_by_side) is not int or side_by_side < 1 or cores < 1:
        return None
    threads = view.integer_or_none("hardware.cpu_threads") or 1
    if cores >= threads * side_by_side:
        return None
    needed = f"cpu_threads={threads}"
    if side_by_side > 1:
        needed = f"{needed} x launcher.trials_per_device={side_by_side}"
    hint = f"write {threads * side_by_side}, or lower the second"
    return f"hardware.slurm.cpus_per_device={cores} is less than {needed}; {hint}"


def _gres(view: ConfigView) -> str | None:
    gres = view.get("hardware.slurm.gres", str)
    gpu_type = view.get("hardware.slurm.gpu_type", str, type(None))
    if gpu_type is not None:
        return f"hardware.slurm.gres={gres} and gpu_type={gpu_type} both choose the GPUs; set one of them to null"
    devices = view.integer("hardware.devices_per_node")
    if view.get("hardware.device", str) == "cpu":
        return None
    counts = [re.fullmatch(r"(gpu(?::(?!\d+$)[^:]+)?)(?::(\d+))?", part) for part in gres.split(",")]
    gpu_counts = [(match.group(1), int(match.group(2) or 1)) for match in counts if match is not None]
    num_gpus = sum(count for _, count in gpu_counts)
    if num_gpus >= devices:
        return None
    kind = gpu_counts[0][0] if len(gpu_counts) == 1 else "gpu"
    return (
        f"hardware.slurm.gres={gres} requests {num_gpus} GPUs per node, fewer than hardware.devices_per_node={devices}; "
        f"write {kind}:{devices}, or lower hardware.devices_per_node"
    )


def _parts_of_a_node(view: ConfigView) -> str | None:
    part, devices = view.get("launcher.devices_per_trial", int), view.integer("hardware.devices_per_node")
    if part < 1 or devices % part == 0:
        return None
    fitting = [str(count) for count in range(1, min(devices, 64) + 1) if devices % count == 0]
    return (
        f"launcher.devices_per_trial={part} does not divide hardware.devices_per_node={devices}, so some devices would be "
        f"idle; try {', '.join(fitting)}"
    )


def _parts_of_nodes(view: ConfigView) -> str | None:
    part, nodes = view.get("launcher.devices_per_trial", int), view.integer("hardware.nodes")
    if nodes == 1:
        return None
    return (
        f"launcher.devices_per_trial={part} works only within one node, but hardware.nodes={nodes}; set hardware.nodes=1, "
        "or launcher.devices_per_trial=null for trials that use all nodes"
    )


def _options(view: ConfigView) -> list[str]:
    problems = []
    for name in view.get("hardware.slurm.sbatch", dict):
        key = f"hardware.slurm.sbatch.{name}"
        plain = str(name).lstrip("-").replace("_", "-")
        if plain in OWN_OPTIONS:
            problems.append(f"{key} follows from {OWN_OPTIONS[plain]}; set that key, and remove this one")
        elif plain in FIXED_OPTIONS:
            problems.append(f"{key} is set by Lathe, which needs it to find logs and to requeue workers; remove it")
        elif str(name).startswith("-") or len(plain) == 1:
            problems.append(
                f"{key} is not the long name of an sbatch option without dashes; write for example 'mail-user'"
            )
    return problems


def _environment(view: ConfigView) -> str | None:
    """Environment variables that a trial refers to and that its worker does not get."""
    if view.get("launcher._target_", str) != SLURM:
        return None
    passed = view.get("launcher.environment", list)
    missing: dict[str, str] = {}
    for key, name in _references({k: v for k, v in view.config.items() if k not in NOT_FOR_WORKERS}):
        if name not in ALWAYS_PASSED_ON and name not in passed and not name.startswith("LATHE_"):
            missing.setdefault(name, key)
    if not missing:
        return None
    needed = " and ".join(f"{name}, which {key} needs" for name, key in missing.items())
    shown = ",".join([*map(str, passed), *missing])
    return f"launcher.environment=[{','.join(map(str, passed))}] does not pass on {needed}; write launcher.environment=[{shown}]"


def _references(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Key and name of every environment variable that has no default or is set on this machine."""
    if isinstance(node, dict):
        for name, inner in node.items():
            yield from _references(inner, f"{key}.{name}".lstrip("."))
    elif isinstance(node, list):
        for index, inner in enumerate(node):
            yield from _references(inner, f"{key}[{index}]")
    elif isinstance(node, str):
        for name, default in REFERENCE.findall(node):
            if not default or name in os.environ:
                yield key, name


RULES: tuple[Callable[[ConfigView], str | list[str] | None], ...] = (
    _needs_a_site, _positive, _time, _signal_delay, _cores, _gres, _parts_of_a_node, _parts_of_nodes, _options, _environment,
)  # fmt: skip
