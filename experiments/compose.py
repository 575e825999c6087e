"""Overrides to experiment: the only file that knows Hydra."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from experiments import options
from experiments.faults import ConfigError, did_you_mean
from experiments.origins import Origins
from experiments.targets import trusted
from experiments.validate import Validation


@dataclass(frozen=True)
class Experiment:
    """A composed configuration: resolved but for `${oc.env:...}`, and checked against the schema."""

    config: dict[str, Any]
    overrides: tuple[str, ...]
    choices: dict[str, str | None]
    """The option of every group."""
    config_dirs: tuple[str, ...] = ()
    trust: tuple[str, ...] = ()


@dataclass
class _Draft:
    """What is known on the way; problems gather until nothing more can be found out."""

    groups: dict[str, dict[str, Path]]
    problems: list[str] = field(default_factory=list)
    origins: Origins = field(default_factory=Origins)


def compose(
    overrides: Sequence[str] = (), *, config_dirs: Sequence[str | Path] = (), trust: Sequence[str] = ()
) -> Experiment:
    """Compose an experiment from the defaults and overrides in Hydra's grammar.

    Args:
        overrides: such as ``["model=mlp", "optimizer.lr=0.01", "+tags.team=vision"]``.
        config_dirs: folders with further groups and options.
        trust: packages beyond the house's own whose classes `_target_` may name.

    Raises:
        ConfigError: with every problem that was found.
    """
    dirs = _config_dirs(config_dirs)
    draft = _Draft(options.groups(dirs))
    chosen, values = _sort_overrides(overrides, draft)
    tree, choices = _compose_groups(chosen, dirs, draft)
    _note_origins(choices, draft)
    for override in values:
        _apply(override, tree, draft)
    config = _resolve(tree, "", draft)
    validation = Validation(draft.origins, trusted(trust), draft.groups)
    validation.root(config)
    problems = draft.problems + draft.origins.problems + validation.problems
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)), "the configuration")
    if config["name"] is None:
        config["name"] = f"{choices['model']}-{choices['data']}".replace("/", "-")
    return Experiment(config, tuple(overrides), choices, tuple(map(str, dirs)), tuple(trust))


def _config_dirs(config_dirs: Sequence[str | Path]) -> list[Path]:
    dirs = [Path(folder).expanduser().resolve() for folder in config_dirs]
    problems = [
        f"--config-dir {d} is not a folder; name the folder that holds your groups" for d in dirs if not d.is_dir()
    ]
    if problems:
        raise ConfigError(problems)
    return dirs


def _sort_overrides(overrides: Sequence[str], draft: _Draft) -> tuple[list[str], list[Override]]:
    """Part the overrides that choose an option from those that set a value."""
    parser = OverridesParser.create()
    chosen: list[str] = []
    values: list[Override] = []
    for typed in overrides:
        try:
            override = parser.parse_override(typed)
        except HydraException as err:
            draft.problems.append(_grammar(typed, str(err).splitlines()[0]))
            continue
        if override.is_sweep_override():
            draft.problems.append(
                f"{typed} gives several values; one run takes one, quote a text with commas: key='a,b'"
            )
        elif override.key_or_group in draft.groups and not isinstance(override.value(), dict):
            if _is_option(override, typed, draft):
                chosen.append(typed)
        elif override.key_or_group.startswith("hydra"):
            draft.problems.append(f"{typed}: Hydra itself is not configured here; --config-dir adds folders of options")
        else:
            values.append(override)
    return chosen, values


def _grammar(typed: str, reason: str) -> str:
    if "=" not in typed and not typed.startswith("~"):
        return f"{typed!r} is no override; write key=value"
    if re.match(r"[^=]+==", typed):
        return f"{typed!r} has one '=' too many; write {typed.replace('==', '=', 1)}"
    key, _, value = typed.partition("=")
    return f"{typed!r} does not parse ({reason}); quote the value: \"{key}='{value}'\""


def _is_option(override: Override, typed: str, draft: _Draft) -> bool:
    group, value = override.key_or_group, override.value()
    known = draft.groups[group]
    if value is None and not override.is_delete():
        if group != "experiment":  # the one group that may stay empty, as it does by default
            draft.problems.append(f"{typed} leaves the group '{group}' empty; choose one of {', '.join(known)}")
        return False
    wanted = value if isinstance(value, list) else [value]
    if override.is_delete() or all(str(name) in known for name in wanted):
        return True
    missing = next(str(name) for name in wanted if str(name) not in known)
    draft.problems.append(f"{typed}: group '{group}' has no option {missing!r}; {did_you_mean(missing, known)}")
    return False


def _compose_groups(chosen: list[str], dirs: Sequence[Path], draft: _Draft) -> tuple[DictConfig, dict[str, str | None]]:
    search = [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in dirs)}]"] if dirs else []
    try:
        with initialize_config_module(config_module="conf", version_base=None):
            tree = hydra_compose("config", overrides=[*chosen, *search], return_hydra_config=True)
    except yaml.MarkedYAMLError as err:
        place = f"{err.problem_mark.name}:{err.problem_mark.line + 1}" if err.problem_mark else "a file"
        raise ConfigError([*draft.problems, f"{place} is no valid YAML: {err.problem}; mend that line"]) from err
    except (HydraException, OmegaConfBaseException) as err:
        raise ConfigError([*draft.problems, _composition(err, draft)], "the configuration") from err
    choices = {group: option for group, option in tree.hydra.runtime.choices.items() if not group.startswith("hydra")}
    OmegaConf.set_readonly(tree, False)
    OmegaConf.set_struct(tree, False)
    del tree["hydra"]
    return tree, choices


def _composition(err: Exception, draft: _Draft) -> str:
    """Hydra's own fault in the house's form: what an options file asks for and does not get."""
    missing = getattr(err, "missing_cfg_file", None)
    while not str(err).strip() and isinstance(err.__cause__, Exception):
        err = err.__cause__
    text = " ".join(str(err).split()) or type(err).__name__
    if isinstance(missing, str) and "/" in missing:
        group, _, option = missing.rpartition("/")
        return f"a defaults list asks for '{missing}', which there is not; {did_you_mean(option, draft.groups.get(group, []))}"
    return f"the defaults lists do not compose: {text}"


def _note_origins(choices: dict[str, str | None], draft: _Draft) -> None:
    draft.origins.add_file(options.HOUSE / "config.yaml", "")
    for group, option in choices.items():
        path = draft.groups.get(group.partition("@")[0], {}).get(str(option))
        if path is not None:
            draft.origins.add_file(path, group.partition("@")[2] or group)


def _apply(override: Override, tree: DictConfig, draft: _Draft) -> None:
    key, typed = override.key_or_group, override.input_line or ""
    try:
        if override.type == OverrideType.DEL:
            _delete(key, tree)
        else:
            OmegaConf.update(tree, key, override.value(), merge=True, force_add=True)
        draft.origins.add_override(key, typed)
    except (OmegaConfBaseException, KeyError, AttributeError, TypeError, ValueError) as err:
        known = {str(name) for name in tree} | draft.groups.keys()
        reason = str(err).splitlines()[0].strip("'\"") if str(err) else type(err).__name__
        draft.problems.append(
            f"{typed} cannot be applied ({reason}); {did_you_mean(key, known, 'see `lathe options`')}"
        )


def _delete(key: str, tree: DictConfig) -> None:
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(tree, parent) if parent else tree
    if not isinstance(node, DictConfig) or name not in node:
        raise KeyError(f"there is no key {key}")
    del node[name]


def _resolve(node: Any, prefix: str, draft: _Draft) -> Any:
    """Plain Python from OmegaConf, environment references kept as they are written."""
    before = OmegaConf.has_resolver("oc.env")
    assert before
    OmegaConf.register_new_resolver("oc.env", _keep_reference(draft), replace=True, use_cache=False)
    try:
        return _plain(node, prefix, draft)
    finally:
        from omegaconf.resolvers import oc

        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True, use_cache=False)


def _keep_reference(draft: _Draft) -> Any:
    def keep(name: str, *default: Any) -> str:
        if not default and name not in os.environ:
            draft.problems.append(
                f"${{oc.env:{name}}}: the environment variable {name} is not set; `export {name}=...` before this command"
            )
        return f"${{oc.env:{','.join([name, *map(str, default)])}}}"

    return keep


def _plain(node: Any, prefix: str, draft: _Draft) -> Any:
    if isinstance(node, DictConfig):
        return {str(key): _child(node, key, f"{prefix}.{key!s}".lstrip("."), draft) for key in node}
    if isinstance(node, ListConfig):
        return [_child(node, index, f"{prefix}[{index}]", draft) for index in range(len(node))]
    return node


def _child(node: DictConfig | ListConfig, key: Any, name: str, draft: _Draft) -> Any:
    if OmegaConf.is_missing(node, key):
        draft.problems.append(f"{name}=??? must be given; add `{name}=...`")
        return None
    try:
        return _plain(node[key], name, draft)
    except (InterpolationResolutionError, OmegaConfBaseException) as err:
        written = OmegaConf.to_container(node, resolve=False)
        text = written[key] if isinstance(written, (dict, list)) else ""
        reason = str(err).splitlines()[0]
        draft.problems.append(
            f"{draft.origins.typed(name, text)} cannot be resolved: {reason}; point at a key that there is"
        )
        return None
