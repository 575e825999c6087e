"""What two records differ by beside their metrics, in groups, and only that."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from experiments.trial.parameters import parameters
from experiments.trial.record import CodeRecord
from experiments.trial.trial import EXCLUDED

GROUPS = ("configuration", "code", "environment", "data", "hardware", "seeds")
ABSENT = "-"
MACHINE = ("cpu_threads", "cpu_capability", "device_name")
"""Of a record's environment what belongs to the hardware."""


@dataclass(frozen=True)
class Difference:
    """One thing that is another in the other record; `-` stands for what is not there."""

    key: str
    one: str
    other: str


@dataclass
class Differences:
    """All of them, by group."""

    groups: dict[str, list[Difference]] = field(default_factory=lambda: {group: [] for group in GROUPS})
    uncounted: list[Difference] = field(default_factory=list)
    """Names, paths, launcher and tracking: they differ and determine no result."""
    unknown: list[str] = field(default_factory=list)
    """What only one of the two tells, so that nothing can be said of it."""

    def any(self) -> bool:
        return any(self.groups.values())


def differences(one: CodeRecord, other: CodeRecord) -> Differences:
    """Hold two records against each other."""
    found = Differences()
    for difference in _between(parameters(one.config), parameters(other.config)):
        _sort(difference, found)
    found.groups["code"] = list(_code(one, other, found.unknown))
    _environment(one, other, found)
    _data(one, other, found)
    return found


def _sort(difference: Difference, found: Differences) -> None:
    """Put a key of the configuration where one looks for it."""
    key = difference.key
    if any(key == name or key.startswith(f"{name}.") for name in EXCLUDED):
        found.uncounted.append(difference)
    elif key.startswith("data.files."):
        found.groups["data"].append(difference)
    elif key.partition(".")[0] == "hardware":
        found.groups["hardware"].append(difference)
    elif re.search(r"(^|\.)seed$", key):
        found.groups["seeds"].append(difference)
    else:
        found.groups["configuration"].append(difference)


def _between(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[Difference]:
    """The keys whose values differ, in the order of the first and then the second."""
    for key in dict.fromkeys([*one, *other]):
        if one.get(key) != other.get(key) or (key in one) != (key in other):
            yield Difference(key, _text(one, key), _text(other, key))


def _text(values: Mapping[str, Any], key: str) -> str:
    return str(values[key]) if key in values else ABSENT


def _code(one: CodeRecord, other: CodeRecord, unknown: list[str]) -> Iterator[Difference]:
    """The checkouts that differ; the first of each is the house's, whatever its folder is called."""
    if not one.code or not other.code:
        unknown += ["code"] if one.code or other.code else []
        return
    first, second = _by_name(one), _by_name(other)
    for name in dict.fromkeys([*first, *second]):
        before, after = first.get(name), second.get(name)
        if before is None or after is None or before["sha256"] != after["sha256"]:
            yield Difference(name, commit(before), commit(after))


def _by_name(record: CodeRecord) -> dict[str, Mapping[str, Any]]:
    house, *others = record.code
    return {"lathe": house} | {str(entry["name"]): entry for entry in others}


def commit(entry: Mapping[str, Any] | None) -> str:
    """A checkout in a few words: its commit, and whether there was more than that."""
    if entry is None:
        return ABSENT
    if not entry.get("git_sha"):
        return f"no git, sources {entry['sha256'][:12]}"
    changed = f" with uncommitted changes ({entry['sha256'][:8]})" if entry.get("dirty") else ""
    return f"{entry['git_sha'][:12]}{changed}"


def _environment(one: CodeRecord, other: CodeRecord, found: Differences) -> None:
    for key in ("python", "platform", *MACHINE):
        first, second = one.environment.get(key), other.environment.get(key)
        if first is None or second is None:
            found.unknown += [key] if first != second else []
        elif first != second:
            group = "hardware" if key in MACHINE else "environment"
            found.groups[group].append(Difference(key, str(first), str(second)))
    installed = [record.environment.get("packages") for record in (one, other)]
    if installed[0] and installed[1]:
        names, versions = _packages(installed[0]), _packages(installed[1])
        found.groups["environment"] += _between(names, versions)
    elif installed[0] or installed[1]:
        found.unknown.append("packages")


def _packages(installed: Mapping[str, str]) -> dict[str, str]:
    """Versions by the one spelling of a name that the package index has."""
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in installed.items()}


def _data(one: CodeRecord, other: CodeRecord, found: Differences) -> None:
    group = found.groups["data"]
    before, after = ({k: v for k, v in record.data.items() if k != "splits"} for record in (one, other))
    # Checksums that the configuration gives are there already, by name.
    if before.get("files") is None and after.get("files") is None:
        group += _between(before, after)
    splits, others = one.data.get("splits") or {}, other.data.get("splits") or {}
    if splits and others:
        group += [
            Difference(f"split {name}", _split(splits.get(name)), _split(others.get(name)))
            for name in dict.fromkeys([*splits, *others])
            if name in splits and name in others and splits[name] != others[name]
        ]
    elif splits or others:
        found.unknown.append("splits as they were read")


def _split(told: Mapping[str, Any] | None) -> str:
    return f"{told['num_examples']:,} examples, {told['digest'][:12]}" if told else ABSENT
