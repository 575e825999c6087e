"""Shell completion from the YAML files and from source that is read, never imported: no torch, hydra or mlflow."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from experiments.cli.parser import SHELLS, make_parser
from experiments.config import options, signature
from experiments.config import type_check as check
from experiments.config.validate import MARKS, ROOT

SCRIPTS = {
    # Bash breaks words at `=` too; its $2 is what it will replace, so what stands before that is cut off every answer.
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
  local -a found
  found=("${(@f)$("${words[1]}" _complete "${(@)words[1,CURRENT-1]}" "$PREFIX" 2> /dev/null)}")
  compadd -Q -S '' -- "${(@M)found:#*[=./]}"
  compadd -Q -- "${(@)found:#(*[=./]|)}"
}
compdef _lathe lathe""",
    "fish": """function __lathe
  set -l before (commandline -opc)
  set -l current (commandline -ct)
  lathe _complete $before "$current" 2> /dev/null
end
complete -c lathe -f -a '(__lathe)'""",
}


SHARED = (".yaml", ".tar.gz")
"""Endings of shared files."""
IMAGES = (".jpg", ".jpeg", ".JPG", ".JPEG", ".png")


def script(shell: str) -> str:
    """The text that a shell evaluates once to complete `lathe`."""
    return SCRIPTS[shell]


def complete(words: Sequence[str]) -> list[str]:
    """What the last word can become.

    Args:
        words: the command line so far, beginning with ``lathe``; the last one is being typed and may be empty.
    """
    parser, parts = make_parser()
    current = words[-1] if len(words) > 1 else ""
    command, before = words[1] if len(words) > 2 else "", words[2:-1]
    if not command:
        return _starting(current, [*parts, *_flags(parser)] if current else parts)
    if command not in parts:
        return []
    flag, equals, value = current.partition("=")
    if equals and flag.startswith("--"):
        return [f"{flag}={found}" for found in _flag_values(flag, value)]
    if before and before[-1] in _flags_with_value(parts[command]):
        return _flag_values(before[-1], current)
    if current.startswith("-"):
        return _starting(current, _flags(parts[command]))
    return _argument(command, current, before)


def _argument(command: str, current: str, before: Sequence[str]) -> list[str]:
    place = len(_positionals(command, before))
    if command == "sync" or (command == "resume" and place == 0):
        return _starting(current, [*(_sweeps(before) if command == "resume" else []), *_runs(before)])
    if command in ("status", "logs", "cancel"):
        if place == 0:
            return _starting(current, _sweeps(before))
        is_taken = command == "status" or (command == "logs" and place > 1)
        return [] if is_taken else _starting(current, _trials(command, before))
    if command == "report":
        return _starting(current, [*(_sweeps(before) if place == 0 else []), *_runs(before)])
    if command == "predict" and place > 0:
        return _paths(current, IMAGES)
    if command in ("share", "export", "predict", "reproduce", "diff") and place < (2 if command == "diff" else 1):
        files = _paths(current, SHARED) if current and command in ("reproduce", "diff") else []
        return [*_starting(current, _runs(before)), *files]
    if command == "completion":
        return _starting(current, SHELLS)
    if command == "ls":
        return _starting(current, _searched(before)) if place == 0 else []
    if command == "sweep" and place == 0:
        return _starting(current, _questions(before))
    groups = options.groups(_values_of("--config-dir", before) + _values_of("-cd", before))
    if command == "options":
        chosen = [f"{group}={option}" for group in groups for option in groups[group]]
        return _starting(current, chosen if "=" in current else [*groups, *chosen] if current in groups else groups)
    if command in ("run", "sweep", "resume") and current.startswith("sweep."):
        return _of_question(current)
    found = _override(current, before, groups) if command in ("run", "plan", "sweep", "zoo", "simulate") else []
    if command == "simulate" and place == 0:
        found = [*_starting(current, _runs(before)), *found]
    names = [name for name in groups["experiment"] if name not in before] if command == "zoo" else []
    return found + _starting(current, ["sweep.", *names] if command in ("sweep", "resume") else names)


def _flags(parser: Any) -> list[str]:
    return sorted(flag for flag in parser._option_string_actions if flag.startswith("--"))


def _flags_with_value(parser: Any) -> list[str]:
    return [flag for flag, action in parser._option_string_actions.items() if action.nargs is None]


def _flag_values(flag: str, current: str) -> list[str]:
    if flag == "--from":
        return _paths(current, SHARED)
    return _paths(current) if flag in ("-cd", "--config-dir", "--runs-dir") else []


def _paths(current: str, endings: tuple[str, ...] = ()) -> list[str]:
    """The folders, and the files of these endings, that a path may lead to."""
    parent, name = os.path.split(current)
    folder = Path(parent or ".").expanduser()
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [os.path.join(path.name, "") if path.is_dir() else path.name for path in inside]
    known = [inner for inner in found if inner.endswith(("/", *endings))]
    hidden = name.startswith(".")
    return [os.path.join(parent, inner) for inner in _starting(name, known) if hidden or not inner.startswith(".")]


def _values_of(flag: str, words: Sequence[str]) -> list[str]:
    apart = [after for word, after in pairwise(words) if word == flag]
    return apart + [word.partition("=")[2] for word in words if word.startswith(f"{flag}=")]


def _runs(before: Sequence[str]) -> list[str]:
    return sorted({path.parent.name for path in _runs_dir(before).glob("*/*/trial.yaml")} - {*before})


def _runs_dir(before: Sequence[str]) -> Path:
    return Path([os.environ.get("LATHE_RUNS", "runs"), *_values_of("--runs-dir", before)][-1]).expanduser()


def _positionals(command: str, before: Sequence[str]) -> list[str]:
    """The words before that are neither flags nor values of flags."""
    with_value = _flags_with_value(make_parser()[1][command])
    pairs = pairwise(["", *before])
    return [word for earlier, word in pairs if not word.startswith("-") and earlier not in with_value]


def _searched(before: Sequence[str]) -> list[str]:
    """Keys and metrics that the last search has seen; of a condition in quotes a shell completes the beginning."""
    from experiments.results.search.index import keys

    return keys(_runs_dir(before))


def _sweeps(before: Sequence[str]) -> list[str]:
    """Names of the sweeps that were begun."""
    return sorted(path.parent.name for path in _runs_dir(before).glob("*/sweep.yaml"))


def _trials(command: str, before: Sequence[str]) -> list[str]:
    """What names trials of the sweep that was typed: ids, values of what varies and, where that makes sense, states."""
    from experiments.sweep.ledger import Ledger
    from experiments.sweep.templates import override_of

    entries = Ledger(_runs_dir(before) / _positionals(command, before)[0]).look().entries.values()
    states = ["waiting", "running"] if command == "cancel" else []
    overrides = [override_of(key, value) for entry in entries for key, value in entry.values.items()]
    ids = [entry.id for entry in entries if command == "logs" or entry.state in ("waiting", "running")]
    return [word for word in dict.fromkeys([*states, *overrides, *ids]) if word not in before]


def _questions(before: Sequence[str]) -> list[str]:
    from experiments.sweep.spec import sweep_files

    return list(sweep_files(_values_of("--config-dir", before) + _values_of("-cd", before)))


def _of_question(current: str) -> list[str]:
    """Keys of a sweep's question, and the values of those that have a few."""
    key, equals, _ = current.partition("=")
    _, *parents, last = key.split(".")
    spec: signature.Signature | None = signature.read("experiments.config.schema.SweepSchema")
    for parent in [*parents, *([last] if equals and _below(spec, last) else [])]:
        spec = _below(spec, parent)
    if spec is None:
        return []
    if equals:  # a part is chosen by its name alone
        argument = spec.arguments.get(last, spec.arguments.get("name"))
        found = check.choices(argument.annotation, spec.module) if argument else []
        return _starting(current, (f"{key}={value}" for value in found))
    names = (".".join(["sweep", *parents, name]) for name in spec.arguments if name not in ("base", "space", "given"))
    ends = ((name, ("=", ".") if _below(spec, name.rpartition(".")[2]) else ("=",)) for name in names)
    return _starting(current, (f"{name}{end}" for name, both in ends for end in both))


def _below(spec: signature.Signature | None, name: str) -> signature.Signature | None:
    """The schema's own class that a key of one of its classes is of."""
    argument = spec.arguments.get(name) if spec else None
    return _schema_class(argument) if argument else None


def _override(current: str, before: Sequence[str], groups: Mapping[str, Mapping[str, Path]]) -> list[str]:
    key, equals, _ = current.lstrip("+~").partition("=")
    mark = current[: len(current) - len(current.lstrip("+~"))]
    chosen = _chosen(before, groups)
    if equals and key in groups:
        found: Iterable[str] = (f"{key}={option}" for option in groups[key])
    elif equals:
        found = (f"{key}={value}" for value in _values(key, chosen))
    else:
        end = "" if mark == "~" else "="
        found = [f"{name}{end}" for name in (*(g for g in groups if "/" not in g), *_keys(chosen))]
    return _starting(current, (f"{mark}{word}" for word in dict.fromkeys(found)))


def _chosen(before: Sequence[str], groups: Mapping[str, Mapping[str, Path]]) -> dict[str, dict[str, Any]]:
    """The content of the option of every group, by the defaults and what was typed so far."""
    defaults = _load(options.HOUSE / "config.yaml")["defaults"]
    names = {group: option for entry in defaults if isinstance(entry, dict) for group, option in entry.items()}
    names |= dict(
        word.lstrip("+").split("=", 1)
        for word in before
        if word.lstrip("+").partition("=")[0] in groups and "=" in word
    )
    paths = {group: groups.get(group, {}).get(str(option)) for group, option in names.items() if group != "experiment"}
    return {group: _load(path) for group, path in paths.items() if path is not None}


def _keys(chosen: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """Dotted keys of the root and of the chosen options, what their classes take besides included."""
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
    """True for what can be typed; an optimizer's `params`, for one, cannot."""
    return argument.annotation is None or check.wanted(argument.annotation, spec.module) is not None


def _schema_class(argument: signature.Argument) -> signature.Signature | None:
    """The schema's own class that a key of the root is of."""
    module = signature.read(ROOT).module
    kind = argument.annotation
    name = getattr(kind.left if isinstance(kind, ast.BinOp) else kind, "id", "")  # of `Pruner | None` the first
    return signature.read(f"{module.name}.{name}") if name in module.classes else None


def _signature(content: Mapping[str, Any]) -> signature.Signature | None:
    try:
        return signature.read(str(content.get("_target_")))
    except signature.SourceError:
        return None


def _load(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError):  # `lathe plan` tells what is wrong with it
        return {}
    return content if isinstance(content, dict) else {}


def _starting(current: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(current)]
