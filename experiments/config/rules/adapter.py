"""The rules of an adapter: where its model gets weights, and which engines train it. Imports no torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from experiments.config.rules.base import ConfigView
from experiments.config.rules.engine import DeclaredEngine
from experiments.config.rules.topology import is_auto

NO_ADAPTER = {"_target_": "modules.adapter.no_adapter.NoAdapter"}
LORA = "modules.adapter.lora.Lora"


def find_adapter(config: Mapping[str, Any]) -> str | None:
    """The class of the adapter; None if the configuration has none, or is older than adapters."""
    node = config.get("adapter")
    target = node.get("_target_") if isinstance(node, Mapping) else None  # the schema reports every other value
    return None if target in (None, NO_ADAPTER["_target_"]) else str(target)


def _needs_weights(view: ConfigView) -> str | None:
    if find_adapter(view.config) is None or view.get("init_from.weights", str, dict, type(None)) is not None:
        return None
    return (
        f"adapter={find_adapter(view.config)} leaves the weights of the model as they are, and they are random; set "
        "init_from.weights to a file or a run, or adapter=none"
    )


def _engine(view: ConfigView) -> str | None:
    if find_adapter(view.config) is None or (_trains_adapters(view.engine) and not is_auto(view.config)):
        return None
    return (
        f"adapter={find_adapter(view.config)} does not work with parallel={view.engine.target}, which splits the model or "
        "keeps it in several processes; use parallel=single, data, zero1, zero2 or zero3"
    )


def _trains_adapters(engine: DeclaredEngine) -> bool:
    is_split = engine.has("pipe") or engine.has("num_servers") or engine.get("model", 1) != 1
    return not is_split and not engine.is_managed


def _package(view: ConfigView) -> str | None:
    if find_adapter(view.config) != LORA or importlib.util.find_spec("peft") is not None:
        return None
    fix = "`pip install 'lathe-dl[models]'`, or set adapter=none"
    return f"adapter={LORA} needs the package 'peft', which is not installed; {fix}"


RULES = (_needs_weights, _engine, _package)
