"""The root of every configuration: Lathe's `config.yaml`, what the `config.yaml` of your folders changes, and your own groups."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from experiments.config.experiment import ConfigDraft
from experiments.config.option_errors import lists, load_file
from experiments.config.options import CONF_DIR
from experiments.config.source_map import shown_path
from experiments.core.errors import did_you_mean
from experiments.core.renamed import suggestion

FILE = "config.yaml"
MAY_BE_EMPTY = "experiment"
MAY_BE_SEVERAL = ("tracking", "callback", "gradient", "experiment")
"""Groups of which a list of options can be chosen, such as ``tracking=[sqlite,tensorboard]``."""
OF_SWEEPS = ("strategy", "pruner")
"""Groups whose options a sweep chooses, not an experiment."""
YAML_TRUTH = {False: "off", True: "on"}
"""What a user wrote who got a truth value for the name of an option: `tracking: off`."""
OWN_KEY = "user"
"""The key of the root below which the values of own groups are."""
Groups = Mapping[str, Mapping[str, Path]]


@dataclass(frozen=True)
class Root:
    """What every composition begins with."""

    defaults: list[Any]
    """Hydra's defaults list: each group with its default option."""
    files: tuple[Path, ...]
    """The `config.yaml` of your folders. Their values come after those of the options, and before an experiment's."""


def read_root(draft: ConfigDraft) -> Root:
    """Read the root; problems of your files are added to the draft.

    Raises:
        ConfigError: a file is not valid YAML.
    """
    files = tuple(path for folder in draft.dirs if (path := Path(folder, FILE)).is_file())
    entries = _entries(load_file(CONF_DIR / FILE))
    defaults = {group: option for entry in entries if entry != "_self_" for group, option in entry.items()}
    experiment = defaults.pop(MAY_BE_EMPTY)
    defaults |= {
        **dict.fromkeys(sorted(draft.own_groups)),
        MAY_BE_EMPTY: experiment,
    }  # last: it can override the others
    for path in files:
        defaults |= _read_defaults(path, draft, defaults)
    placed = {place_own(group) if group in draft.own_groups else group: option for group, option in defaults.items()}
    return Root(["_self_", *({group: option} for group, option in placed.items())], files)


def place_own(group: str) -> str:
    """The group with the place of its values, in Hydra's notation."""
    return f"{group}@{OWN_KEY}.{group}"


def place_override(override_text: str, own_groups: Collection[str]) -> str:
    """An override that chooses an option of an own group, with the place of the values; others are unchanged."""
    named = re.match(r"\+?(~?)(\w+)(?=$|=)", override_text)
    if named is None or named.group(2) not in own_groups:
        return override_text
    return f"{named.group(1)}{place_own(named.group(2))}{override_text[named.end() :]}"


def place_defaults(defaults: Any, own_groups: Collection[str]) -> Any:
    """A defaults list in which an `override /GROUP` of an own group has the place of the values."""
    if not isinstance(defaults, ListConfig) or not own_groups:
        return defaults
    override = re.compile(rf"override\s+/({'|'.join(own_groups)})")

    def place(key: str) -> str:
        named = override.fullmatch(key)
        return f"override /{named.group(1)}@_global_.{OWN_KEY}.{named.group(1)}" if named else key

    entries: Any = OmegaConf.to_container(defaults, resolve=False)
    return OmegaConf.create(
        [{place(key): value for key, value in each.items()} if isinstance(each, dict) else each for each in entries]
    )


def settle_experiments(names: Sequence[str], groups: Groups) -> dict[str, str]:
    """The options that several experiments disagree about, each as the last of them chooses it: as its values do, it wins."""
    chosen = [dict(_list_choices(name, groups, frozenset())) for name in names]
    last = {key: value for choices in chosen for key, value in choices.items()}
    return {key: value for key, value in last.items() if len({c[key] for c in chosen if key in c}) > 1}


def _list_choices(name: str, groups: Groups, above: frozenset[str]) -> Iterator[tuple[str, str]]:
    """The options that an experiment chooses; its own come after those of the experiments that it includes."""
    path = groups[MAY_BE_EMPTY].get(name)
    own: list[tuple[str, str]] = []
    for entry in _entries(load_file(path)) if path is not None and name not in above else ():
        if isinstance(entry, str):
            yield from _list_choices(entry, groups, above | {name})
        for key, option in entry.items() if isinstance(entry, Mapping) else ():
            if group := re.fullmatch(r"override\s+/(.+)", str(key)):
                own.append((group.group(1), _as_text(option)))
    yield from own


def _as_text(option: Any) -> str:
    return f"[{','.join(map(str, option))}]" if isinstance(option, list) else "null" if option is None else str(option)


def _entries(content: DictConfig) -> list[Any]:
    """The defaults list of a file; other values are reported by Hydra, or by `_read_defaults`."""
    entries = OmegaConf.to_container(content, resolve=False).get("defaults", [])  # type: ignore[union-attr]
    return entries if isinstance(entries, list) else []


def _read_defaults(path: Path, draft: ConfigDraft, known: Collection[str]) -> Iterator[tuple[str, Any]]:
    """The valid entries of the defaults list of a `config.yaml` of yours; the others are reported."""
    content = load_file(path)
    if not isinstance(content.get("defaults", []), ListConfig):
        draft.problems.append(f"defaults ({shown_path(path)}) is no list; write `defaults: [model: mlp]`")
    for entry in _entries(content):
        for group, option in entry.items() if isinstance(entry, dict) else [] if entry == "_self_" else [(entry, None)]:
            option = YAML_TRUTH.get(option, option) if isinstance(option, bool) else option
            setting = f"defaults: {group}: {_as_text(option)} ({shown_path(path)})"
            options = option if isinstance(option, list) else [option]
            unknown = [str(each) for each in options if each is not None and each not in draft.groups.get(group, ())]
            if group not in known:
                fault = f"is no default of a group; {did_you_mean(str(group), known, lists())}"
            elif unknown:
                hint = suggestion(unknown[0], draft.groups[group], lists(group))
                fault = f"is not an option of the group '{group}'; {hint}"
            elif isinstance(option, list) and group not in MAY_BE_SEVERAL:
                fault = "gives several options, but a group takes one; write one"
            elif option is None and group != MAY_BE_EMPTY and group not in draft.own_groups:
                fault = f"leaves the required group '{group}' empty; name an option"
            else:
                yield group, option
                continue
            draft.problems.append(f"{setting} {fault}")
