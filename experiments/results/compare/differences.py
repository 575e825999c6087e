"""The differences between two records, except their metrics, in groups."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from experiments.run.split_digest import differ, is_partial
from experiments.trial.parameters import flatten_config
from experiments.trial.record import RunRecord
from experiments.trial.trial import EXCLUDED

GROUPS = ("configuration", "code", "environment", "data", "hardware", "seeds")
ABSENT = "-"
MACHINE = ("cpu_threads", "cpu_capability", "device_name")
"""Keys of a record's environment that belong to the hardware."""


@dataclass(frozen=True)
class Difference:
    """A value that differs between two records; `-` where one has no such value."""

    key: str
    one: str
    other: str


@dataclass
class Differences:
    """All differences, by group."""

    groups: dict[str, list[Difference]] = field(default_factory=lambda: {group: [] for group in GROUPS})
    uncounted: list[Difference] = field(default_factory=list)
    """Differences in names, paths, launcher and tracking, which do not affect the result."""
    unknown: list[str] = field(default_factory=list)
    """Keys that only one of the two records, so that they cannot be compared."""

    def any(self) -> bool:
        return any(self.groups.values())


def differences(one: RunRecord, other: RunRecord) -> Differences:
    """Compare two records."""
    differing = Differences()
    for difference in _between(flatten_config(one.config), flatten_config(other.config)):
        _sort(difference, differing)
    differing.groups["code"] = list(_code(one, other, differing.unknown))
    _environment(one, other, differing)
    _data(one, other, differing)
    return differing


def _sort(difference: Difference, differing: Differences) -> None:
    """Add a difference in the configuration to its group."""
    key = difference.key
    if any(key == name or key.startswith(f"{name}.") for name in EXCLUDED):
        differing.uncounted.append(difference)
    elif key.startswith("data.files."):
        differing.groups["data"].append(difference)
    elif key.partition(".")[0] == "hardware":
        differing.groups["hardware"].append(difference)
    elif re.search(r"(^|\.)seed$", key):
        differing.groups["seeds"].append(difference)
    else:
        differing.groups["configuration"].append(difference)


def _between(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[Difference]:
    """The keys whose values differ, those of the first record first."""
    for key in dict.fromkeys([*one, *other]):
        if one.get(key) != other.get(key) or (key in one) != (key in other):
            yield Difference(key, _text(one, key), _text(other, key))


def _text(values: Mapping[str, Any], key: str) -> str:
    return str(values[key]) if key in values else ABSENT


def _code(one: RunRecord, other: RunRecord, unknown: list[str]) -> Iterator[Difference]:
    """The checkouts that differ. The first of each record is Lathe's own; its folder can have any name."""
    if not one.code or not other.code:
        unknown += ["code"] if one.code or other.code else []
        return
    first, second = _by_name(one), _by_name(other)
    for name in dict.fromkeys([*first, *second]):
        before, after = first.get(name), second.get(name)
        if before is None or after is None or before["sha256"] != after["sha256"]:
            yield Difference(name, describe_commit(before), describe_commit(after))


def _by_name(record: RunRecord) -> dict[str, Mapping[str, Any]]:
    own, *others = record.code
    return {"lathe": own} | {str(entry["name"]): entry for entry in others}


def describe_commit(entry: Mapping[str, Any] | None) -> str:
    """The commit of a checkout, and whether it had uncommitted changes."""
    if entry is None:
        return ABSENT
    if not entry.get("git_sha"):
        return f"no git, sources {entry['sha256'][:12]}"
    changed = f" with uncommitted changes ({entry['sha256'][:8]})" if entry.get("dirty") else ""
    return f"{entry['git_sha'][:12]}{changed}"


def _environment(one: RunRecord, other: RunRecord, differing: Differences) -> None:
    for key in ("python", "platform", *MACHINE):
        first, second = one.environment.get(key), other.environment.get(key)
        if first is None or second is None:
            differing.unknown += [key] if first != second else []
        elif first != second:
            group = "hardware" if key in MACHINE else "environment"
            differing.groups[group].append(Difference(key, str(first), str(second)))
    installed = [record.environment.get("packages") for record in (one, other)]
    if installed[0] and installed[1]:
        names, versions = _packages(installed[0]), _packages(installed[1])
        differing.groups["environment"] += _between(names, versions)
    elif installed[0] or installed[1]:
        differing.unknown.append("packages")


def _packages(installed: Mapping[str, str]) -> dict[str, str]:
    """Versions by the normalised name of the package."""
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in installed.items()}


def _data(one: RunRecord, other: RunRecord, differing: Differences) -> None:
    group = differing.groups["data"]
    before, after = ({k: v for k, v in record.data.items() if k != "splits"} for record in (one, other))
    # Checksums in the configuration are compared with the configuration, by file name.
    if before.get("files") is None and after.get("files") is None:
        group += _between(before, after)
    splits, others = one.data.get("splits") or {}, other.data.get("splits") or {}
    if splits and others:
        group += [
            Difference(f"split {name}", _split(splits.get(name)), _split(others.get(name)))
            for name in dict.fromkeys([*splits, *others])
            if name in splits and name in others and _differ(splits[name], others[name])
        ]
        if any(is_partial(splits[name]["digest"], others[name]["digest"]) for name in splits.keys() & others.keys()):
            differing.unknown.append("data splits beyond their first examples")
    elif splits or others:
        differing.unknown.append("data splits")


def _differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one["num_examples"] != other["num_examples"] or differ(one["digest"], other["digest"])


def _split(entry: Mapping[str, Any] | None) -> str:
    if not entry:
        return ABSENT
    size = f"{entry['num_examples']:,} examples" if entry["num_examples"] else "a stream"
    return f"{size}, {entry['digest']}"
