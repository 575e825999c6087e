"""Resolves every `${...}` of a composed configuration, except `${oc.env:NAME}`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from experiments.config.source_map import SourceMap
from experiments.config.type_check import UNKNOWN
from experiments.core.renamed import suggestion

UNQUOTED = re.compile(r"[\w./:@-]+")
FOLLOWS = re.compile(r"\$\{(?!oc\.env:)")
REFERRED = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")
NOT_FOUND = re.compile(r"Interpolation key '(.+)' not found")


class _UnsetError(Exception):
    """An environment variable that has neither a value nor a default."""


@dataclass
class Interpolation:
    """Converts a configuration to plain Python. A value that cannot be resolved is reported and becomes ``UNKNOWN``."""

    tree: DictConfig
    origins: SourceMap
    choices: Mapping[str, str | None]
    problems: list[str] = field(default_factory=list)
    unknown: Collection[str] = ()
    """Keys of the data and the model whose values could not be found; they and the references to them become ``UNKNOWN``."""
    _unset: set[str] = field(default_factory=set)

    def plain(self) -> dict[str, Any]:
        with _references_stay():
            plain: dict[str, Any] = self._node(self.tree, "")
        return plain

    def links(self) -> dict[str, str]:
        """The references to other keys, such as `${key}`, by the dotted key that holds them."""
        texts: dict[str, str] = {}

        def walk(node: Any, prefix: str) -> None:
            is_map = isinstance(node, DictConfig)
            for key in node if is_map else range(len(node)):
                name = f"{prefix}.{key}".lstrip(".") if is_map else f"{prefix}[{key}]"
                child: Any = node._get_node(key)
                if child is not None and child._is_interpolation():
                    texts[name] = str(child._value())
                elif isinstance(child, (DictConfig, ListConfig)) and not child._is_none():
                    walk(child, name)

        walk(self.tree, "")
        return {key: text for key, text in texts.items() if FOLLOWS.search(text)}

    def _node(self, node: Any, prefix: str) -> Any:
        if isinstance(node, DictConfig):
            return {str(key): self._child(node, key, f"{prefix}.{key!s}".lstrip(".")) for key in node}
        if isinstance(node, ListConfig):
            return [self._child(node, index, f"{prefix}[{index}]") for index in range(len(node))]
        return node

    def _child(self, node: DictConfig | ListConfig, key: Any, name: str) -> Any:
        if OmegaConf.is_missing(node, key) or self.origins.text(name) == "???":  # a merge keeps the earlier value
            self.problems.append(f"{name}=???{self.origins.location(name)} has no value; add `{name}=...`")
            return UNKNOWN
        if self._is_unknown(node._get_node(key), name):
            return UNKNOWN
        try:
            return self._node(node[key], name)
        except OmegaConfBaseException as err:
            setting = self.origins.as_written(name, "${...}")
            variable = _unset_variable(err)
            if variable is None:
                self.problems.append(f"{setting} cannot be resolved: {self._reason(err, name)}")
            elif variable not in self._unset:  # report a value with several references once
                self._unset.add(variable)
                self.problems.append(
                    f"{setting}: the environment variable {variable} is not set; `export {variable}=...` before this command"
                )
            return UNKNOWN

    def _is_unknown(self, node: Any, name: str) -> bool:
        """Whether a node is one of the unknown keys, or refers to one."""
        if not self.unknown or node is None:
            return False
        keys = [name, *(REFERRED.findall(str(node._value())) if node._is_interpolation() else ())]
        return any(key in self.unknown for key in keys)

    def _reason(self, err: OmegaConfBaseException, name: str) -> str:
        text = str(err).splitlines()[0]
        missing = NOT_FOUND.search(text)
        if missing is None:
            return f"{text}; use the name of an existing key"
        parent, _, key = missing.group(1).rpartition(".")
        node = OmegaConf.select(self.tree, parent) if parent else self.tree
        known = [str(inner) for inner in node] if isinstance(node, DictConfig) else []
        if self.choices.get(parent) is None:
            return f"there is no key {missing.group(1)}; {suggestion(key, known, 'use the name of an existing key')}"
        part = name.partition(".")[0]
        choose = f"choose another {parent}{f' or {part}' if self.choices.get(part) else ''}"
        otherwise = f"{choose}, or give `{name}=...`"
        return f"{parent}={self.choices[parent]} has no {key}; {suggestion(key, known, otherwise)}"


def _unset_variable(err: BaseException | None) -> str | None:
    while err is not None and not isinstance(err, _UnsetError):
        err = err.__cause__ or err.__context__
    return str(err) if err is not None else None


@contextmanager
def _references_stay() -> Iterator[None]:
    OmegaConf.register_new_resolver("oc.env", _reference, replace=True, use_cache=False)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True, use_cache=False)


def _reference(name: str, *default: Any) -> str:
    if not default and name not in os.environ:
        raise _UnsetError(name)
    return f"${{oc.env:{','.join([name, *map(_quoted, default)])}}}"


def _quoted(default: Any) -> str:
    """A default in Hydra's grammar, so that a printed configuration can be composed again."""
    if not isinstance(default, str):
        return json.dumps(default)
    if UNQUOTED.fullmatch(default) or "${" in default:
        return default
    return "'" + default.replace("'", "\\'") + "'"
