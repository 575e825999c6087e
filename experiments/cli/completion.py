"""Shell completion, from the table of commands, YAML files and source that is parsed but never imported."""

from __future__ import annotations

import argparse
import ast
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from experiments.cli.command import Command, CommandArgument
from experiments.cli.commands import COMMANDS
from experiments.cli.project.project_file import find_trusted_project
from experiments.config import options, signature
from experiments.config import type_check as check
from experiments.config.validate import MARKS, ROOT
from experiments.core.files.paths import user_path
from experiments.core.runs_dir import choose_runs_dir

SCRIPTS = {
    # Bash also splits words at `=`. It replaces only its $2, so the text before $2 is removed from every answer.
    "bash": """_lathe() {
  local line=${COMP_LINE:0:COMP_POINT} words current
  read -ra words <<< "$line"
  [[ $line == *[[:space:]] ]] && words+=('')
  current=${words[${#words[@]}-1]}
  local IFS=$'\\n'
  COMPREPLY=($("$1" _complete "${words[@]}" 2> /dev/null))
  COMPREPLY=("${COMPREPLY[@]#"${current%"$2"}"}")
  [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=./] ]] && compopt -o nospace 2> /dev/null
}
complete -F _lathe lathe""",
    "zsh": """(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
_lathe() {
  local -a answers
  answers=("${(@f)$("${words[1]}" _complete "${(@)words[1,CURRENT-1]}" "$PREFIX" 2> /dev/null)}")
  compadd -Q -S '' -- "${(@M)answers:#*[=./]}"
  compadd -Q -- "${(@)answers:#(*[=./]|)}"
}
compdef _lathe lathe""",
    "fish": """function __lathe
  set -l before (commandline -opc)
  set -l current (commandline -ct)
  lathe _complete $before "$current" 2> /dev/null
end
complete -c lathe -f -a '(__lathe)'""",
}

SHARED_FILES = (".yaml", ".tar.gz")
IMAGES = (".jpg", ".jpeg", ".JPG", ".JPEG", ".png")


def print_script(args: argparse.Namespace) -> int:
    """Print the script that a shell evaluates once to complete `lathe`."""
    print(SCRIPTS[args.shell])
    return 0


@dataclass(frozen=True)
class Line:
    """A command line up to the word that is being typed."""

    command: Command
    before: Sequence[str]
    """The complete words after the command."""
    current: str
    """The word that is being typed; may be empty."""

    @cached_property
    def flags(self) -> dict[str, CommandArgument]:
        return {name: argument for argument in self.command.arguments if argument.is_flag for name in argument.names}

    @cached_property
    def positionals(self) -> list[str]:
        """The words in `before` that are neither flags nor values of flags."""
        with_value = {name for name, argument in self.flags.items() if argument.takes_value}
        pairs = pairwise(["", *self.before])
        return [word for earlier, word in pairs if not word.startswith("-") and earlier not in with_value]

    def find_values(self, *flags: str) -> list[str]:
        """The values that these flags were given."""
        separate = [value for word, value in pairwise(self.before) if word in flags]
        return separate + [
            value for word in self.before for flag, _, value in [word.partition("=")] if flag in flags and value
        ]

    @property
    def runs_dir(self) -> Path:
        return choose_runs_dir([None, *self.find_values("--runs-dir")][-1])

    @cached_property
    def config_dirs(self) -> list[str]:
        project = find_trusted_project()
        return [*(project.folders("conf") if project is not None else ()), *self.find_values("-cd", "--config-dir")]

    @cached_property
    def groups(self) -> dict[str, dict[str, Path]]:
        """The file of every option, by group and option."""
        return options.groups(self.config_dirs)


def complete(words: Sequence[str]) -> list[str]:
    """Return what the last word can become.

    Args:
        words: the command line so far, beginning with ``lathe``; the last word is being typed and may be empty.
    """
    current = words[-1] if len(words) > 1 else ""
    if len(words) < 3:
        candidates: Iterable[str] = [command.name for command in COMMANDS]
        return _starting(current, [*candidates, "--help", "--version"] if current else candidates)
    command = next((command for command in COMMANDS if command.name == words[1]), None)
    if command is None:
        return []
    line = Line(command, words[2:-1], current)
    flag, equals, value = current.partition("=")
    if equals and flag in line.flags:
        return [f"{flag}={answer}" for answer in _answers(line.flags[flag], replace(line, current=value))]
    before = line.flags.get(line.before[-1]) if line.before else None
    if before is not None and before.takes_value:
        return _answers(before, line)
    if current.startswith("-"):
        return _starting(current, sorted(name for name in (*line.flags, "--help") if name.startswith("--")))
    positionals = [argument for argument in command.arguments if not argument.is_flag]
    index = len(line.positionals)
    if positionals and positionals[-1].takes_many:
        index = min(index, len(positionals) - 1)
    if index >= len(positionals):
        return []
    return _answers(positionals[index], line, is_first=index == len(line.positionals))


def _answers(argument: CommandArgument, line: Line, *, is_first: bool = True) -> list[str]:
    kinds = (*argument.completes_first, *argument.completes) if is_first else argument.completes
    candidates = [candidate for kind in kinds for candidate in COMPLETERS[kind](line)]
    return _starting(line.current, [*argument.options.get("choices", ()), *candidates])


def _folders(line: Line) -> list[str]:
    return _paths(line.current)


def _images(line: Line) -> list[str]:
    return _paths(line.current, IMAGES)


def _shared_files(line: Line) -> list[str]:
    return _paths(line.current, SHARED_FILES)


def _shared_files_by_name(line: Line) -> list[str]:
    """Shared files where a run is also possible: only once a name has been begun."""
    return _shared_files(line) if line.current else []


def _paths(current: str, endings: tuple[str, ...] = ()) -> list[str]:
    """Folders, and files with these endings, whose path begins with `current`."""
    parent, name = os.path.split(current)
    folder = user_path(parent or ".")
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    names = [os.path.join(path.name, "") if path.is_dir() else path.name for path in entries]
    known = [entry for entry in names if entry.endswith(("/", *endings))]
    is_hidden = name.startswith(".")
    return [os.path.join(parent, entry) for entry in known if is_hidden or not entry.startswith(".")]


def _runs(line: Line) -> list[str]:
    """Ids of runs, and names of `lathe rename`."""
    from experiments.run.annotations import FILE, read_given_name

    ids = {path.parent.name for path in line.runs_dir.glob("*/*/trial.yaml")}
    names = {read_given_name(path.parent) or "" for path in line.runs_dir.glob(f"*/*/{FILE}")}
    return sorted((ids | names) - {"", *line.before})


def _sweeps(line: Line) -> list[str]:
    return sorted(path.parent.name for path in line.runs_dir.glob("*/sweep.yaml"))


def _search_keys(line: Line) -> list[str]:
    """Keys and metrics that the last search has read; a shell completes the beginning of a quoted condition."""
    from experiments.results.search.index import keys

    return keys(line.runs_dir)


def _search_key_list(line: Line) -> list[str]:
    """Keys and metrics after those that are complete."""
    from experiments.results.search.index import ATTRIBUTES

    return _extend_list(line.current, [*ATTRIBUTES, *_search_keys(line)])


def _usage_keys(line: Line) -> list[str]:
    return _extend_list(
        line.current, ["user", "project", "day", "week", "month", "sweep", "state", *_search_keys(line)]
    )


def _extend_list(current: str, keys: Sequence[str]) -> list[str]:
    """Lists with one more key."""
    before, comma, _ = current.rpartition(",")
    return [f"{before}{comma}{key}" for key in keys if key not in before.split(",")]


def _trials(line: Line) -> list[str]:
    """Values and ids that select trials of the sweep on the command line."""
    return _trial_selectors(line, states=None)


def _open_trials(line: Line) -> list[str]:
    """States, values and ids that select trials which have not ended."""
    return _trial_selectors(line, states=("pending", "running"))


def _trial_selectors(line: Line, states: tuple[str, ...] | None) -> list[str]:
    from experiments.sweep.ledger import Ledger
    from experiments.sweep.templates import format_override

    entries = Ledger(line.runs_dir / line.positionals[0]).read().entries.values()
    overrides = [format_override(key, value) for entry in entries for key, value in entry.values.items()]
    ids = [entry.id for entry in entries if states is None or entry.state in states]
    return [word for word in dict.fromkeys([*(states or ()), *overrides, *ids]) if word not in line.before]


def _sweep_files(line: Line) -> list[str]:
    from experiments.sweep.sweep_files import list_sweep_files

    return list(list_sweep_files(line.config_dirs))


def _options(line: Line) -> list[str]:
    """Groups; once a group is complete, also its options."""
    groups = line.groups
    chosen = [f"{group}={option}" for group in groups for option in groups[group]]
    if "=" in line.current:
        return chosen
    return [*groups, *chosen] if line.current in groups else [*groups]


def _experiments(line: Line) -> list[str]:
    return [name for name in line.groups["experiment"] if name not in line.before]


def _multirun_keys(line: Line) -> list[str]:
    return _sweep_keys(line) if line.current.startswith("sweep.") else []


def _sweep_keys(line: Line) -> list[str]:
    """Keys of a sweep spec, and the values of those keys that have a few."""
    if not line.current.startswith("sweep."):
        return ["sweep."]
    key, equals, _ = line.current.partition("=")
    _, *parents, last = key.split(".")
    spec: signature.Signature | None = signature.read("experiments.config.schema.SweepSchema")
    for parent in [*parents, *([last] if equals and _below(spec, last) else [])]:
        spec = _below(spec, parent)
    if spec is None:
        return []
    if equals:  # `sweep.strategy=tpe` is short for `sweep.strategy.name=tpe`
        argument = spec.arguments.get(last, spec.arguments.get("name"))
        values = check.choices(argument.annotation, spec.module) if argument else []
        return [f"{key}={value}" for value in values]
    names = (".".join(["sweep", *parents, name]) for name in spec.arguments if name not in ("base", "space", "points"))
    ends = ((name, ("=", ".") if _below(spec, name.rpartition(".")[2]) else ("=",)) for name in names)
    return [f"{name}{end}" for name, both in ends for end in both]


def _below(spec: signature.Signature | None, name: str) -> signature.Signature | None:
    """The schema class of a key of a schema class."""
    argument = spec.arguments.get(name) if spec else None
    return _schema_class(argument) if argument else None


def _overrides(line: Line) -> list[str]:
    current, groups = line.current, line.groups
    key, equals, _ = current.lstrip("+~").partition("=")
    mark = current[: len(current) - len(current.lstrip("+~"))]
    chosen = _chosen(line.before, groups)
    if equals and key in groups:
        candidates = [f"{key}={option}" for option in groups[key]]
    elif equals:
        candidates = [f"{key}={value}" for value in _values(key, chosen)]
    else:
        end = "" if mark == "~" else "="
        candidates = [f"{name}{end}" for name in (*(g for g in groups if "/" not in g), *_keys(chosen))]
    return [f"{mark}{candidate}" for candidate in dict.fromkeys(candidates)]


def _chosen(before: Sequence[str], groups: Mapping[str, Mapping[str, Path]]) -> dict[str, dict[str, Any]]:
    """The content of the selected option of every group, from the defaults and the overrides so far."""
    defaults = _load(options.CONF_DIR / "config.yaml")["defaults"]
    names = {group: option for entry in defaults if isinstance(entry, dict) for group, option in entry.items()}
    names |= dict(
        word.lstrip("+").split("=", 1)
        for word in before
        if word.lstrip("+").partition("=")[0] in groups and "=" in word
    )
    paths = {group: groups.get(group, {}).get(str(option)) for group, option in names.items() if group != "experiment"}
    return {group: _load(path) for group, path in paths.items() if path is not None}


def _keys(chosen: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """Dotted keys of the root and of the chosen options, including arguments of their classes that no YAML names."""
    for name, argument in signature.read(ROOT).arguments.items():
        inner = _schema_class(argument)
        if name not in chosen:
            yield from (f"{name}.{key}" for key in inner.arguments) if inner else [name]
    for group, content in chosen.items():
        spec = _signature(content)
        plain = (name for name, argument in spec.arguments.items() if _is_plain(argument, spec)) if spec else ()
        yield from (f"{group}.{key}" for key in dict.fromkeys([*content, *plain]) if key not in MARKS)


def _values(key: str, chosen: Mapping[str, dict[str, Any]]) -> list[str]:
    name, _, inner = key.partition(".")
    root = signature.read(ROOT)
    argument = root.arguments.get(name)
    spec: signature.Signature | None = root
    if inner:
        spec = (_schema_class(argument) if argument else None) or _signature(chosen.get(name, {}))
        argument = spec.arguments.get(inner) if spec else None
    return check.choices(argument.annotation, spec.module) if argument and spec else []


def _is_plain(argument: signature.Argument, spec: signature.Signature) -> bool:
    """True where a value can be written on a command line; an optimizer's `params`, for example, cannot."""
    return argument.annotation is None or check.wanted(argument.annotation, spec.module) is not None


def _schema_class(argument: signature.Argument) -> signature.Signature | None:
    """The schema class of a key of the root; None for plain values."""
    module = signature.read(ROOT).module
    kind = argument.annotation
    name = getattr(kind.left if isinstance(kind, ast.BinOp) else kind, "id", "")  # the first part of `Pruner | None`
    return signature.read(f"{module.name}.{name}") if name in module.classes else None


def _signature(content: Mapping[str, Any]) -> signature.Signature | None:
    try:
        return signature.read(str(content.get("_target_")))
    except signature.SourceError:
        return None


def _load(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError):  # `lathe plan` reports the error
        return {}
    return content if isinstance(content, dict) else {}


def _starting(current: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(current)]


COMPLETERS: Mapping[str, Callable[[Line], Iterable[str]]] = {
    "experiment": _experiments,
    "folder": _folders,
    "image": _images,
    "multirun_key": _multirun_keys,
    "open_trial": _open_trials,
    "option": _options,
    "override": _overrides,
    "run": _runs,
    "search_key": _search_keys,
    "search_key_list": _search_key_list,
    "shared_file": _shared_files,
    "shared_file_by_name": _shared_files_by_name,
    "sweep": _sweeps,
    "sweep_file": _sweep_files,
    "sweep_key": _sweep_keys,
    "trial": _trials,
    "usage_key": _usage_keys,
}
"""Candidates for each kind of value that the table of commands names; the caller drops those that do not fit."""
