"""What the configuration in a shared file may say: what is trained, and nothing of the place where it runs."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import Any

import yaml

from experiments.config.allowlist import is_allowed
from experiments.config.options import HOUSE
from experiments.config.source_map import SourceMap

PLACES = {"runs_dir": "LATHE_RUNS", "data_root": "LATHE_DATA", "data.root": "LATHE_DATA"}
"""The keys that point at the environment of whoever runs it, and the one variable that each may name."""
LOCAL = ("launcher", "tracking")
"""Groups of which a shared file holds the local option."""
WORDS = ("name", "note", "tags")
"""Keys that people read and nothing else."""
MOST = {"num_data_workers": 64, "hardware.devices_per_node": 64, "hardware.cpu_threads": 1024}
"""Processes and threads that a file may ask of the machine it is run on; a command line may ask for more."""
OUTSIDE = re.compile(r"[/\\~]|[A-Za-z]:[/\\]|[A-Za-z][A-Za-z0-9+.-]*://")


@lru_cache(maxsize=1)
def _root() -> dict[str, Any]:
    root: dict[str, Any] = yaml.safe_load((HOUSE / "config.yaml").read_text(encoding="utf-8"))
    return root


def _option(group: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((HOUSE / group / f"{name}.yaml").read_text(encoding="utf-8"))
    return found


def reset(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the local defaults for everything that says where it runs; its trial id stays what it was."""
    found = {**config, "runs_dir": _root()["runs_dir"], "data_root": _root()["data_root"], "resume": False}
    found |= {"launcher": _option("launcher", "local"), "tracking": _option("tracking", "sqlite")}
    if isinstance(config.get("hardware"), dict):
        found["hardware"] = {**config["hardware"], "slurm": None}
    if isinstance(config.get("data"), dict) and "root" in config["data"]:
        found["data"] = {**config["data"], "root": _root()["data_root"]}
    return found


def faults(config: Mapping[str, Any], origins: SourceMap) -> Iterator[str]:
    """Everything by which a configuration could reach further than its own run, or that no run can have."""
    yield from _reaching(config, origins)
    for key, value in leaves(config):
        typed = origins.typed(key, value)
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{typed} is no finite number; write one"
        elif isinstance(value, str) and "${" in value:
            yield from _reference(key, value, typed)
        elif isinstance(value, str) and not _is_free(key) and is_outside(value):
            way_out = "give it by an override on the command line"
            yield f"{typed} leads out of the folders that the receiver chooses; {way_out}"


def strangers(config: Mapping[str, Any], origins: SourceMap, trust: Collection[str]) -> Iterator[str]:
    """What a configuration names of code that is not on the list."""
    for key, value in leaves(config):
        if key.rpartition(".")[2] == "_target_" and not is_allowed(str(value), trust):
            package = str(value).partition(".")[0]
            way_out = f"if you trust the code of '{package}', add `--trust {package}`"
            yield f"{origins.typed(key, value)} is not on the list of code that may run; {way_out}"


def _is_free(key: str) -> bool:
    """True where a text is no path, or another rule knows it."""
    return key in PLACES or key.partition(".")[0] in (*WORDS, *LOCAL)


def _reaching(config: Mapping[str, Any], origins: SourceMap) -> Iterator[str]:
    """Keys that are the receiver's own affair."""
    local = reset(config)
    launcher, tracking, hardware = (config.get(key) for key in ("launcher", "tracking", "hardware"))
    target = launcher.get("_target_") if isinstance(launcher, dict) else launcher
    if "launcher" in config and target != local["launcher"]["_target_"]:
        yield f"{origins.typed('launcher._target_', target)} is the receiver's to choose; add `launcher=...` on the command line"
    store = tracking.get("store") if isinstance(tracking, dict) else tracking
    if store is not None:
        yield f"{origins.typed('tracking.store', store)} is the receiver's to choose; add `tracking=...` on the command line"
    if isinstance(hardware, dict) and hardware.get("slurm") is not None:
        told = f"hardware.slurm{origins.place('hardware.slurm')}"
        yield f"{told} is the receiver's to choose; add `hardware=...` on the command line"
    for key, most in MOST.items():
        number = _get(config, key)
        if isinstance(number, (int, float)) and number > most:
            yield f"{origins.typed(key, number)} is more than the {most} that a shared file may ask for; write fewer"
    if (weights := _get(config, "init_from.weights")) is not None:
        way_out = "`init_from.weights=...` on the command line names one's own"
        yield f"{origins.typed('init_from.weights', weights)}: a shared file carries no weights to begin with; {way_out}"
    if config.get("resume") not in (None, False):
        yield f"{origins.typed('resume', config['resume'])} goes on with a run of the receiver's; write resume=false"
    for key in PLACES:
        value = _get(config, key)
        if value is not None and not (isinstance(value, str) and "${" in value):
            yield f"{origins.typed(key, value)} is the receiver's to choose; give `{key}=...` on the command line"


def _reference(key: str, value: str, typed: str) -> Iterator[str]:
    if key in PLACES and value == _get(reset({"data": {"root": None}}), key):
        return
    if "${oc.env:" in value:
        allowed = "only runs_dir, data_root and data.root may, by their defaults"
        yield f"{typed} would read what the receiver's environment holds; {allowed}"
    else:
        yield f"{typed} is a reference, and what is shared is resolved; write the value itself"


def is_outside(text: str) -> bool:
    """True for a path that is absolute or climbs, and for an address."""
    return bool(OUTSIDE.match(text)) or ".." in re.split(r"[/\\]", text)


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value by dotted key, and every key that names a file."""
    if isinstance(node, dict):
        for name, inner in node.items():
            if is_outside(name) or "${" in name:
                yield f"{key}.{name}".lstrip("."), name
            yield from leaves(inner, f"{key}.{name}" if key else name)
    elif isinstance(node, list):
        for index, inner in enumerate(node):
            yield from leaves(inner, f"{key}[{index}]")
    else:
        yield key, node


def _get(config: Mapping[str, Any], key: str) -> Any:
    node: Any = config
    for name in key.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node
