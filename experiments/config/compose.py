"""Compose an experiment from overrides, with Hydra."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.config import options
from experiments.config.allowlist import is_folder, trusted
from experiments.config.auto_values import find_auto_keys, find_auto_values, find_best_metric, keep_encoding
from experiments.config.composition.groups import compose_groups
from experiments.config.composition.root import MAY_BE_EMPTY, MAY_BE_SEVERAL, place_override
from experiments.config.experiment import ConfigDraft, Experiment
from experiments.config.interpolation import Interpolation
from experiments.config.option_errors import lists
from experiments.config.overrides import find_fault, is_named_option, is_replaced, mask_secret, parse_override
from experiments.config.rules.all_rules import find_problems
from experiments.config.rules.trusted_files import TrustedFiles
from experiments.config.source_map import SourceMap
from experiments.config.type_check import UNKNOWN
from experiments.config.validate import Validation
from experiments.core.errors import ConfigError, InputError
from experiments.core.renamed import suggestion
from experiments.core.secrets import find_secret_keys


def compose(
    overrides: Sequence[str] = (), *, config_dirs: Sequence[str | Path] = (), trust: Sequence[str] = ()
) -> Experiment:
    """Compose an experiment from the defaults and overrides in Hydra's grammar.

    Args:
        overrides: such as ``["model=mlp", "optimizer.lr=0.01", "+tags.team=vision"]``.
        config_dirs: folders with further groups and options.
        trust: further packages whose classes `_target_` may name, and folders with files that you trust.

    Raises:
        InputError: lists every problem.
    """
    dirs = options.user_folders(config_dirs)
    draft = ConfigDraft(dirs, options.groups(dirs))
    chosen, values = _sort_overrides(overrides, draft)
    tree, choices = compose_groups(chosen, draft)
    composed = _finish(tree, values, choices, draft, trust)
    name = composed.config["name"] or f"{choices['model']}-{choices['data']}".replace("/", "-")
    return replace(
        composed,
        config={**composed.config, "name": name},
        overrides=tuple(overrides),
        config_dirs=tuple(map(str, dirs)),
        trust=_packages(trust),
    )


def compose_data(
    overrides: Sequence[str], *, config_dirs: Sequence[str | Path] = (), trust: Sequence[str] = ()
) -> dict[str, Any]:
    """Compose the configuration of a data set alone; other parts need not fit it.

    Args:
        overrides, config_dirs, trust: as for `compose`. If one of them is not about the data, the whole experiment is composed.

    Raises:
        InputError: lists every problem.
    """
    keys = {override.lstrip("+~").partition("=")[0].partition(".")[0] for override in overrides}
    if not keys or not keys <= {"data", "data_root"}:
        return dict(compose(overrides, config_dirs=config_dirs, trust=trust).config["data"])
    base = compose(config_dirs=config_dirs, trust=trust)
    changed = change(base.config, overrides, "the defaults", config_dirs=config_dirs, trust=trust, keeps_model=True)
    return dict(changed.config["data"])


def change(
    config: dict[str, Any],
    overrides: Sequence[str],
    source: str,
    *,
    origins: SourceMap | None = None,
    config_dirs: Sequence[str | Path] = (),
    trust: Sequence[str] = (),
    keeps_model: bool = False,
) -> Experiment:
    """Apply overrides to the resolved configuration of a run, and check the result like a composed one.

    Args:
        config: resolved. Its references are gone, so another ``data`` can be chosen only for the model as it is.
        overrides: as in `compose`.
        source: id of the trial that ``config`` belongs to.
        origins: where its values were written.
        config_dirs: folders with further groups and options.
        trust: further packages whose classes `_target_` may name, and folders with files that you trust.
        keeps_model: the overrides may choose other ``data``, and the model stays what it is.

    Raises:
        InputError: lists every problem.
    """
    dirs = options.user_folders(config_dirs)
    draft = ConfigDraft(dirs, options.groups(dirs), origins=origins or SourceMap())
    chosen, values = _sort_overrides(overrides, draft)
    tree = OmegaConf.create(config)
    choices = _replace_options(chosen, tree, draft, (MAY_BE_EMPTY,) if keeps_model else ("data", MAY_BE_EMPTY))
    if keeps_model:
        tree.data = keep_encoding(config["data"], OmegaConf.to_container(tree, resolve=False)["data"])  # type: ignore[index, call-overload]
    changed_keys = {override.key_or_group for override in values}
    if "parallel" in choices and "batch_size_per_device" not in changed_keys:
        tree["batch_size_per_device"] = None  # the value was for the old topology
    if "data_root" in changed_keys and config.get("data", {}).get("root") == config.get("data_root"):
        tree["data"]["root"] = "${data_root}"
    own = replace(_finish(tree, values, choices, draft, trust), overrides=tuple(overrides), trust=_packages(trust))
    return replace(own, config_dirs=tuple(map(str, dirs)), source=source)


def _packages(trust: Sequence[str]) -> tuple[str, ...]:
    """The packages of `--trust`. A folder counts only while its files are composed."""
    return tuple(name for name in trust if not is_folder(name))


def _replace_options(
    chosen: list[str], tree: DictConfig, draft: ConfigDraft, fixed: Sequence[str]
) -> dict[str, str | None]:
    """Replace options of groups that are not fixed in a resolved configuration; returns the new option of each group."""
    problems = [
        f"{override_text} cannot change a trial, because other keys depend on it; start a new one with `lathe run`"
        for override_text in chosen
        if override_text.lstrip("+~").partition("=")[0].partition("@")[0] in fixed
        or "/" in override_text.partition("=")[0]
    ]
    draft.problems += problems
    if problems or not chosen:
        return {}
    apart = ConfigDraft(draft.dirs, draft.groups, problems=draft.problems)
    composed, choices = compose_groups(chosen, apart)
    groups = [override_text.lstrip("+").partition("=")[0] for override_text in chosen]
    for group in groups:
        key = group.partition("@")[2] or group
        OmegaConf.update(tree, key, OmegaConf.select(composed, key), merge=False, force_add=True)
        draft.origins.take(apart.origins, key)
    return {group: choices[group] for group in groups}


def _finish(
    tree: DictConfig,
    values: Sequence[Override],
    choices: dict[str, str | None],
    draft: ConfigDraft,
    trust: Sequence[str],
) -> Experiment:
    """Apply the overrides, resolve every reference, and check the configuration.

    Raises:
        ConfigError: lists every problem.
    """
    for override in values:
        _apply(override, tree, draft)
    _fill_best_metric(tree)
    auto_keys, lacking = _fill_auto_keys(tree, draft, trust)
    interpolation = Interpolation(tree, draft.origins, choices, unknown=lacking)
    config = interpolation.plain() | dict.fromkeys(draft.undecided, UNKNOWN)
    validation = Validation(draft.origins, trusted(trust), draft.groups)
    for override in values:  # even an override that a later one replaces is recorded
        for key in find_secret_keys(override.value(), override.key_or_group):
            validation.report_secret(key)
    validation.check_root(config)
    foreign = TrustedFiles(trust, draft.dirs).find_problems(config, draft.origins)
    problems = draft.origins.add_misread([*draft.problems, *interpolation.problems, *validation.problems, *foreign])
    if problems:
        unclear = {*draft.origins.ambiguous_scalars, *find_secret_keys(config)}
        raise ConfigError(list(dict.fromkeys([*problems, *find_problems(config, unclear)])))
    return Experiment(config, (), choices, links=interpolation.links(), auto_keys=auto_keys, origins=draft.origins)


def _fill_best_metric(tree: DictConfig) -> None:
    """Replace `auto` in `checkpoint.best_metric` and `best_mode`."""
    first = next(iter(OmegaConf.select(tree, "evaluator.evaluators") or ()), None)  # of several
    key = "evaluator" if first is None else f"evaluator.evaluators.{first}"
    checkpoint, target = tree.get("checkpoint"), OmegaConf.select(tree, f"{key}._target_")
    if isinstance(checkpoint, DictConfig) and isinstance(target, str):
        with suppress(OmegaConfBaseException):  # of a reference or a missing value, which is reported later
            metric, mode = find_best_metric(target, checkpoint.best_metric, checkpoint.best_mode, first)
            checkpoint.best_metric, checkpoint.best_mode = metric, mode


def _fill_auto_keys(tree: DictConfig, draft: ConfigDraft, trust: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Replace each `auto` of the data set and the model by the value in its files; returns their keys, and those not found."""
    every_key, lacking = list[str](), list[str]()
    for group in ("data", "model"):
        if group in draft.undecided or not isinstance(tree.get(group), DictConfig):
            continue
        raw: Any = OmegaConf.to_container(tree[group], resolve=False)
        keys = find_auto_keys(raw, trusted(trust))
        every_key += (dotted := [f"{group}.{key}" for key in keys])
        try:
            own: Any = OmegaConf.to_container(tree[group], resolve=True, throw_on_missing=True) if keys else {}
            values = find_auto_values(own, keys, trusted(trust), group) if keys else {}
        except OmegaConfBaseException:  # a reference or a value that is missing is reported later
            lacking += dotted
            continue
        except InputError as err:
            draft.problems += err.problems
            lacking += dotted
            continue
        for key, value in values.items():
            OmegaConf.update(tree, f"{group}.{key}", value, merge=False)
    return tuple(every_key), lacking


def _sort_overrides(overrides: Sequence[str], draft: ConfigDraft) -> tuple[list[str], list[Override]]:
    """Split valid overrides into those that choose an option and those that set a value."""
    chosen: list[str] = []
    values: list[Override] = []
    for override_text in overrides:
        try:
            override = parse_override(override_text)
        except InputError as err:
            draft.problems += err.problems
            continue
        fault = find_fault(override, draft.groups)
        if fault is not None:
            draft.problems.append(f"{mask_secret(override)}{fault}")
        elif override.key_or_group not in draft.groups or isinstance(override.value(), dict):
            values.append(override)
        elif _is_option(override, draft):
            plain = override_text.lstrip("+")
            is_more = is_named_option(override)  # beside the option of the group itself
            placed = f"+{plain}" if is_more else plain if "/" not in override.key_or_group else override_text
            placed = f"~{override.key_or_group}" if override.value() is None else placed
            chosen.append(place_override(placed, draft.own_groups))
    return chosen, values


def _is_option(override: Override, draft: ConfigDraft) -> bool:
    """True if the override chooses an existing option of a group; reports a problem otherwise."""
    group, value, override_text = override.key_or_group, override.value(), override.input_line
    if value is None or override.is_delete():
        if group == MAY_BE_EMPTY or group in draft.own_groups:
            return True
        if "/" in group:
            return override.is_delete()
        fault = f"leaves the required group '{group}' empty; remove that override"
    elif isinstance(value, list) and group in MAY_BE_SEVERAL and (value or group != "tracking"):
        unknown = [str(name) for name in value if name not in draft.groups[group]]
        if not unknown:
            return True
        hint = suggestion(unknown[0], draft.groups[group], lists(group))
        fault = f"contains {unknown[0]!r}, which is not an option of the group '{group}'; {hint}"
    elif isinstance(value, list):
        fault = f"gives several options, but a group takes one; write {group}={value[0] if value else '...'}"
    elif (name := override_text.partition("=")[2].strip("'\"") if override_text else "") in draft.groups[group]:
        return True
    else:
        fault = f"is not an option of the group '{group}'; {suggestion(name, draft.groups[group], lists(group))}"
    draft.problems.append(f"{override_text} {fault}")
    draft.undecided |= {group.partition("/")[0]} - {MAY_BE_EMPTY, *draft.own_groups}
    return False


def _apply(override: Override, tree: DictConfig, draft: ConfigDraft) -> None:
    key, override_text = override.key_or_group, override.input_line or ""
    if key.partition(".")[0] in draft.undecided:
        return
    try:
        if override.is_delete():
            _delete(override, tree)
            draft.origins.add_removal(key, override_text)
        else:
            value = override.value()
            merges = isinstance(value, dict)
            if merges and not override.is_add():
                outer, _, name = key.rpartition(".")
                parent = OmegaConf.select(tree, outer) if outer else tree
                merges = not is_replaced(
                    parent, parent._get_node(name) if isinstance(parent, DictConfig) else None, value
                )
            OmegaConf.update(tree, key, value, merge=merges, force_add=True)
            draft.origins.add_override(key, value, override_text.partition("=")[2])
    except (OmegaConfBaseException, KeyError, IndexError, AttributeError, TypeError, ValueError) as err:
        reason = str(err.args[0] if isinstance(err, KeyError) else err).splitlines()[0]
        draft.problems.append(f"{mask_secret(override)} cannot be applied: {reason}")


def _delete(override: Override, tree: DictConfig) -> None:
    key = override.key_or_group
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(tree, parent) if parent else tree
    if not isinstance(node, DictConfig) or name not in node:
        known = {str(inner) for inner in node} if isinstance(node, DictConfig) else set()
        raise KeyError(f"there is no key {key}; {suggestion(name, known, '`lathe plan --cfg job` shows every key')}")
    value = override.value()
    if "=" in (override.input_line or "") and value != OmegaConf.to_container(node, resolve=False)[name]:  # type: ignore[index, call-overload]
        raise KeyError(f"{key} has another value, {node._get_node(name)}; remove '={value}'")
    del node[name]
