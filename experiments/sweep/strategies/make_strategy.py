"""Makes the strategy and the pruner that a sweep names: one of Lathe's by its short name, or any class by its `_target_`."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from experiments.components.instantiate import instantiate
from experiments.config.options import CONF_DIR
from experiments.core.errors import InputError
from experiments.sweep.pruners.base import Pruner
from experiments.sweep.strategies.base import Strategy

ADAPTIVE = ("tpe", "cmaes", "gp")
"""Of Lathe's strategies, those whose next point depends on the results so far."""


def is_adaptive(strategy: Mapping[str, Any]) -> bool:
    """Whether workers ask the strategy for the next point; otherwise all points are known from the start.

    Args:
        strategy: of a spec. A strategy of your own is always asked.
    """
    return "_target_" in strategy or strategy["name"] in ADAPTIVE


def make_strategy(node: Mapping[str, Any], trust: Collection[str] = ()) -> Strategy:
    """Make a strategy.

    Args:
        node: `sweep.strategy` of a complete spec.
        trust: packages that the user trusts.

    Raises:
        InputError: its code is not trusted, is missing, or refuses the values.
    """
    strategy: Strategy = _make(node, "strategy", trust)
    return strategy


def make_pruner(node: Mapping[str, Any], trust: Collection[str] = ()) -> Pruner:
    """Make a pruner; arguments and errors as of `make_strategy`."""
    pruner: Pruner = _make(node, "pruner", trust)
    return pruner


def expand_option(group: str, node: Any, groups: Mapping[str, Mapping[str, Path]]) -> Any:
    """The node of a spec as it is stored: one of Lathe's classes by its name alone, and your option with what its file says.

    Args:
        group: strategy or pruner.
        node: of the spec, with ``name`` or with ``_target_``; anything else is returned unchanged.
        groups: the files of all options.

    Raises:
        InputError: the file of the option cannot be read.
    """
    if not isinstance(node, dict):
        return node
    own = next((path for path in [groups.get(group, {}).get(str(node.get("name")))] if path), None)
    if "_target_" not in node and own is not None and own.parent.parent != CONF_DIR:
        node = {**_read(own), **node}
    names = {read_option(group, path.stem)["_target_"]: path.stem for path in (CONF_DIR / group).glob("*.yaml")}
    if (target := node.get("_target_")) in names:
        return {"name": names[target], **{key: value for key, value in node.items() if key not in ("_target_", "name")}}
    return {"name": str(target).rpartition(".")[2], **node} if target else node


def _read(path: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf

    from experiments.config.option_errors import load_file

    option: dict[str, Any] = OmegaConf.to_container(load_file(path), resolve=False)  # type: ignore[assignment]
    return option


def read_option(group: str, name: str) -> dict[str, Any]:
    """The file of one of Lathe's strategies or pruners."""
    option: dict[str, Any] = yaml.safe_load((CONF_DIR / group / f"{name}.yaml").read_text(encoding="utf-8"))
    return option


def _make(node: Mapping[str, Any], group: str, trust: Collection[str]) -> Any:
    known = [path.stem for path in (CONF_DIR / group).glob("*.yaml")]
    if "_target_" not in node and node["name"] not in (*known, "list"):  # a name with `..` would read any file
        raise InputError([f"sweep.{group}.name={node['name']} is unknown; write one of {', '.join(sorted(known))}"])
    if "${" in json.dumps(node):  # a file of a stranger could give your variables to a class
        raise InputError([f"sweep.{group} has a reference, which could read your environment; write the value itself"])
    named = {} if "_target_" in node or node["name"] == "list" else read_option(group, node["name"])
    values = {**named, **{key: value for key, value in node.items() if key != "name"}}
    if "_target_" not in values:  # strategy=list: the points are in the spec, and no strategy chooses them
        values["_target_"] = read_option(group, "grid")["_target_"]
    return instantiate(values, f"sweep.{group}", trust, group=group)
