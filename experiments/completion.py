"""Shell completion of groups, options and keys, from the YAML files alone: no torch, hydra or mlflow."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from experiments import check, options, signature
from experiments.validate import ROOT

SCRIPTS = {
    "bash": """_lathe() {
  local IFS=$'\\n' line="${COMP_LINE:0:COMP_POINT}" cur
  cur="${line##* }"
  COMPREPLY=($(lathe _complete ${line// /$'\\n'} ${line:+$([[ "$line" == *' ' ]] && echo "''")} 2>/dev/null))
  local cut="${cur%"${COMP_WORDS[COMP_CWORD]}"}"
  [[ "$COMP_WORDBREAKS" == *=* && "$cur" == *=* ]] && COMPREPLY=("${COMPREPLY[@]#"${cur%=*}="}")
  [[ ${#COMPREPLY[@]} -eq 1 && "${COMPREPLY[0]}" == *[=.] ]] && compopt -o nospace
}
complete -F _lathe lathe""",
    "zsh": """#compdef lathe
_lathe() {
  local -a found
  found=("${(@f)$(lathe _complete "${words[@]:0:$CURRENT}" 2>/dev/null)}")
  compadd -Q -S '' -- $found
}
compdef _lathe lathe""",
    "fish": """function __lathe
  lathe _complete (commandline -opc) (commandline -ct) 2>/dev/null
end
complete -c lathe -f -a '(__lathe)'""",
}
COMMANDS = ("run", "plan", "resume", "sync", "ui", "options", "data", "completion")


def script(shell: str) -> str:
    """The text that a shell evaluates once to complete `lathe`."""
    return SCRIPTS[shell]


def complete(words: Sequence[str]) -> list[str]:
    """What the last word can become.

    Args:
        words: the command line so far, beginning with ``lathe``; the last one is being typed and may be empty.
    """
    current = words[-1] if len(words) > 1 else ""
    if current == "''":
        current = ""
    if len(words) <= 2:
        return _starting(current, COMMANDS)
    command, before = words[1], words[2:-1]
    if current.startswith("-"):
        return _starting(current, ("--config-dir", "--trust", "--cfg", "--help"))
    if command in ("resume", "sync"):
        return _starting(current, (path.parent.name for path in Path("runs").glob("*/*/trial.yaml")))
    if command == "options":
        groups = options.groups()
        return _starting(current, [*groups, *(f"{g}={o}" for g in groups for o in groups[g] if current.startswith(g))])
    if command == "completion":
        return _starting(current, SCRIPTS)
    return _override(current, before) if command in ("run", "plan") else []


def _override(current: str, before: Sequence[str]) -> list[str]:
    dirs = [after for word, after in pairwise(before) if word == "--config-dir"]
    groups = options.groups(dirs)
    key, equals, _ = current.partition("=")
    if equals and key in groups:
        return _starting(current, (f"{key}={option}" for option in groups[key]))
    if equals:
        return _starting(current, (f"{key}={value}" for value in _values(key)))
    names = [f"{group}=" for group in groups if "/" not in group] + [f"{name}=" for name in _keys(before, groups)]
    return _starting(current, dict.fromkeys(names))


def _keys(before: Sequence[str], groups: dict[str, dict[str, Path]]) -> list[str]:
    """Dotted keys of the root and of the options that are chosen so far."""
    root = _load(options.HOUSE / "config.yaml")
    chosen = {
        group: option for entry in root.pop("defaults") if isinstance(entry, dict) for group, option in entry.items()
    }
    chosen |= dict(word.split("=", 1) for word in before if word.partition("=")[0] in groups and "=" in word)
    keys = list(_leaves(root, ""))
    for group, option in chosen.items():
        path = groups.get(group, {}).get(str(option))
        if path is not None and group != "experiment":
            keys += _leaves(_load(path), f"{group}.")
    return keys


def _leaves(node: dict[str, Any], prefix: str) -> list[str]:
    found: list[str] = []
    for key, value in node.items():
        if isinstance(value, dict) and value and key != "files":
            found += _leaves(value, f"{prefix}{key}.")
        elif not key.startswith("_"):
            found.append(f"{prefix}{key}")
    return found


def _values(key: str) -> list[str]:
    spec = signature.read(ROOT)
    for name in key.split(".")[:-1]:
        annotation = spec.arguments[name].annotation if name in spec.arguments else None
        inner = getattr(annotation, "id", "")
        if inner not in spec.module.classes:
            return []
        spec = signature.read(f"{spec.module.name}.{inner}")
    argument = spec.arguments.get(key.rpartition(".")[2])
    return check.choices(argument.annotation, spec.module) if argument else []


def _load(path: Path) -> dict[str, Any]:
    content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    return content if isinstance(content, dict) else {}


def _starting(current: str, words: Any) -> list[str]:
    return [word for word in words if word.startswith(current)]
