"""Names of weights in files: renamed to those of a model, and what would make them match."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from experiments.core.errors import did_you_mean

MAX_SAMPLED = 40
"""Names in a file from which a proposal is made."""
MAX_TRIED = 8
Shapes = Mapping[str, list[int]]


def map_names(
    names: Iterable[str], init_from: Mapping[str, Any], known: Mapping[str, str] | None = None
) -> tuple[dict[str, str], list[str]]:
    """Apply `rename` and `prefix` to the names in a file.

    Args:
        names: in the file.
        init_from: of the configuration.
        known: the name in the model by the name in the file, if the configuration says nothing.

    Returns:
        The name in the file by the name in the model, and all problems.
    """
    rename, prefix, names = init_from.get("rename") or {}, init_from.get("prefix"), list(names)
    rules = [(_compile(old), new) for old, new in rename.items()]
    problems = [
        f"init_from.rename: no weight in the file begins with {old!r}; {did_you_mean(old, list_prefixes(names))}"
        for old, (pattern, _) in zip(rename, rules, strict=True)
        if not any(pattern.match(name) for name in names)
    ]
    mapped = dict[str, str]()
    for name in names:
        new_name = _replace(name, rules) if rename or prefix or known is None else known.get(name, name)
        new_name = f"{prefix}.{new_name}" if prefix else new_name
        if new_name in mapped:
            problems.append(
                f"init_from.rename makes {new_name} of {mapped[new_name]} and of {name}; rename one of them"
            )
        mapped[new_name] = name
    return mapped, problems


def _compile(old: str) -> re.Pattern[str]:
    return re.compile("(.+?)".join(map(re.escape, old.split("*"))) + r"(?=\.|$)")


def _replace(name: str, rules: Iterable[tuple[re.Pattern[str], str]]) -> str:
    """Replace the beginning of a name by the first rule that matches."""
    for pattern, replacement in rules:
        if found := pattern.match(name):
            new = replacement
            for part in found.groups():
                new = new.replace("*", part, 1)
            return f"{new}{name[found.end() :]}".strip(".")
    return name


def propose(saved: Shapes, own: Shapes) -> tuple[str, int]:
    """Find how most weights of a file match those of a model.

    Args:
        saved: shapes of the weights in the file.
        own: shapes of the weights of the model.

    Returns:
        What to do, such as ``set init_from.prefix=model``, and how many weights of the file match then. Without a prefix or
        rename with which at least half of them match, and more than with their own names, it is to remove both.
    """
    by_last_part = dict[tuple[str, tuple[int, ...]], list[str]]()
    for name, shape in own.items():
        by_last_part.setdefault((name.rpartition(".")[2], tuple(shape)), []).append(name)
    step = max(1, len(saved) // MAX_SAMPLED)
    changes = Counter(
        _find_change(name, other)
        for name in [*saved][::step]
        for other in by_last_part.get((name.rpartition(".")[2], tuple(saved[name])), [])[:MAX_SAMPLED]
    )
    best, most = "remove init_from.prefix and init_from.rename", count_matches(saved, own)
    enough = min(len(saved), len(own)) / 2
    for (old, new), _ in changes.most_common(MAX_TRIED):
        init_from = {"rename": {old: new}} if old else {"prefix": new}
        mapped, _ = map_names(saved, init_from)
        count = count_matches({name: saved[old_name] for name, old_name in mapped.items()}, own)
        if count > most and count >= enough:
            setting = f"'init_from.rename={{{old}: {new or repr('')}}}'" if old else f"init_from.prefix={new}"
            best, most = f"set {setting}", count
    return best, most


def count_matches(saved: Shapes, own: Shapes) -> int:
    """How many weights have the same name and shape."""
    return sum(own.get(name) == shape for name, shape in saved.items())


def _find_change(name: str, other: str) -> tuple[str, str]:
    """What differs before the longest common end of two dotted names: ``a.b.c`` and ``x.b.c`` differ by ``(a, x)``."""
    old, new = name.split("."), other.split(".")
    while old and new and old[-1] == new[-1]:
        old.pop()
        new.pop()
    return ".".join(old), ".".join(new)


def list_prefixes(names: Iterable[str]) -> set[str]:
    """All prefixes of dotted names: ``a``, ``a.b`` and ``a.b.c`` of ``a.b.c``."""
    return {
        ".".join(words[:count]) for name in names for words in [name.split(".")] for count in range(1, len(words) + 1)
    }
