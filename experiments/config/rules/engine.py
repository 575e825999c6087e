"""What an engine declares about itself, read from its source (`modules.parallel.base.Engine`). Imports no torch."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from experiments.config import signature
from modules.parallel.topology import Meaning, Settings, name_setting

FIXED = ("modules.", "torch.")
"""Classes that do not change while Lathe runs, and that each of thousands of trials names: what is read of them is cached."""


@dataclass(frozen=True)
class DeclaredEngine:
    """The node `parallel` of a configuration, by the meanings of its keys."""

    target: str
    node: Mapping[str, Any]
    settings: Settings

    @property
    def is_managed(self) -> bool:
        """Whether the engine runs processes besides the ranks (`modules.parallel.base.ManagedEngine`)."""
        try:
            return signature.has_method(signature.read(self.target), ["run_role"])
        except signature.SourceError:
            return False

    def has(self, meaning: Meaning) -> bool:
        """Whether the engine has the setting, as an argument or fixed."""
        return meaning in self.settings

    def key(self, meaning: Meaning) -> str:
        """The key in the configuration, such as ``parallel.data``."""
        return name_setting(self.settings, meaning)

    def get(self, meaning: Meaning, otherwise: Any = None) -> Any:
        """The value; ``otherwise`` if the engine does not have the setting, or its value is null."""
        name = self.settings.get(meaning)
        value: Any = name
        if isinstance(name, str):
            value = self.node[name] if name in self.node else _read_default(self.target, name)
        return otherwise if value is None else value


def read_engine(config: Mapping[str, Any]) -> DeclaredEngine:
    """The engine of a configuration."""
    node = config.get("parallel")
    node = node if isinstance(node, dict) else {}
    target = str(node.get("_target_"))
    settings = read_declared(target, "settings")
    return DeclaredEngine(target, node, settings if isinstance(settings, dict) else {})


def read_declared(target: str, name: str) -> object:
    """The value of a class attribute, read from the source; None if there is none."""
    return _read_fixed(target, name) if target.startswith(FIXED) else signature.read_literal(target, name)


_read_fixed = lru_cache(signature.read_literal)


def _read_default(target: str, argument: str) -> object:
    """The default of a constructor's argument; None if there is none."""
    with contextlib.suppress(signature.SourceError, ValueError):
        found = signature.read(target).arguments.get(argument)
        if found is not None and found.default is not None:
            return ast.literal_eval(found.default)
    return None
