"""Compose an experiment from overrides, with Hydra."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra.version
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from hydra.version import VersionBase
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.config import options
from experiments.config.allowlist import is_folder, trusted
from experiments.config.auto_values import find_auto_keys, find_auto_values, find_best_metric, keep_encoding
from experiments.config.experiment import ConfigDraft, Experiment
from experiments.config.interpolation import Interpolation
from experiments.config.option_errors import lists, load_file, other_option
from experiments.config.overrides import find_fault, is_named_option, mask_secret, parse_override
from experiments.config.rules.all_rules import find_problems
from experiments.config.rules.trusted_files import TrustedFiles
from experiments.config.source_map import SourceMap, shown_path
from experiments.config.type_check import UNKNOWN
from experiments.config.validate import Validation
from experiments.core.errors import ConfigError, InputError, did_you_mean
from experiments.core.renamed import suggestion
from experiments.core.secrets import find_secret_keys

MAY_BE_EMPTY = "experiment"
MAY_BE_SEVERAL = ("tracking", "callback", "gradient")
"""Groups of which a list of options can be chosen, such as ``tracking=[sqlite,tensorboard]``."""
OF_SWEEPS = ("strategy", "pruner")
"""Groups whose options a sweep chooses, not an experiment."""
_HYDRA_LOCK = threading.Lock()


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
    tree, choices = _compose_groups(chosen, draft)
    composed = _finish(tree, values, choices, draft, trust)
    name = composed.config["name"] or f"{choices['model']}-{choices['data']}".replace("/", "-")
    return replace(
        composed,
        config={**composed.config, "name": name},
        overrides=tuple(overrides),
        config_dirs=tuple(map(str, dirs)),
        trust=_packages(trust),
    )


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
    composed, choices = _compose_groups(chosen, apart)
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
    auto_keys, is_lacking = _fill_auto_keys(tree, draft, trust)
    interpolation = Interpolation(tree, draft.origins, choices, unknown=auto_keys if is_lacking else ())
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
    return Experiment(config, (), choices, links=interpolation.links(), auto_keys=auto_keys)


def _fill_best_metric(tree: DictConfig) -> None:
    """Replace `auto` in `checkpoint.best_metric` and `best_mode`."""
    first = next(iter(OmegaConf.select(tree, "evaluator.evaluators") or ()), None)  # of several
    key = "evaluator" if first is None else f"evaluator.evaluators.{first}"
    checkpoint, target = tree.get("checkpoint"), OmegaConf.select(tree, f"{key}._target_")
    if isinstance(checkpoint, DictConfig) and isinstance(target, str):
        with suppress(OmegaConfBaseException):  # of a reference or a missing value, which is reported later
            metric, mode = find_best_metric(target, checkpoint.best_metric, checkpoint.best_mode, first)
            checkpoint.best_metric, checkpoint.best_mode = metric, mode


def _fill_auto_keys(tree: DictConfig, draft: ConfigDraft, trust: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """Replace each `auto` of the data set by the value in its files; returns the keys, and whether a value was not found."""
    if "data" in draft.undecided or not isinstance(tree.get("data"), DictConfig):
        return (), False
    raw: Any = OmegaConf.to_container(tree.data, resolve=False)
    keys = find_auto_keys(raw, trusted(trust))
    if not keys:
        return (), False
    try:
        own: Any = OmegaConf.to_container(tree.data, resolve=True, throw_on_missing=True)
        values = find_auto_values(own, keys, trusted(trust))
    except OmegaConfBaseException:  # a reference or a value that is missing is reported later
        return keys, True
    except InputError as err:
        draft.problems += err.problems
        return keys, True
    for key, value in values.items():
        OmegaConf.update(tree, f"data.{key}", value, merge=False)
    return keys, False


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
            chosen.append(f"+{plain}" if is_more else plain if "/" not in override.key_or_group else override_text)
    return chosen, values


def _is_option(override: Override, draft: ConfigDraft) -> bool:
    """True if the override chooses an existing option of a group; reports a problem otherwise."""
    group, value, override_text = override.key_or_group, override.value(), override.input_line
    if value is None or override.is_delete():
        if group == MAY_BE_EMPTY or "/" in group:
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
    draft.undecided |= {group.partition("/")[0]} - {MAY_BE_EMPTY}
    return False


def _compose_groups(chosen: list[str], draft: ConfigDraft) -> tuple[DictConfig, dict[str, str | None]]:
    """Merge the files of the defaults lists in Hydra's order; returns the tree and the option of every group."""
    repository = ConfigRepository(ConfigSearchPathImpl())
    repository.sources = [_Folder(str(folder)) for folder in options.folders(draft.dirs)]
    try:
        with _own_hydra_version():
            defaults_list = create_defaults_list(
                CachingConfigRepository(repository),
                "config",
                OverridesParser.create().parse_overrides(chosen),
                prepend_hydra=False,
                skip_missing=False,
            )
        tree = OmegaConf.create()
        for entry in defaults_list.defaults:
            _merge(entry.config_path or "", entry.package or "", tree, draft)
    except ConfigError as err:
        raise ConfigError([*draft.problems, *err.problems]) from err
    except (HydraException, OmegaConfBaseException, ValueError, TypeError, AttributeError, RecursionError) as err:
        raise ConfigError([*draft.problems, _describe_composition_error(err, chosen, draft)]) from err
    choices = {
        group: option if option is None or isinstance(option, str) else ",".join(option)
        for group, option in defaults_list.overrides.known_choices.items()
    }
    return tree, choices


@contextmanager
def _own_hydra_version() -> Iterator[None]:
    """Read defaults lists by the rules of the newest Hydra, whatever version a program that uses Hydra itself has set."""
    with _HYDRA_LOCK:
        before = VersionBase.instance().version_base
        hydra.version.setbase(None)
        try:
            yield
        finally:
            VersionBase.instance().version_base = before


class _Folder(FileConfigSource):
    """A folder of groups and options. Hydra reads a file of it only within limits, and an error names the file."""

    def __init__(self, path: str) -> None:
        super().__init__("lathe", path)

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(self.path, self._normalize_file_name(config_path))
        content = load_file(path)
        header = self._get_header_dict(path.read_text(encoding="utf-8-sig")[:512])
        return ConfigResult(provider=self.provider, path=self.path, config=content, header=header)


def _merge(config_path: str, package: str, tree: DictConfig, draft: ConfigDraft) -> None:
    paths = [folder / f"{config_path}.yaml" for folder in options.folders(draft.dirs)]
    paths = [path for path in paths if path.is_file()]
    for hidden in paths[1:]:
        draft.problems.append(
            f"{shown_path(hidden)} is hidden by {shown_path(paths[0])}, which has the same name; rename it"
        )
    content = load_file(paths[0])
    content.pop("defaults", None)
    for name in reversed(package.split(".") if package else []):
        content = OmegaConf.create({name: content})
    _drop_replaced(content, tree)
    tree.merge_with(content)
    draft.origins.add_file(paths[0], package)


def _drop_replaced(content: DictConfig, tree: DictConfig) -> None:
    """Delete nodes that the content replaces by another kind of node: OmegaConf refuses to merge these."""
    for name in list(content):
        new, old = content._get_node(name), tree._get_node(name)
        if isinstance(new, DictConfig) and isinstance(old, DictConfig):
            _drop_replaced(new, old)
        elif (
            isinstance(new, (DictConfig, ListConfig))
            and isinstance(old, (DictConfig, ListConfig))
            and type(new) is not type(old)
        ):
            del tree[name]


def _describe_composition_error(err: Exception, chosen: Sequence[str], draft: ConfigDraft) -> str:
    """The message for an error in an option's file or in its defaults list."""
    text = str(err).splitlines()[0] if str(err) else type(err).__name__
    if isinstance(err, RecursionError):
        return "a defaults list contains itself; name the other option as a file: `/group/option@_here_`"
    named = re.match(r"In '(.+?)': (.*)", text)
    # For an override in an experiment's list, Hydra names the root.
    where = f"the defaults list of {named.group(1)}.yaml" if named and named.group(1) != "config" else "a defaults list"
    missing = getattr(err, "missing_cfg_file", None)
    if isinstance(missing, str):
        return f"{where} contains '{missing}', which does not exist; {other_option(missing, draft.groups)}"
    unmatched = re.search(r"Could not override '(.+?)'", text)
    if unmatched:
        group = unmatched.group(1)
        override_text = next((text for text in chosen if text.lstrip("+~").startswith(group)), None)
        outer, _, package = group.partition("@")
        if override_text is None and package.endswith(f".{outer}"):
            return f"{where} cannot choose '{outer}'; make `# @package _global_` the first line of its file"
        if group in OF_SWEEPS:
            return f"{override_text or where} is a setting of a sweep; write `sweep.{override_text or f'{group}=...'}`"
        return f"{override_text or where}: the configuration has no group '{group}'; {did_you_mean(group, draft.groups, lists())}"
    twice = re.match(r"Multiple values for (\S+)\.", text)
    if twice:
        group = twice.group(1)
        return (
            f"a defaults list chooses '{group}' a second time; write `override /{group}: ...` to choose another option"
        )
    return f"{where} cannot be composed: {named.group(2) if named else text}; correct it"


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
            OmegaConf.update(tree, key, value, merge=isinstance(value, dict), force_add=True)
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
