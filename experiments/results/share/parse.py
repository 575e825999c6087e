"""Parses and checks a shared file: types, sizes, names, and that its parts fit together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import yaml

from experiments.config.source_map import SourceMap
from experiments.config.validate import Validation
from experiments.core import renamed
from experiments.core.errors import InputError
from experiments.core.format import format_value
from experiments.results.share import rules
from experiments.results.share.archive import Archive, find_mismatches
from experiments.results.share.schema import SharedFileSchema
from experiments.results.share.strict_yaml import load

VERSION = 2
MAX_PROBLEMS = 20
MAX_SETTINGS = 5000  # SourceMap takes quadratic time
MAX_POINTS = 10_000
MAX_CHECKOUTS = 16
MAX_THREADS = 1024
MAX_SHOWN = 200
NEW_FILE = "ask the sender for a new file"
LINE, FILE_NAME = re.compile(r"(?=.*\S)[^\n]{1,200}"), re.compile(r"(?=.*\S)[^\n/\\]{1,200}")
FOLDER = re.compile(r"[^\W_.-][^/\\\n]{0,199}")
METRIC = re.compile(r"[\w./@+-]{1,200}")
PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]* \S{1,200}")
ID, SHA256 = re.compile(r"[0-9a-f]{10}"), re.compile(r"[0-9a-f]{64}")
GIT_SHA = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


def parse(path: Path, archive: Archive) -> tuple[dict[str, Any], SourceMap]:
    """The values of a shared file that fits the schema and the rules, and the lines of its configuration.

    Args:
        path: of the file, for messages.
        archive: its content.

    Raises:
        InputError: with every problem that can be found.
    """
    values, root = load(archive.text, str(path))
    origins = SourceMap()

    def stages() -> Iterator[Iterator[str]]:
        """Each stage assumes that the ones before found no problem."""
        yield _find_wrong_version(values, path)
        if values["lathe_share"] == 1:
            _upgrade(values)
        yield _find_wrong_types(values, path)
        _locate(root, origins, path)
        yield _find_wrong_values(values, origins)
        yield find_mismatches(values, archive)

    for stage in stages():
        if problems := list(islice(stage, MAX_PROBLEMS)):
            raise InputError(list(dict.fromkeys(problems)), f"the shared file {path}")
    return values, origins


def one_line(text: str) -> str:
    """A text of an untrusted file, short enough for a message."""
    text = " ".join(text.split())
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _locate(root: yaml.MappingNode, origins: SourceMap, path: Path) -> None:
    node = next(item for key, item in root.value if key.value == "configuration")
    origins.add_node(node, "", path)
    origins.texts = {key: one_line(text) for key, text in origins.texts.items()}


def _upgrade(values: dict[str, Any]) -> None:
    """Give the keys of version 1 today's names."""
    if "note" in values:
        values["description"] = values.pop("note")
    if isinstance(values.get("configuration"), dict):
        values["configuration"] = config = renamed.upgrade(values["configuration"])
        if isinstance(overrides := values.get("overrides"), list) and all(isinstance(text, str) for text in overrides):
            values["overrides"] = renamed.upgrade_overrides(overrides, renamed.renames(config))


def _find_wrong_version(values: dict[str, Any], path: Path) -> Iterator[str]:
    version = values.get("lathe_share")
    if type(version) is not int:
        yield f"{path}: lathe_share is missing or not a whole number; name a file that `lathe share` wrote"
    elif not 1 <= version <= VERSION:
        yield f"lathe_share={version}: this Lathe reads versions 1 to {VERSION}; use the Lathe version that wrote the file"


def _find_wrong_types(values: dict[str, Any], path: Path) -> Iterator[str]:
    """Everything that does not fit the schema; afterwards equal numbers have equal types."""
    known = [field.name for field in fields(SharedFileSchema)]
    new_names = {renamed.new_name(name, known) for name in values if name not in known}
    if missing := [name for name in known if name not in {*values, *new_names}]:
        yield f"{path} lacks {', '.join(missing)}; {NEW_FILE}"
    for name in values:
        if name not in known:
            yield f"{one_line(name)} is not a key of a shared file; {renamed.suggestion(name, known)}"
    if missing or values.keys() - known:
        return
    config, code = values["configuration"], values["code"]
    if not isinstance(config, dict) or _count(config) > MAX_SETTINGS:
        yield f"configuration={one_line(format_value(config))} is not a map of up to {MAX_SETTINGS:,} values; {NEW_FILE}"
    if isinstance(code, list) and len(code) > MAX_CHECKOUTS:
        yield f"code has {len(code):,} entries; the limit is {MAX_CHECKOUTS}; {NEW_FILE}"
    for entry in code if isinstance(code, list) else ():
        if isinstance(entry, dict):
            entry.pop("branch", None)  # in files of earlier versions; not used
    validation = Validation(SourceMap())
    values["configuration"] = {}  # checked when it is to run, with the packages that the receiver trusts
    validation.check_fields(values, f"{SharedFileSchema.__module__}.{SharedFileSchema.__name__}", "")
    values["configuration"] = config
    yield from map(one_line, validation.problems)


def _count(node: Any) -> int:
    items = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return 1 + sum(map(_count, items))


def _find_wrong_values(values: dict[str, Any], origins: SourceMap) -> Iterator[str]:
    for key, text, pattern, rule in _texts(values):
        if text is not None and not pattern.fullmatch(text):
            yield f"{key}={one_line(format_value(text))} is not {rule}; {NEW_FILE}"
    config, data, threads = values["configuration"], values["data"], values["environment"]["cpu_threads"]
    for key, value in {"name": values["name"], "description": values["description"], **values["seeds"]}.items():
        if config.get(key) != value:
            yield f"{key}={one_line(format_value(value))} differs from {key} in the configuration; write the same value in both"
    if (data["num_files"] is None) != (data["names_and_sizes_sha256"] is None):
        yield f"only one of data.num_files and data.names_and_sizes_sha256 is null; {NEW_FILE}"
    if threads is not None and not 0 < threads <= MAX_THREADS:
        yield f"environment.cpu_threads={threads} is not between 1 and {MAX_THREADS}; {NEW_FILE}"
    files = Counter(entry[kind] for entry in values["code"] for kind in ("diff", "untracked") if entry[kind])
    for name, count in files.items():
        if count > 1:
            yield f"code names {one_line(name)} twice, but a file belongs to one checkout; {NEW_FILE}"
    for name, points in values["expected"]["metrics"].items():
        key, steps, num_values = f"expected.metrics.{one_line(name)}", points["steps"], len(points["values"])
        if len(steps) != num_values:
            yield f"{key} has {len(steps):,} steps but {num_values:,} values; {NEW_FILE}"
        if len(steps) > MAX_POINTS:
            yield f"{key} has {len(steps):,} points; the limit is {MAX_POINTS:,}; {NEW_FILE}"
        if any(after <= before for before, after in pairwise([-1, *steps])):
            yield f"{key}.steps do not increase from 0; {NEW_FILE}"
    yield from rules.find_problems(config, origins)


def _texts(values: dict[str, Any]) -> Iterator[tuple[str, str | None, re.Pattern[str], str]]:
    """Key, text, pattern and rule of every text with a form of its own."""
    environment, data = values["environment"], values["data"]
    yield "trial_id", values["trial_id"], ID, "a trial id of 10 hexadecimal digits"
    yield "name", values["name"], FILE_NAME, "one line of 1 to 200 characters without / and \\"
    yield "data.names_and_sizes_sha256", data["names_and_sizes_sha256"], SHA256, "a SHA-256 of 64 hexadecimal digits"
    for key in ("python", "platform", "torch", "device_name", "cpu_capability"):
        yield f"environment.{key}", environment[key], LINE, "one line of 1 to 200 characters"
    for name, version in environment["packages"].items():
        yield "environment.packages", f"{name} {version}", PACKAGE, "the name and version of a package"
    for index, entry in enumerate(values["code"]):
        yield f"code[{index}].name", entry["name"], FOLDER, "a folder name"
        yield f"code[{index}].sha256", entry["sha256"], SHA256, "a SHA-256 of 64 hexadecimal digits"
        yield f"code[{index}].git_sha", entry["git_sha"], GIT_SHA, "a commit of 40 or 64 hexadecimal digits"
    for name in data["splits"]:
        yield "data.splits", name, METRIC, "a split name of letters, digits and ./@+-_"
    for name in values["expected"]["metrics"]:
        yield "expected.metrics", name, METRIC, "a metric name of letters, digits and ./@+-_"
