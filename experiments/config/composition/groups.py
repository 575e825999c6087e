"""Merges the files of the chosen options in the order of Hydra's defaults lists."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import hydra.version
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from hydra.version import VersionBase
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.config import options
from experiments.config.composition.root import (
    FILE,
    MAY_BE_EMPTY,
    OF_SWEEPS,
    Root,
    place_defaults,
    place_override,
    read_root,
    settle_experiments,
)
from experiments.config.experiment import ConfigDraft
from experiments.config.option_errors import lists, load_file, other_option
from experiments.config.overrides import is_replaced
from experiments.config.source_map import shown_path
from experiments.core.errors import ConfigError, did_you_mean

ROOT_NAME = FILE.removesuffix(".yaml")
_HYDRA_LOCK = threading.Lock()


def compose_groups(chosen: list[str], draft: ConfigDraft) -> tuple[DictConfig, dict[str, str | None]]:
    """Merge the files of the defaults lists in Hydra's order; returns the tree and the option of every group."""
    try:
        root = read_root(draft)
        repository = ConfigRepository(ConfigSearchPathImpl())
        repository.sources = [_Folder(str(folder), root, draft) for folder in options.folders(draft.dirs)]
        chosen = [*chosen, *_settle(chosen, draft)]
        with _own_hydra_version():
            defaults_list = create_defaults_list(
                CachingConfigRepository(repository),
                ROOT_NAME,
                OverridesParser.create().parse_overrides(chosen),
                prepend_hydra=False,
                skip_missing=False,
            )
        tree = OmegaConf.create()
        entries = defaults_list.defaults
        of_experiment = (number for number, entry in enumerate(entries) if _is_of_experiment(entry))
        first = next(of_experiment, len(entries))
        for entry in entries[:first]:
            _merge(_find_file(entry.config_path or "", draft), entry.package or "", tree, draft)
        for path in root.files:
            _merge(path, "", tree, draft)
        for entry in entries[first:]:
            _merge(_find_file(entry.config_path or "", draft), entry.package or "", tree, draft)
    except ConfigError as err:
        raise ConfigError([*draft.problems, *err.problems]) from err
    except (HydraException, OmegaConfBaseException, ValueError, TypeError, AttributeError, RecursionError) as err:
        raise ConfigError([*draft.problems, _describe_composition_error(err, chosen, draft)]) from err
    choices = {
        group: option if option is None or isinstance(option, str) else ",".join(option)
        for group, option in defaults_list.overrides.known_choices.items()
    }
    return tree, choices


def _is_of_experiment(entry: ResultDefault) -> bool:
    return any((path or "").startswith(f"{MAY_BE_EMPTY}/") for path in (entry.config_path, entry.parent))


def _settle(chosen: Sequence[str], draft: ConfigDraft) -> Iterator[str]:
    """Overrides with the options that several chosen experiments disagree about, and no other override chooses."""
    known = {text.lstrip("+~").partition("=")[0] for text in chosen}
    for text in chosen:
        if text.startswith(f"{MAY_BE_EMPTY}=["):
            names = [name.strip(" '\"") for name in text.partition("=")[2].strip("[]").split(",")]
            for key, option in settle_experiments(names, draft.groups).items():
                settled = place_override(f"{key}={option}", draft.own_groups)
                if settled.partition("=")[0] not in known:
                    yield settled


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

    def __init__(self, path: str, root: Root, draft: ConfigDraft) -> None:
        super().__init__("lathe", path)
        self.root, self.own_groups = root, draft.own_groups

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(self.path, self._normalize_file_name(config_path))
        content = load_file(path)
        if path == options.CONF_DIR / FILE:
            content.defaults = self.root.defaults
        elif "defaults" in content:
            content.defaults = place_defaults(content.defaults, self.own_groups)
        header = self._get_header_dict(path.read_text(encoding="utf-8-sig")[:512])
        return ConfigResult(provider=self.provider, path=self.path, config=content, header=header)


def _find_file(config_path: str, draft: ConfigDraft) -> Path:
    """The file of an option, and of the root that of Lathe; reports a file that it hides."""
    paths = [folder / f"{config_path}.yaml" for folder in options.folders(draft.dirs)]
    paths = [path for path in paths if path.is_file()]
    for hidden in paths[1:] if config_path != ROOT_NAME else ():
        draft.problems.append(
            f"{shown_path(hidden)} is hidden by {shown_path(paths[0])}, which has the same name; rename it"
        )
    return paths[0]


def _merge(path: Path, package: str, tree: DictConfig, draft: ConfigDraft) -> None:
    content = load_file(path)
    content.pop("defaults", None)
    for name in reversed(package.split(".") if package else []):
        content = OmegaConf.create({name: content})
    _drop_replaced(content, tree)
    tree.merge_with(content)
    draft.origins.add_file(path, package)


def _drop_replaced(content: DictConfig, tree: DictConfig) -> None:
    """Delete nodes that the content replaces: by another kind of node, which OmegaConf refuses to merge, or a map by a map."""
    for name in list(content):
        new, old = content._get_node(name), tree._get_node(name)
        if isinstance(new, DictConfig) and isinstance(old, DictConfig):
            if is_replaced(tree, old, new):
                del tree[name]
            else:
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
    where = (
        f"the defaults list of {named.group(1)}.yaml" if named and named.group(1) != ROOT_NAME else "a defaults list"
    )
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
