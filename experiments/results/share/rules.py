"""What the configuration in a shared file may hold: what is trained, and no setting of the machine that trains it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import yaml

from experiments.config.options import CONF_DIR
from experiments.config.rules.trusted_files import MACHINE_KEYS
from experiments.config.source_map import SourceMap

PATHS = ("runs_dir", "data_root", "data.root")
MACHINE = ("launcher._target_", *(MACHINE_KEYS.keys() - {"launcher"}), "init_from.weights", "resume", *PATHS)
"""Keys that only the receiver may set."""
LOCAL = ("launcher", "tracking", "notify", "hardware.slurm", *PATHS)
"""What `reset` replaces."""
FREE_TEXT = ("name", "description", "tags", "launcher", "tracking")
"""Keys whose texts are not paths, or which `reset` replaces."""
MAXIMA = {"num_data_workers": 64, "hardware.devices_per_node": 64, "hardware.cpu_threads": 1024}
"""Most processes and threads that a shared file may start; a command line may ask for more."""
OUTSIDE = re.compile(r"[/\\~]|[A-Za-z]:[/\\]|[A-Za-z][A-Za-z0-9+.-]*://|(.*[/\\])?\.\.([/\\]|$)", re.DOTALL)
"""A path that is absolute or leaves its folder, or an address."""


@lru_cache(maxsize=4)
def _built_in(name: str) -> dict[str, Any]:
    option: dict[str, Any] = yaml.safe_load((CONF_DIR / f"{name}.yaml").read_text(encoding="utf-8"))
    return option


def reset(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with local defaults for all settings of the machine; its trial id does not change."""
    root = _built_in("config")
    paths = {"runs_dir": root["runs_dir"], "data_root": root["data_root"]}
    groups = {"launcher": _built_in("launcher/local"), "tracking": _built_in("tracking/sqlite")}
    local = {**config, **paths, **groups, "resume": False}
    if "notify" in config:
        local["notify"] = root["notify"]
    if isinstance(config.get("hardware"), dict):
        local["hardware"] = {**config["hardware"], "slurm": None}
    if isinstance(config.get("data"), dict) and "root" in config["data"]:
        local["data"] = {**config["data"], "root": root["data_root"]}
    return local


def find_problems(config: Mapping[str, Any], origins: SourceMap) -> Iterator[str]:
    """Every value that reaches outside the run, or that no run can have."""
    local = reset(config)
    for key in MACHINE:
        value = _get(config, key)
        if value not in (None, False) and value != _get(local, key):
            typed, override = (
                origins.as_written(key, value),
                key if key in PATHS or "init" in key else key.partition(".")[0],
            )
            yield f"{typed} is a setting of your machine, not of a shared file; give `{override}=...` on the command line"
    for key, most in MAXIMA.items():
        number = _get(config, key)
        if isinstance(number, (int, float)) and number > most:
            yield f"{origins.as_written(key, number)} is more than {most}, the limit in a shared file; write a smaller number"
    for key, value in leaves(config):
        typed = origins.as_written(key, value)
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{typed} is not a finite number; write one"
        elif not isinstance(value, str) or key in PATHS:
            continue
        elif "${" in value:
            yield f"{typed} is a reference, which could read your environment; write the value itself"
        elif key.partition(".")[0] not in FREE_TEXT and is_outside(value):
            yield f"{typed} is a path outside your data folder, or an address; give `{key}=...` on the command line"


def is_outside(text: str) -> bool:
    """True for a path that is absolute or leaves its folder, and for an address."""
    return OUTSIDE.match(text) is not None


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value by dotted key; a key that is a path or a reference also comes as a value."""
    if isinstance(node, dict):
        for name, inner in node.items():
            full = f"{key}.{name}" if key else name
            if is_outside(name) or "${" in name:
                yield full, name
            yield from leaves(inner, full)
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
