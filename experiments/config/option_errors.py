"""Reads option files within limits; error messages about missing options and faulty files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.config.source_map import find_misread_keys, shown_path
from experiments.core.errors import ConfigError, did_you_mean
from experiments.core.renamed import suggestion

MAX_MB = 10
MAX_DEPTH = 50
MAX_VALUES = 100_000
"""Limits of a file: its size, its depth, and its values with every alias expanded."""


def lists(group: str = "") -> str:
    """A hint with the command that lists the options of a group, or all groups."""
    return f"`{f'lathe options {group}'.strip()}` lists the {'options' if group else 'groups'}"


def other_option(missing: str, groups: Mapping[str, Mapping[str, Path]]) -> str:
    """The hint for a ``group/option`` that does not exist."""
    group, _, option = missing.rpartition("/")
    if group in groups:
        return suggestion(option, groups[group], lists(group))
    absolute = next((known for known in groups if group.endswith(f"/{known}")), None)
    return f"write `override /{absolute}: {option}`" if absolute else did_you_mean(group, groups, lists())


def load_file(path: Path) -> DictConfig:
    """The values of a YAML file of the user, or of a built-in one.

    Raises:
        ConfigError: it exceeds a limit, or is not a valid map.
    """
    where = shown_path(path)
    try:
        content = deepcopy(_parse(read_within_limits(path)))
    except YamlError as err:
        raise ConfigError([f"{where} {err}"]) from err
    except yaml.MarkedYAMLError as err:
        line = f":{err.problem_mark.line + 1}" if err.problem_mark else ""
        raise ConfigError([f"{where}{line} is not valid YAML: {err.problem}; correct that line"]) from err
    except yaml.YAMLError as err:  # a control character
        reason = " ".join(str(err).split(" in ")[0].split())
        raise ConfigError([f"{where} is not valid YAML: {reason}; remove it"]) from err
    except Exception as err:  # YAML and OmegaConf raise KeyError, AttributeError and others for values with a type tag
        if misread := _misread_keys(path):
            raise ConfigError(misread[:1]) from err
        key = getattr(err, "full_key", None)
        text = (
            next(iter(str(err).splitlines()), "")
            if isinstance(err, (OmegaConfBaseException, ValueError, OSError))
            else ""
        )
        reason = text or f"a value does not fit its type ({type(err).__name__})"
        raise ConfigError([f"{where} cannot be read: {f'{key}: ' if key else ''}{reason}; correct it"]) from err
    if isinstance(content, DictConfig):
        return content
    raise ConfigError([f"{where} is a list, not a map; write `key: value` lines"])


@lru_cache(maxsize=256)
def _parse(text: str) -> DictConfig | ListConfig:
    """Each composition reads the same thirty files again, some of them twice."""
    return OmegaConf.load(io.StringIO(text))


def _misread_keys(path: Path) -> list[str]:
    try:
        return find_misread_keys(path)
    except (OSError, ValueError, yaml.YAMLError, YamlError):
        return []


class YamlError(Exception):
    """A file exceeds a limit or is no map; the message names the line, the rule and a fix."""


def read_within_limits(path: Path) -> str:
    """The text of a YAML file whose values can be constructed at a bounded cost.

    A syntax error is not reported here: the reader of the values reports it.

    Raises:
        YamlError: it exceeds a limit.
        OSError: it cannot be read.
        UnicodeDecodeError: it is no UTF-8.
    """
    if not path.is_file():
        raise YamlError("is not a plain file; name a file")
    if path.stat().st_size > MAX_MB * 1e6:
        raise YamlError(f"has more than {MAX_MB} MB; move data out of it")
    text = path.read_text(encoding="utf-8-sig")
    expansion = _Expansion()
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            expansion.add(event)
    except yaml.YAMLError:
        pass
    return text


@dataclass
class _Expansion:
    """Counts the values of a document with every alias replaced by what it stands for. Events construct nothing."""

    open: list[tuple[str | None, int]] = field(default_factory=list)
    """Anchor, and values so far, of each map or list that is not closed."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Values of each anchor."""

    def add(self, event: yaml.Event) -> None:
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.CollectionStartEvent):
            self.open.append((event.anchor, 1))
            if len(self.open) > MAX_DEPTH:
                raise YamlError(f"has values nested more than {MAX_DEPTH} levels deep in line {line}; flatten them")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = self.open.pop()
            self._count(anchor, size, line)
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in self.open):
                raise YamlError("has an anchor that contains itself (&name, *name); write the values out")
            self._count(None, self.sizes.get(event.anchor or "", 1), line)
        elif isinstance(event, yaml.ScalarEvent):
            if not self.open and event.value not in ("", "~", "null"):
                raise YamlError("is a single value, not a map; write `key: value` lines")
            self._count(event.anchor, 1, line)

    def _count(self, anchor: str | None, size: int, line: int) -> None:
        if anchor is not None:
            self.sizes[anchor] = size
        if self.open:
            outer, before = self.open[-1]
            size += before
            self.open[-1] = outer, size
        if size > MAX_VALUES:
            raise YamlError(f"holds more than {MAX_VALUES:,} values, with aliases expanded, at line {line}; shorten it")
