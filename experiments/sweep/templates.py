"""Frozen configurations that points are filled into without composing again. Does not import Hydra."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from experiments.config import options
from experiments.config.allowlist import trusted
from experiments.config.auto_values import find_auto_values
from experiments.config.rules.all_rules import find_problems
from experiments.config.source_map import SourceMap
from experiments.config.validate import Validation
from experiments.core import renamed
from experiments.core.atomic import write_text
from experiments.core.errors import InputError, PlanError, did_you_mean
from experiments.core.files.field_types import Check, is_count, is_list_of, is_map, is_one_of, is_text, matches
from experiments.core.files.read_file import DamagedFileError, read_json, read_yaml_map
from experiments.core.format import format_value
from experiments.core.secrets import find_secret_keys, resolve

if TYPE_CHECKING:
    from experiments.config.experiment import Experiment

FILE = "templates.json"
LINK = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")
ANY_LINK = re.compile(r"\$\{(?!oc\.env:)")
PART = re.compile(r"[^.\[\]]+")
MAX_LINK_DEPTH = 8


_SPEC_FIELDS: Mapping[str, Check] = {
    "metric": is_text, "mode": is_one_of("min", "max"), "strategy": is_map, "budget": is_map, "space": is_map,
    "base": is_list_of(is_text), "num_seeds": is_count, "average_over": is_list_of(is_text),
    "max_attempts": is_count,
}  # fmt: skip
_TEMPLATE_FIELDS: Mapping[str, Check] = {
    "choices": is_map, "config": is_map, "links": is_map, "overrides": is_list_of(is_text),
}  # fmt: skip


@dataclass(frozen=True)
class Template:
    """One composed configuration, for one combination of the group options in the space."""

    choices: dict[str, str]
    """Option by group, for the groups in the space."""
    config: dict[str, Any]
    links: dict[str, str]
    """Interpolations by key: ``${data.num_classes}``."""
    overrides: list[str]
    """The overrides it was composed from."""
    auto_keys: list[str] = field(default_factory=list)
    """Keys of the data and the model whose values come from files; see `experiments.config.auto_values`."""

    @classmethod
    def from_experiment(
        cls, experiment: Experiment, choices: Mapping[str, str], hardware: Mapping[str, Any]
    ) -> Template:
        """Make a template of a composed experiment.

        Args:
            experiment: from `compose`.
            choices: those of its overrides that are options in the space.
            hardware: keys of the hardware that differ for a trial.
        """
        config = {**experiment.config, "resume": False, "hardware": {**experiment.config["hardware"], **hardware}}
        return cls(
            dict(choices), config, dict(experiment.links), list(experiment.overrides), list(experiment.auto_keys)
        )

    def fill(self, values: Mapping[str, Any], seed: int, trust: Sequence[str] = ()) -> dict[str, Any]:
        """The configuration of a point, with interpolations resolved again.

        Args:
            values: by dotted key; group options are part of the template already.
            seed: added to the experiment's seed.
            trust: packages whose code may run.

        Raises:
            PlanError: a key does not exist, or a value of the data that is `auto` cannot be found.
        """
        config = copy.deepcopy(self.config)
        links = dict(self.links)
        for key, value in values.items():
            if key in self.choices:
                continue
            _set(config, key, value)
            links = {link: text for link, text in links.items() if link != key and not link.startswith(f"{key}.")}
        _follow_all(config, links)
        auto_keys = [key if "." in key else f"data.{key}" for key in self.auto_keys]  # older sweeps have only data's
        for group, changed in (("data", "data."), ("model", ("model.folder", "init_from.weights"))):
            keys = [key for key in auto_keys if key.startswith(f"{group}.") and key not in values]
            if keys and any(key.startswith(changed) for key in values):
                try:
                    names = [key.removeprefix(f"{group}.") for key in keys]
                    config[group] |= find_auto_values(resolve(config[group]), names, trusted(trust), group)
                except InputError as err:
                    raise PlanError(err.problems, "the point") from err
                _follow_all(config, links)
        config["seed"] += seed
        return config


def _set(config: dict[str, Any], key: str, value: Any) -> None:
    node: Any = config
    *parents, last = PART.findall(key)
    for name in parents:
        node = node[int(name)] if isinstance(node, list) else node.get(name) if isinstance(node, dict) else None
    if not isinstance(node, (dict, list)):
        hint = did_you_mean(parents[0], config, "`lathe plan --cfg job` shows every key")
        message = f"{key}={format_value(value)}: the configuration has no key '{'.'.join(parents)}' with keys of its own; {hint}"
        raise PlanError([message], f"the point {key}={format_value(value)}")
    if isinstance(node, list):
        node[int(last)] = value
    else:
        node[last] = value  # the schema reports an unknown key


def _follow_all(config: dict[str, Any], links: Mapping[str, str]) -> None:
    """Resolve every interpolation again; one may point at another one."""
    for _ in range(MAX_LINK_DEPTH):
        if not _follow(config, links):
            break


def _follow(config: dict[str, Any], links: Mapping[str, str]) -> bool:
    """Resolve every interpolation again; returns whether a value changed."""
    changed = False
    for key, text in links.items():
        whole = LINK.fullmatch(text)
        value = (
            _get(config, whole.group(1)) if whole else LINK.sub(lambda match: str(_get(config, match.group(1))), text)
        )
        if _get(config, key) != value:
            _set(config, key, copy.deepcopy(value))
            changed = True
    return changed


def _get(config: dict[str, Any], key: str) -> Any:
    node: Any = config
    for name in PART.findall(key):
        node = node[int(name)] if isinstance(node, list) else node[name]
    return node


@dataclass(frozen=True)
class Templates:
    """All templates of a sweep."""

    all: Sequence[Template]
    trust: tuple[str, ...] = ()
    config_dirs: tuple[str, ...] = ()

    @cached_property
    def _groups(self) -> dict[str, dict[str, Path]]:
        return options.groups(options.user_folders(self.config_dirs))

    def fill(self, values: Mapping[str, Any], seed: int) -> tuple[dict[str, Any], list[str]]:
        """The checked configuration of a point, and the overrides that compose it.

        Raises:
            PlanError: with all reasons why it cannot run.
        """
        template = self.find(values)
        config = template.fill(values, seed, self.trust)
        config["launcher"] = template.config["launcher"]
        source_map = SourceMap()
        for key, value in values.items():
            source_map.add_override(key, value, format_value(value))
        validation = Validation(source_map, self.trust, self._groups)
        validation.check_root(config)
        problems = [*validation.problems]
        problems = list(dict.fromkeys([*problems, *find_problems(config, {*find_secret_keys(config)})]))
        if problems:
            point = ", ".join(f"{key}={format_value(value)}" for key, value in values.items())
            raise PlanError(problems, f"the point {point}" if point else "the trial")
        own = [format_override(key, value) for key, value in values.items() if key not in template.choices]
        return config, [*template.overrides, *own, *([f"seed={config['seed']}"] if seed else [])]

    def find(self, values: Mapping[str, Any]) -> Template:
        """The template of a point."""
        for template in self.all:
            if all(values.get(group) == option for group, option in template.choices.items()):
                return template
        raise AssertionError(f"no template for {values}")

    def save(self, folder: Path) -> None:
        write_text(folder / FILE, json.dumps([asdict(template) for template in self.all]) + "\n")

    @classmethod
    def load(cls, folder: Path, trust: Sequence[str], config_dirs: Sequence[str]) -> Templates:
        templates = [Template(**_upgraded(template)) for template in read_templates(folder)]
        return cls(templates, tuple(trust), tuple(config_dirs))


def _upgraded(template: Mapping[str, Any]) -> dict[str, Any]:
    """A template with today's keys."""
    names = renamed.renames(template["config"])
    return {
        **template,
        "config": renamed.upgrade(template["config"]),
        "links": renamed.upgrade_links(template["links"], names),
        "overrides": renamed.upgrade_overrides(template["overrides"], names),
    }


def read_spec(folder: Path) -> dict[str, Any]:
    """The saved spec of a sweep, with today's names.

    Args:
        folder: of the sweep.

    Raises:
        DamagedFileError: a file is missing or damaged.
    """
    path = folder / "sweep.yaml"
    spec = read_yaml_map(path)
    try:
        if "num_seeds" in spec:
            spec = {**spec, "space": renamed.upgrade_space(spec["space"], {})}
        else:
            configs = [template["config"] for template in read_templates(folder)]
            names = {old: new for config in configs for old, new in renamed.renames(config).items()}
            spec = renamed.upgrade_sweep(spec, names)
    except (LookupError, TypeError, AttributeError) as err:
        raise DamagedFileError(path, "a key is missing or has a value of the wrong type") from err
    spec.setdefault("average_over", [])  # sweeps of earlier versions have no such key
    for name, check in _SPEC_FIELDS.items():
        if not matches(spec, {name: check}):
            raise DamagedFileError(path, f"'{name}' is missing or has a value of the wrong type")
    if not matches(spec["strategy"], {"name": is_text}):
        raise DamagedFileError(path, "'strategy.name' is missing")
    return spec


def read_templates(folder: Path) -> list[dict[str, Any]]:
    """The templates of a sweep as they are saved, with the names of the version that wrote them. There is at least one.

    Raises:
        DamagedFileError: the file is missing or damaged.
    """
    path = folder / FILE
    templates = read_json(path)
    is_valid = isinstance(templates, list) and all(
        is_map(each) and matches(each, _TEMPLATE_FIELDS) for each in templates
    )
    if not templates or not is_valid:
        raise DamagedFileError(path, "it is not a list of templates")
    return list(templates)


def check_links(template: Template, keys: Sequence[str]) -> list[str]:
    """Problems of interpolations that a template cannot resolve again."""
    return [
        f"{key}={text} follows other keys in a way that a sweep cannot bring along; point at one key: `${{data.num_classes}}`"
        for key, text in template.links.items()
        if ANY_LINK.search(LINK.sub("", text)) and keys
    ]


def format_override(key: str, value: Any) -> str:
    """The override that sets a key to a value."""
    if not isinstance(value, str):
        return f"{key}={format_value(value)}"
    is_plain = re.fullmatch(r"[A-Za-z_/][\w./:@%+-]*", value) and yaml.safe_load(value) == value
    escaped = value.replace("'", "\\'")
    return f"{key}={value}" if is_plain else f"{key}='{escaped}'"
