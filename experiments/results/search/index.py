"""An index of the runs in a folder for searches, cached in a file so that a second search is fast."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.core import renamed
from experiments.core.atomic import write_text
from experiments.core.files.field_types import (
    Check,
    is_int,
    is_map,
    is_map_of_maps,
    is_number,
    is_time,
    matches,
    optional,
)
from experiments.core.files.read_file import DamagedFileError, read_json_map, read_yaml_map
from experiments.run import evaluations, journal
from experiments.run.annotations import Annotations, read_annotations
from experiments.run.metric_comparison import VERDICT
from experiments.run.metrics import MetricSummary, final_values
from experiments.run.state import determine_state, is_process_alive, read_outcome
from experiments.sweep.ledger import Entry, Ledger
from experiments.trial.run_files import read_config, read_provenance

FILE = ".index.json"
VERSION = 3
ATTRIBUTES = ("id", "name", "state", "sweep", "created", "verdict", "note")
"""What a search may name besides keys of the configuration and metrics."""
NOTHING_SAID = Annotations()
MAX_REASON = 300
"""Letters of the cause of a damage; a YAML error quotes the file."""
LAST, SMALLEST, LARGEST = 1, 2, 3
"""Positions in the entry of a metric, after the step of its last point."""

_ENTRY: Mapping[str, Check] = {
    "mark": is_int, "config": is_map, "created": is_time, "metrics": is_map, "offsets": is_map, "last": optional(is_map),
    "last_time": is_number,
}  # fmt: skip


@dataclass(frozen=True)
class IndexedRun:
    """One run in the index."""

    folder: Path
    state: str
    sweep: str | None
    values: Mapping[str, Any]
    """For a trial of a sweep, the values that vary, with the seed if there are several."""
    entry: Mapping[str, Any]
    """Its cached entry, with its annotations."""
    annotations: Annotations = NOTHING_SAID

    @property
    def note(self) -> str | None:
        return self.annotations.note

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def name(self) -> str:
        return str(self.config.get("name"))

    @property
    def created(self) -> float:
        return float(self.entry["created"])

    @property
    def config(self) -> Mapping[str, Any]:
        """The values of the configuration by dotted key, and the chosen option of every group."""
        config: Mapping[str, Any] = self.entry["config"]
        return config

    @cached_property
    def verdict(self) -> str | None:
        """The verdict, if `lathe reproduce` made this run; else None."""
        try:
            return renamed.state(str(read_yaml_map(self.folder / VERDICT)["verdict"]))
        except (DamagedFileError, KeyError):
            return None

    @cached_property
    def metrics(self) -> dict[str, float]:
        """The last value of every metric, and the value at the delivered step for a run that did not log it."""
        summaries = _read_summaries(self.entry)
        return final_values(
            summaries, self.config.get("checkpoint.best_metric"), self.config.get("checkpoint.best_mode")
        )

    def extreme(self, metric: str, position: int) -> float | None:
        """The smallest or largest value of a metric.

        Args:
            metric: its name.
            position: `SMALLEST` or `LARGEST`.
        """
        point = self.entry["metrics"].get(metric)
        return None if point is None else float(point[position])


@dataclass
class _IndexedSweep:
    """A sweep, read once for all of its trials."""

    folder: Path

    damage: str | None = None
    """A warning about its ledger."""

    @cached_property
    def entries(self) -> dict[str, Entry]:
        ledger = Ledger(self.folder)
        entries = ledger.read().entries
        self.damage = ledger.describe_damage()
        return entries

    @cached_property
    def tags(self) -> Mapping[str, str | None]:
        """What `lathe tag` has changed for all its trials."""
        return read_annotations(self.folder).tags

    @cached_property
    def has_seeds(self) -> bool:
        return len({entry.seed for entry in self.entries.values()}) > 1

    @cached_property
    def provenance(self) -> dict[str, Any]:
        return read_provenance(self.folder)


@dataclass
class Index:
    """The index of all runs in a folder."""

    runs_dir: Path
    damaged: list[str] = field(default_factory=list)
    """One line per run folder that cannot be read."""

    def runs(self) -> list[IndexedRun]:
        """Every run in its current state. Reads only the new parts of journals."""
        before, sweeps = self._load(), dict[Path, _IndexedSweep]()
        entries, runs = dict[str, Any](), list[IndexedRun]()
        for path in sorted(self.runs_dir.glob("*/*/trial.yaml")):
            folder, name = path.parent, f"{path.parent.parent.name}/{path.parent.name}"
            try:
                sweep = (
                    sweeps.setdefault(folder.parent, _IndexedSweep(folder.parent)) if _is_sweep(folder.parent) else None
                )
                entries[name] = _update_entry(path, before.get(name), sweep)
                runs.append(_make_run(folder, entries[name], sweep))
            except DamagedFileError as err:
                self.damaged += err.problems
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:  # also a damaged cache
                before.pop(name, None)
                reason = " ".join(str(err).split())[:MAX_REASON] or type(err).__name__
                self.damaged.append(f"{folder} cannot be read ({reason}); restore it, or move it away")
        for one in sweeps.values():
            self.damaged += filter(None, [one.damage])
        self.damaged = list(dict.fromkeys(self.damaged))
        if entries.keys() != before.keys() or any(entries[name] is not before[name] for name in entries):
            self._save(entries)
        return runs

    def _load(self) -> dict[str, Any]:
        """The entries of the last search; empty if the file is missing, damaged or of another version."""
        try:
            content = read_json_map(self.runs_dir / FILE)
            runs = content["runs"] if content["version"] == VERSION else {}
        except (DamagedFileError, KeyError):
            return {}
        return {name: entry for name, entry in runs.items() if matches(entry, _ENTRY)} if is_map_of_maps(runs) else {}

    def _save(self, entries: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the next search is then as slow as this one
            write_text(self.runs_dir / FILE, json.dumps({"version": VERSION, "runs": entries}, separators=(",", ":")))


def keys(runs_dir: Path) -> list[str]:
    """The keys and metrics in the cached index, for completion."""
    runs = Index(runs_dir)._load().values()
    return sorted({key for run in runs for kind in ("config", "metrics") for key in run[kind]})


def _update_entry(path: Path, before: Any, sweep: _IndexedSweep | None) -> dict[str, Any]:
    """The up-to-date entry of a run; the same object if nothing is new."""
    mark = path.stat().st_mtime_ns
    is_valid = before and before["mark"] == mark
    entry: dict[str, Any] = before if is_valid else {"mark": mark, **_new_entry(path, sweep)}
    journals = journal.journals(path.parent)
    grown = [file for file in journals if file.stat().st_size != entry["offsets"].get(file.parent.name, 0)]
    folders = [folder for folder in evaluations.list_finished(path.parent) if _key(folder) not in entry["offsets"]]
    if not grown and not folders:
        return entry
    entry = {**entry, "offsets": dict(entry["offsets"])}
    metrics = _read_summaries(entry)
    for file in grown:
        attempt = file.parent.name
        highest = journal.highest_steps(journal.journals(path.parent, int(attempt)))
        for events, end in journal.read_blocks(file, entry["offsets"].get(attempt, 0)):
            for event in journal.first_writes(events, highest):
                _add_event(entry, metrics, event)
            entry["offsets"][attempt] = end
    for folder in folders:
        for point in evaluations.read_points(folder):
            _add_evaluation(metrics, point)
        entry["offsets"][_key(folder)] = 0
    entry["metrics"] = {name: [*one.last, one.smallest, one.largest] for name, one in metrics.items() if one.last}
    return entry


def _add_event(entry: dict[str, Any], metrics: dict[str, MetricSummary], event: journal.Event) -> None:
    entry["last_time"] = max(entry["last_time"], event["time"])
    if event["event"] == "state":
        entry["last"] = event
    elif event["event"] == "metrics":
        for name, value in event["metrics"].items():
            metrics.setdefault(name, MetricSummary()).add(event["step"], value)


def _add_evaluation(metrics: dict[str, MetricSummary], point: journal.MetricsEvent) -> None:
    """Add what `lathe evaluate` measured: the last value is that of the latest checkpoint, in whichever order."""
    for name, value in point["metrics"].items():
        summary = metrics.setdefault(name, MetricSummary())
        if summary.last is None or point["step"] > summary.last[0]:
            summary.add(point["step"], value)


def _read_summaries(entry: Mapping[str, Any]) -> dict[str, MetricSummary]:
    return {name: MetricSummary((step, last), *ends) for name, (step, last, *ends) in entry["metrics"].items()}


def _key(evaluation: Path) -> str:
    return f"{evaluations.FOLDER}/{evaluation.name}"


def _new_entry(path: Path, sweep: _IndexedSweep | None) -> dict[str, Any]:
    """The entry of a run without its journals."""
    own = read_provenance(path.parent)
    provenance = {**(sweep.provenance if sweep else {}), **own}
    config = dict(leaves("", read_config(path.parent)))
    for group, option in _options(provenance).items():
        config.setdefault(group, option)
    created = own.get("created", path.stat().st_mtime)  # the folder of a trial is created when the trial is claimed
    return {"config": config, "created": created, "metrics": {}, "offsets": {}, "last": None, "last_time": 0.0}


def _options(provenance: Mapping[str, Any]) -> dict[str, str]:
    """The option of every group; for a run without recorded choices, those in its overrides."""
    chosen = provenance.get("choices")
    if chosen is not None:
        return {group: option for group, option in chosen.items() if option is not None}
    pairs = [str(text).lstrip("+").partition("=") for text in provenance.get("overrides") or []]
    return {key: option for key, equals, option in pairs if equals and "." not in key}


def leaves(prefix: str, node: object) -> Iterator[tuple[str, Any]]:
    """The values of a configuration by dotted key."""
    if isinstance(node, dict) and node:
        for key, child in node.items():
            yield from leaves(f"{prefix}.{key}" if prefix else str(key), child)
    else:
        yield prefix, node


def _make_run(folder: Path, entry: dict[str, Any], sweep: _IndexedSweep | None) -> IndexedRun:
    trial = sweep.entries.get(folder.name) if sweep else None
    annotations = read_annotations(folder)
    config = {**entry["config"], **({"name": annotations.name} if annotations.name else {})}
    for tag, text in {**(sweep.tags if sweep else {}), **annotations.tags}.items():
        config.pop(f"tags.{tag}", None)
        config |= {} if text is None else {f"tags.{tag}": text}
    if sweep is not None and trial is not None:
        values = {**trial.values, **({"seed": trial.seed} if sweep.has_seeds else {})}
        entry = {**entry, "config": {**config, **values}}
        return IndexedRun(folder, trial.state, sweep.folder.name, values, entry, annotations)
    last = entry["last"]
    outcome = read_outcome(folder)
    alive = last is None or is_process_alive(last["host"], last["pid"], last["time"])
    now = determine_state(outcome, last, entry["last_time"], alive)
    return IndexedRun(
        folder,
        "new" if outcome is None and last is None else now.state,
        sweep.folder.name if sweep else None,
        {},
        {**entry, "config": config},
        annotations,
    )


def _is_sweep(folder: Path) -> bool:
    return (folder / "sweep.yaml").is_file()
