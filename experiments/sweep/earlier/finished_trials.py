"""Finds runs that have finished with the configuration, the code and the data of a trial, so that it need not run again."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.core.data_files import find_data_folder
from experiments.core.errors import InputError
from experiments.core.files.paths import user_path
from experiments.core.files.read_file import DamagedFileError
from experiments.core.runs_dir import SINGLE
from experiments.run.metrics import delivered_name, delivered_value, read_summaries
from experiments.sweep.ledger import Ledger
from experiments.trial.environment import describe_machine, installed_packages
from experiments.trial.initial_weights import find_all_weights, get_initial_weights
from experiments.trial.trial import Trial, find_trial, fingerprint_data
from experiments.trial.weight_files import hash_file, list_shards

TRIAL_ID = re.compile(rb'"trial":"([0-9a-f]{10})')
MAX_NAMED = 3
CODE, PACKAGES, DATA, WEIGHTS, ATTEMPTS = (
    "the code has changed since",
    "Python or an installed package has another version",
    "the files of the data may have changed since",
    "the initial weights may have changed since",
    "a later attempt may have run other code",
)
"""Why a finished run is not reused."""


@dataclass
class FinishedTrials:
    """The finished runs of some trials in a folder of runs, found once."""

    runs_dir: Path
    code_sha256: str | None
    """Of the code that the trials would run (`code_copy.digest_packages`); None: of an earlier version, and nothing is reused."""
    ids: Collection[str]
    """Of the trials that are looked for."""
    config: Mapping[str, Any]
    """The configuration of one of them, which says where the data is on this machine."""
    refused: dict[str, str] = field(default_factory=dict)
    """By trial id, why a finished run of it, which is named, is not reused."""

    @cached_property
    def runs(self) -> dict[str, Trial]:
        """The first finished run of each trial that has one which can stand for it."""
        found: dict[str, Trial] = {}
        for identity, trial in self._list_candidates():
            if identity in found:
                continue
            try:
                reason = self._find_difference(trial)
            except (DamagedFileError, OSError):
                continue
            if reason is None:
                found[identity] = trial
                self.refused.pop(identity, None)
            else:
                self.refused[identity] = f"{reason} ({_name(trial)})"
        return found

    def read_value(self, identity: str, metric: str, mode: str) -> float | None:
        """The value of a metric for the weights that the run of a trial delivers; None if it was not measured."""
        measured = read_summaries(self.runs[identity].folder, {metric, delivered_name(metric)})
        return delivered_value(measured, metric, mode)

    def describe(self, reused: Collection[str]) -> list[str]:
        """Lines for the user: which trials are reused, and which are not and why.

        Args:
            reused: ids of the trials that are.
        """
        lines, of = [], f"of {len(self.ids)} trials"
        if reused:
            names = [_name(self.runs[identity]) for identity in reused]
            more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
            are, runs = ("was", "is reused, run") if len(names) == 1 else ("were", "are reused, runs")
            lines.append(
                f"{len(names)} {of} {are} finished before and {runs} {', '.join(names[:MAX_NAMED])}{more}; "
                "sweep.reuse=false trains all"
            )
        reasons = Counter(reason.partition(" (")[0] for reason in self.refused.values())
        for reason, count in reasons.items():
            example = next(text for text in self.refused.values() if text.startswith(reason))
            lines.append(f"{count} {of} {'was' if count == 1 else 'were'} finished before, but not reused: {example}")
        return lines

    def _list_candidates(self) -> Iterator[tuple[str, Trial]]:
        """The finished runs of the trials, those of sweeps first, with their trial ids. What is damaged is left out."""
        for path in sorted(self.runs_dir.glob("*/ledger.jsonl")):
            names = list[str]()
            with suppress(DamagedFileError, OSError):
                if {name.decode() for name in TRIAL_ID.findall(path.read_bytes())} & {
                    *self.ids
                }:  # faster than a replay
                    entries = Ledger(path.parent).read().entries.values()
                    names = [entry.id for entry in entries if entry.state == "finished" and entry.reused is None]
            for name in names:
                if (identity := name.partition("-")[0]) in self.ids:
                    yield identity, Trial(path.parent / name)
        for path in sorted(self.runs_dir.glob(f"{SINGLE}/*/outcome.json")):
            with suppress(DamagedFileError, OSError):
                is_known = path.parent.name.partition("-")[0] in self.ids
                if is_known and (Trial(path.parent).outcome() or {}).get("status") == "finished":
                    yield path.parent.name.partition("-")[0], Trial(path.parent)

    def _find_difference(self, trial: Trial) -> str | None:
        """Why the result of a finished run may differ from that of a new one; None if nothing differs."""
        provenance = trial.provenance
        if self.code_sha256 is None or provenance.get("code_sha256") != self.code_sha256:
            return CODE
        if trial.folder.parent.name == SINGLE and len(trial.attempts()) > 1:  # each runs the code of its time
            return ATTEMPTS
        now, then = installed_packages(), provenance.get("packages") or {}
        if provenance.get("python") != describe_machine()["python"] or any(
            then[name] != now[name] for name in then.keys() & now.keys()
        ):
            return PACKAGES
        if not self._has_same_data(trial):
            return DATA
        return None if self._has_same_weights(trial) else WEIGHTS

    def _has_same_data(self, trial: Trial) -> bool:
        """Whether the data has the same files, and none that is newer than the run."""
        data = {**trial.config["data"]}
        if "root" in data and "root" in self.config["data"]:
            data["root"] = self.config["data"]["root"]
        if data.get("files"):  # checksums, which count for the trial's id
            return True
        key = json.dumps(data, sort_keys=True, default=str)
        if key not in self._data:
            try:
                self._data[key] = (fingerprint_data(data), _find_newest_change(data))
            except (InputError, KeyError):  # a variable of the environment is not set
                self._data[key] = ({}, float("inf"))
        fingerprint, changed = self._data[key]
        return bool(fingerprint == trial.provenance.get("data") and changed <= trial.provenance["created"])

    @cached_property
    def _data(self) -> dict[str, tuple[dict[str, Any], float]]:
        return {}

    def _has_same_weights(self, trial: Trial) -> bool:
        if not (named := get_initial_weights(trial.config)):
            return True
        try:
            sources = find_all_weights(named, lambda run: find_trial(run, self.runs_dir).folder)
            shards = [(part, shard) for part, source in sources.items() for shard in list_shards(source)]
        except InputError:
            return False
        expected = (trial.provenance.get("initial") or {}).get("sha256")
        return len(shards) == 1 and shards[0][0] == "" and hash_file(shards[0][1]) == expected


def _name(trial: Trial) -> str:
    sweep = trial.folder.parent.name
    return trial.folder.name if sweep == SINGLE else f"{sweep}/{trial.folder.name}"


def _find_newest_change(data: Mapping[str, Any]) -> float:
    """When a file of the data last changed: in its folder, or at a path that one of its keys names; 0.0 without files."""
    paths = [find_data_folder(data)] if "root" in data and "folder" in data else []
    for value in data.values():
        if isinstance(value, str) and ("/" in value or "." in value) and (path := user_path(value)).exists():
            paths.append(path)
    newest = 0.0
    for path in paths:
        newest = max(newest, path.stat().st_mtime if path.exists() else 0.0)
        for parent, _, names in os.walk(path):
            for name in names:
                file = os.path.join(parent, name)
                newest = max(newest, os.path.getmtime(file) if os.path.exists(file) else 0.0)
    return newest
