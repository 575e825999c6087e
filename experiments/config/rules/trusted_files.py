"""Keys that only the command line or a trusted file may set: their values run in a shell, or say where results are sent."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.config.allowlist import trusted_folders
from experiments.config.source_map import SourceMap, parents, shown_path
from experiments.config.sweep_values import SweepValues
from experiments.core.files.packages import PROJECT_ROOT

MACHINE_KEYS = {
    "hardware.slurm": "goes into the batch script, which a shell on the nodes runs",
    "launcher": "chooses the programs that are started, or the environment variables that they get",
    "notify.command": "is a command that a shell on this machine runs",
    "notify.webhook": "decides where results are sent",
    "tracking.store": "decides where results and the login of your MLflow server are sent",
    "tracking.trackers": "decides where results are sent",
}
"""What the texts below each of these keys do. Numbers, such as ``launcher.workers``, are harmless."""
HARMLESS_VARIABLES = ("LATHE_DATA", "LATHE_RUNS")
"""Environment variables that any file may refer to: they hold paths."""
BUILT_IN = tuple(PROJECT_ROOT / name for name in ("conf", "sweeps"))
VARIABLE = re.compile(r"\$\{\s*oc\.env\s*:\s*([^,}]*)")
REFERENCE = re.compile(r"\$\{([^${}]*)\}")
WHOLE_REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")
PLAIN_REFERENCE = re.compile(r"(\.*)([^:.][^:]*)")


class TrustedFiles:
    """The built-in configurations, and the files below trusted folders."""

    def __init__(self, trust: Collection[str] = (), config_dirs: Sequence[Path] = ()) -> None:
        """
        Args:
            trust: packages and folders, from `--trust`.
            config_dirs: named in messages.
        """
        self._folders = [folder.resolve() for folder in (*BUILT_IN, *trusted_folders(trust))]
        self._config_dirs = config_dirs

    def __contains__(self, path: Path) -> bool:
        real = path.resolve()  # a link in a trusted folder can lead to a file that is not trusted
        return any(real.is_relative_to(folder) for folder in self._folders)

    def hint(self, path: Path) -> str:
        """How to trust a file."""
        shown = shown_path(next((folder for folder in self._config_dirs if path.is_relative_to(folder)), path.parent))
        folder = shown if shown.startswith("/") else "." if shown == "." else f"./{shown}"
        return f"add `--trust {folder}{'/' if folder == '.' else ''}` if you trust its author"

    def find_problems(self, config: Mapping[str, Any], origins: SourceMap) -> Iterator[str]:
        """Every value of an untrusted file that runs in a shell, that says where results are sent, or that reads the environment.

        Args:
            config: resolved, except for `${oc.env:NAME}`.
            origins: where its values were written.
        """
        for key, value in _texts(config):
            effect = describe_effect(key, value)
            if effect is None:
                continue
            path = next((path for path in _files_of(key, origins, set()) if path not in self), None)
            if path is not None:
                hint = f"give `{key.partition('[')[0]}=...` on the command line, or {self.hint(path)}"
                yield f"{origins.as_written(key, value)} {effect}, and only a file that you trust may do that; {hint}"


def describe_effect(key: str, value: Any) -> str | None:
    """What makes a value dangerous if its author is not trusted; None for a harmless one."""
    if not isinstance(value, str):
        return None
    variables = [name.strip() for name in VARIABLE.findall(value)]
    if any(name not in HARMLESS_VARIABLES for name in variables):
        return "reads your environment"
    if key.endswith("_target_"):  # the allow-list decides
        return None
    return next((effect for machine_key, effect in MACHINE_KEYS.items() if _is_at(key, machine_key)), None)


def find_in_overrides(overrides: Iterable[tuple[str, Any]], groups: Collection[str]) -> Iterator[tuple[str, str]]:
    """The keys of overrides from an untrusted file that only a trusted one may set, each with its effect.

    Args:
        overrides: keys and values: plain, or in the sweep grammar.
        groups: to choose an option of a group, such as ``launcher=slurm``, is harmless.
    """
    for key, value in overrides:
        is_option = key in MACHINE_KEYS and key in groups and not isinstance(value, Mapping)
        for inner, text in _texts({key: list(value.items) if isinstance(value, SweepValues) else value}):
            plain = WHOLE_REFERENCE.fullmatch(text)
            if "$" in text and (plain is None or any(_is_at(plain.group(1), known) for known in MACHINE_KEYS)):
                yield inner, "can read your environment or a setting of your machine"
            elif not is_option and (effect := describe_effect(inner, text)) is not None:
                yield inner, effect


def _is_at(key: str, parent: str) -> bool:
    return key == parent or key.startswith((f"{parent}.", f"{parent}["))


def _texts(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a configuration, by dotted key."""
    if isinstance(node, Mapping):
        for name, inner in node.items():
            yield from _texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(node, (list, tuple)):
        for index, inner in enumerate(node):
            yield from _texts(inner, f"{key}[{index}]")
    elif isinstance(node, str):
        yield key, node


def _files_of(key: str, origins: SourceMap, seen: set[str]) -> Iterator[Path]:
    """The files that a value comes from: its own, and those of the keys that it refers to."""
    written = next((known for known in (key, *parents(key)) if origins.text(known) is not None), None)
    if written is None or written in seen:
        return
    seen.add(written)
    if (location := origins.locations.get(written)) is not None:
        yield location.path
    for reference in _references(written, origins.text(written) or ""):
        if reference is None:  # it is computed, so it can be any key
            yield from (location.path for location in origins.locations.values())
            return
        for inner in origins.keys_at(reference):
            yield from _files_of(inner, origins, seen)


def _references(key: str, text: str) -> Iterator[str | None]:
    """The keys that a text refers to; None for one that is computed. `${oc.env:NAME}` refers to no key."""
    while (match := REFERENCE.search(text)) is not None:
        expression = match.group(1).strip()
        plain = PLAIN_REFERENCE.fullmatch(expression)
        if "\0" in expression or (plain is None and not expression.startswith("oc.env:")):
            yield None
        elif plain is not None:
            above = list(parents(key))
            depth = len(plain.group(1))
            base = above[depth - 1] if 0 < depth <= len(above) else ""
            yield f"{base}.{plain.group(2)}".lstrip(".")
        text = text[: match.start()] + "\0" + text[match.end() :]
