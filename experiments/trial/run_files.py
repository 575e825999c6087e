"""Reads `trial.yaml` and `provenance.yaml` of a run, and checks that each part has the type that every command expects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.core import renamed
from experiments.core.files.field_types import (
    Check,
    is_count,
    is_int,
    is_list_of,
    is_map,
    is_text,
    is_time,
    optional,
)
from experiments.core.files.read_file import DamagedFileError, read_yaml_map

CONFIG, PROVENANCE = "trial.yaml", "provenance.yaml"
_SECTIONS = (
    "data", "hardware", "model", "parallel", "optimizer", "schedule", "objective", "tracking", "launcher", "checkpoint",
)  # fmt: skip
_CONFIG_FIELDS: Mapping[str, Check] = {
    **dict.fromkeys(_SECTIONS, is_map), "name": is_text, "description": optional(is_text), "tags": optional(is_map),
    "seed": is_int, "runs_dir": is_text, "max_steps": optional(is_count), "init_from": optional(is_map),
    "data._target_": is_text, "model._target_": is_text, "hardware.nodes": is_count, "hardware.devices_per_node": is_count,
    "hardware.slurm": optional(is_map), "tracking.store": optional(is_text), "tracking.experiment": is_text,
}  # fmt: skip


def _is_code(entry: Any) -> bool:
    return is_map(entry) and is_text(entry.get("name")) and is_text(entry.get("sha256", ""))


_PROVENANCE_FIELDS: Mapping[str, Check] = {
    "trial_id": is_text, "run_key": is_text, "created": is_time, "choices": optional(is_map), "packages": optional(is_map),
    "seeds": optional(is_map), "data": optional(is_map), "source": optional(is_text), "code": optional(is_list_of(_is_code)),
    **dict.fromkeys(("overrides", "trust", "config_dirs", "warnings"), optional(is_list_of(is_text))),
    "evaluates": optional(is_map), "continues": optional(is_map),
}  # fmt: skip
"""Fields of the two files by dotted key; a field of another version may be missing."""


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run, with today's names.

    Raises:
        DamagedFileError: the file is missing or damaged.
    """
    path = folder / CONFIG
    config = renamed.upgrade(read_yaml_map(path))
    _check(path, config, _CONFIG_FIELDS)
    return config


def read_provenance(folder: Path) -> dict[str, Any]:
    """The provenance of a run or a sweep, as its own file has it.

    Raises:
        DamagedFileError: the file is missing or damaged.
    """
    path = folder / PROVENANCE
    provenance = read_yaml_map(path)
    _check(path, provenance, _PROVENANCE_FIELDS)
    return provenance


def _check(path: Path, values: Mapping[str, Any], fields: Mapping[str, Check]) -> None:
    for key, check in fields.items():
        section, _, name = key.rpartition(".")
        node = values.get(section, {}) if section else values
        if name in node and not check(node[name]):
            raise DamagedFileError(path, f"'{key}' has a value of the wrong type")
