"""What a search has to know of every run of a folder, kept in a file beside them so that a second search is quick."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from experiments.core import renamed
from experiments.core.atomic import write_text
from experiments.core.errors import InputError
from experiments.run import journal
from experiments.run.metrics import MetricSummary
from experiments.run.state import determine_state, is_process_alive, read_outcome
from experiments.run.verdict_file import VERDICT
from experiments.sweep.ledger import Entry, Ledger

FILE = ".index.json"
VERSION = 2
LAST, SMALLEST, LARGEST = 1, 2, 3
"""Places in what is known of a metric, behind the step of its last point."""


@dataclass(frozen=True)
class IndexedRun:
    """One run as a search sees it."""

    folder: Path
    state: str
    sweep: str | None
    values: Mapping[str, Any]
    """Of a sweep's trial what varies, the seed among it where a point has several."""
    known: Mapping[str, Any]
    """What the index holds of it."""

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def name(self) -> str:
        return str(self.config.get("name"))

    @property
    def created(self) -> float:
        return float(self.known["created"])

    @property
    def config(self) -> Mapping[str, Any]:
        """The leaves of the configuration by their dotted keys, and of every group the option that was chosen."""
        config: Mapping[str, Any] = self.known["config"]
        return config

    @cached_property
    def verdict(self) -> str | None:
        """Of a run that `lathe reproduce` made, whether it repeats the other; None of all others."""
        try:
            return renamed.state(str(_yaml(self.folder / VERDICT)["verdict"]))
        except (OSError, ValueError, KeyError, yaml.YAMLError):
            return None

    @cached_property
    def metrics(self) -> dict[str, float]:
        """The last value of every metric."""
        return {name: point[LAST] for name, point in self.known["metrics"].items()}

    def extreme(self, metric: str, place: int) -> float | None:
        """The smallest or largest value of a metric."""
        point = self.known["metrics"].get(metric)
        return None if point is None else float(point[place])


@dataclass
class _IndexedSweep:
    """What all trials of a sweep share."""

    folder: Path

    @cached_property
    def entries(self) -> dict[str, Entry]:
        return Ledger(self.folder).read().entries

    @cached_property
    def has_seeds(self) -> bool:
        return len({entry.seed for entry in self.entries.values()}) > 1

    @cached_property
    def provenance(self) -> dict[str, Any]:
        return _yaml(self.folder / "provenance.yaml")


@dataclass
class Index:
    """All runs of a folder."""

    runs_dir: Path
    damaged: list[str] = field(default_factory=list)
    """Folders of runs that cannot be read, and why."""

    def runs(self) -> list[IndexedRun]:
        """Every run, as it stands now; of journals only what is new is read."""
        before, sweeps = self._load(), dict[Path, _IndexedSweep]()
        entries, found = dict[str, Any](), list[IndexedRun]()
        for path in sorted(self.runs_dir.glob("*/*/trial.yaml")):
            folder, name = path.parent, f"{path.parent.parent.name}/{path.parent.name}"
            try:
                sweep = (
                    sweeps.setdefault(folder.parent, _IndexedSweep(folder.parent)) if _is_sweep(folder.parent) else None
                )
                entries[name] = known = _known(path, before.get(name), sweep)
                found.append(_run(folder, known, sweep))
            except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError, InputError) as err:
                self.damaged.append(f"{folder} cannot be read ({type(err).__name__}); restore it, or move it away")
        if entries.keys() != before.keys() or any(entries[name] is not before[name] for name in entries):
            self._save(entries)
        return found

    def _load(self) -> dict[str, Any]:
        """What the last search knew; nothing where the file is missing, damaged or of another version."""
        try:
            told = json.loads((self.runs_dir / FILE).read_text())
            return dict(told["runs"]) if told["version"] == VERSION else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _save(self, entries: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the next search then takes as long as this one
            write_text(self.runs_dir / FILE, json.dumps({"version": VERSION, "runs": entries}, separators=(",", ":")))


def keys(runs_dir: Path) -> list[str]:
    """The keys and metrics that the last search knew, for completion."""
    runs = Index(runs_dir)._load().values()
    return sorted({key for run in runs for kind in ("config", "metrics") for key in run[kind]})


def _known(path: Path, before: Any, sweep: _IndexedSweep | None) -> dict[str, Any]:
    """What is known of one run, brought up to date; the same object where nothing is new."""
    mark = path.stat().st_mtime_ns
    known: dict[str, Any] = before if before and before["mark"] == mark else {"mark": mark, **_frozen(path, sweep)}
    journals = journal.journals(path.parent)
    grown = [file for file in journals if file.stat().st_size != known["offsets"].get(file.parent.name, 0)]
    if not grown:
        return known
    known = {**known, "offsets": dict(known["offsets"])}
    metrics = {
        name: MetricSummary((step, last), *extremes) for name, (step, last, *extremes) in known["metrics"].items()
    }
    for file in grown:
        attempt = file.parent.name
        for events, end in journal.read_blocks(file, known["offsets"].get(attempt, 0)):
            for event in events:
                _take(known, metrics, event)
            known["offsets"][attempt] = end
    known["metrics"] = {name: [*one.last, one.smallest, one.largest] for name, one in metrics.items() if one.last}
    return known


def _take(known: dict[str, Any], metrics: dict[str, MetricSummary], event: journal.Event) -> None:
    known["last_time"] = max(known["last_time"], event["time"])
    if event["event"] == "state":
        known["last"] = event
    elif event["event"] == "metrics":
        step = event["step"]
        for name, value in event["metrics"].items():
            if (summary := metrics.get(name)) is None:
                summary = metrics[name] = MetricSummary()
            if summary.last is None or step > summary.last[0]:  # a resumed attempt repeats steps
                summary.add(step, value)


def _frozen(path: Path, sweep: _IndexedSweep | None) -> dict[str, Any]:
    """What of a run never changes."""
    own = _yaml(path.parent / "provenance.yaml")
    provenance = {**(sweep.provenance if sweep else {}), **own}
    config = dict(_leaves("", renamed.upgrade(_yaml(path))))
    for group, option in _options(provenance).items():
        config.setdefault(group, option)
    created = own.get("created", path.stat().st_mtime)  # a trial's folder is made when it is first claimed
    return {"config": config, "created": created, "metrics": {}, "offsets": {}, "last": None, "last_time": 0.0}


def _options(provenance: Mapping[str, Any]) -> dict[str, str]:
    """The option of every group; of a run from before they were noted those that its overrides name."""
    chosen = provenance.get("choices")
    if chosen is not None:
        return {group: option for group, option in chosen.items() if option is not None}
    pairs = [str(typed).lstrip("+").partition("=") for typed in provenance.get("overrides") or []]
    return {key: option for key, equals, option in pairs if equals and "." not in key}


def _leaves(prefix: str, node: object) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for key, child in node.items():
            yield from _leaves(f"{prefix}.{key}" if prefix else str(key), child)
    else:
        yield prefix, node


def _run(folder: Path, known: dict[str, Any], sweep: _IndexedSweep | None) -> IndexedRun:
    entry = sweep.entries.get(folder.name) if sweep else None
    if sweep is not None and entry is not None:
        values = {**entry.values, **({"seed": entry.seed} if sweep.has_seeds else {})}
        known = {**known, "config": {**known["config"], **values}}
        return IndexedRun(folder, entry.state, sweep.folder.name, values, known)
    last = known["last"]
    outcome = read_outcome(folder)
    alive = last is None or is_process_alive(last["host"], last["pid"], last["time"])
    now = determine_state(outcome, last, known["last_time"], alive)
    return IndexedRun(
        folder,
        "new" if outcome is None and last is None else now.state,
        sweep.folder.name if sweep else None,
        {},
        known,
    )


def _is_sweep(folder: Path) -> bool:
    return (folder / "sweep.yaml").is_file()


def _yaml(path: Path) -> dict[str, Any]:
    content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no map")
    return content
