"""What is known about one run, as plain data: `lathe show RUN --json`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.core import renamed
from experiments.core.files.read_file import DamagedFileError, MissingFileError, read_yaml_map
from experiments.results.manage.find import find_sweep_of
from experiments.run import evaluations, journal
from experiments.run.annotations import read_annotations
from experiments.run.checkpoint import Checkpoints
from experiments.run.metric_comparison import VERDICT
from experiments.run.metrics import MetricSummary
from experiments.run.state import RunState, determine_state, is_process_alive
from experiments.sweep.sweep import format_reference
from experiments.trial.lookup import read_mlflow_ids
from experiments.trial.trial import Trial

ORIGINS = ("source", "continues", "reproduces", "initial")
"""Keys of the provenance that name another run, or a file."""


@dataclass
class AttemptFacts:
    """One attempt of a run; times are seconds since 1970."""

    number: int
    state: str = "new"
    """new: its journal has no event yet; killed: its process ended without a word; else as its last event says."""
    started: float | None = None
    ended: float | None = None
    """Time of its last event; None while it runs."""
    step: int = 0
    host: str | None = None
    pid: int | None = None
    reason: str | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    """Values that differ from the configuration of the run."""


@dataclass(frozen=True)
class CheckpointFacts:
    """One checkpoint of a run."""

    step: int
    size_bytes: int
    is_delivered: bool


@dataclass(frozen=True)
class RunFacts:
    """Everything about one run."""

    id: str
    name: str
    description: str | None
    note: str | None
    """Of `lathe note`."""
    tags: dict[str, Any]
    sweep: str | None
    """The sweep that it is a trial of."""
    trial_id: str
    state: str
    reason: str | None
    failure: str | None
    created: float | None
    ended: float | None
    step: int
    num_steps: int | None
    """None until it has started, if the configuration does not state it."""
    left_s: float | None
    """Estimated time to the last step; None unless the run is running and has measured its steps."""
    metrics: dict[str, dict[str, float]]
    """By name: ``last`` value and its ``step``, ``min`` and ``max``."""
    best_metric: str | None
    best_mode: str | None
    attempts: list[AttemptFacts]
    checkpoints: list[CheckpointFacts]
    folder: str
    size_bytes: int
    """Of all files in its folder. A file that a child run shares by a hard link counts in both."""
    choices: dict[str, str | None]
    overrides: list[str]
    origins: dict[str, Any]
    """The run or file that it comes from, by key of the provenance: `ORIGINS`."""
    code: list[dict[str, Any]]
    verdict: str | None
    mlflow: dict[str, str]
    warnings: list[str]
    resume: str | None
    """The command that continues it; None for a finished run."""
    config: dict[str, Any]


@dataclass
class _Record:
    """What the journals of a run hold."""

    attempts: list[AttemptFacts]
    metrics: dict[str, MetricSummary]
    last: journal.StateEvent | None = None
    last_time: float = 0.0
    num_steps: int | None = None

    @property
    def step(self) -> int:
        return max((attempt.step for attempt in self.attempts), default=0)


def read_facts(trial: Trial) -> RunFacts:
    """Read everything about a run, from its files alone.

    Raises:
        DamagedFileError: one of its files is damaged.
    """
    record, state = _read_record(trial)
    config, provenance = trial.config, trial.provenance
    annotations = read_annotations(trial.folder)
    sweep = find_sweep_of(trial)
    num_steps = record.num_steps or config.get("max_steps")
    step_time = record.metrics.get("perf/step_time_ms")
    left_s = None
    if state.state == "running" and num_steps and step_time is not None and step_time.last is not None:
        left_s = max(0, num_steps - record.step) * step_time.last[1] / 1e3
    checkpoint = config.get("checkpoint") or {}
    return RunFacts(
        id=trial.folder.name, name=annotations.name or str(config["name"]), description=config.get("description"),
        note=annotations.note, tags=annotations.apply_to_tags(config.get("tags")),
        sweep=sweep.name if sweep else None, trial_id=trial.id,
        state=state.state, reason=state.reason, failure=state.failure, created=provenance.get("created"),
        ended=state.ended, step=record.step, num_steps=num_steps, left_s=left_s,
        metrics={name: _describe_metric(one) for name, one in sorted(record.metrics.items())},
        best_metric=checkpoint.get("best_metric"), best_mode=checkpoint.get("best_mode"),
        attempts=record.attempts, checkpoints=list(_list_checkpoints(trial.folder)),
        folder=str(trial.folder), size_bytes=measure_folder(trial.folder),
        choices=dict(provenance.get("choices") or {}), overrides=[str(text) for text in provenance["overrides"]],
        origins={key: provenance[key] for key in ORIGINS if provenance.get(key)}, code=provenance["code"],
        verdict=_read_verdict(trial.folder), mlflow=read_mlflow_ids(trial), warnings=provenance["warnings"],
        resume=None if state.state in ("finished", "pruned") else make_resume_command(trial), config=config,
    )  # fmt: skip


def read_state(trial: Trial) -> RunState:
    """The state of a run; ``new`` before its first attempt. That of a sweep's trial is from the ledger."""
    return _read_record(trial)[1]


def make_resume_command(trial: Trial) -> str:
    """The command that continues a run; a trial of a sweep continues with its sweep."""
    sweep = find_sweep_of(trial)
    trust = "".join(f" --trust {name}" for name in trial.provenance["trust"])
    return f"lathe resume {format_reference(sweep) if sweep else trial.reference}{trust}"


def measure_folder(folder: Path) -> int:
    """Bytes of all files in a folder; links do not count, and files may disappear meanwhile."""
    total, folders = 0, [str(folder)]
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        total += entry.stat(follow_symlinks=False).st_size
    return total


def _read_record(trial: Trial) -> tuple[_Record, RunState]:
    record = _Record([], {})
    for folder in trial.attempts():
        record.attempts.append(_read_attempt(folder, record))
    for folder in evaluations.list_finished(trial.folder):
        for point in evaluations.read_points(folder):
            _add_evaluation(record.metrics, point)
    last, outcome = record.last, trial.outcome()
    alive = last is not None and is_process_alive(last["host"], last["pid"], last["time"])
    state = determine_state(outcome, last, record.last_time, alive)
    if outcome is None and last is None:
        state = RunState("new", 0, None, None)
    if record.attempts and record.attempts[-1].number == state.attempt:
        record.attempts[-1].state, record.attempts[-1].reason = state.state, state.reason
        record.attempts[-1].ended = state.ended
    sweep = find_sweep_of(trial)
    entry = sweep.ledger().read().entries.get(trial.folder.name) if sweep else None
    if entry is not None:
        state = RunState(entry.state, entry.attempt, state.ended, entry.reason, entry.failure)
    return record, state


def _read_attempt(folder: Path, record: _Record) -> AttemptFacts:
    """Read one attempt, and add its events to the record of the run."""
    facts = AttemptFacts(int(folder.name))
    with suppress(MissingFileError):
        facts.changes = read_yaml_map(folder / "changed.yaml")
    highest = journal.highest_steps(journal.journals(folder.parent.parent, facts.number))
    for events, _ in journal.read_blocks(folder / "journal.jsonl"):
        for event in journal.first_writes(events, highest):
            facts.started = facts.started or event["time"]
            facts.ended = record.last_time = max(record.last_time, event["time"])
            if event["event"] == "state":
                record.last = event
                facts.host, facts.pid, facts.reason = event["host"], event["pid"], event["reason"]
                facts.state = "killed" if event["state"] == "running" else event["state"]
            if event["event"] in ("state", "metrics"):
                facts.step = max(facts.step, event["step"])
            if event["event"] == "params" and isinstance(count := event["params"].get("plan.num_steps"), int):
                record.num_steps = count
            if event["event"] == "metrics":
                for name, value in event["metrics"].items():
                    record.metrics.setdefault(name, MetricSummary()).add(event["step"], value)
    return facts


def _add_evaluation(metrics: dict[str, MetricSummary], point: journal.MetricsEvent) -> None:
    """Add what `lathe evaluate` measured: the last value is that of the latest checkpoint."""
    for name, value in point["metrics"].items():
        summary = metrics.setdefault(name, MetricSummary())
        if summary.last is None or point["step"] > summary.last[0]:
            summary.add(point["step"], value)


def _describe_metric(summary: MetricSummary) -> dict[str, float]:
    assert summary.last is not None
    step, value = summary.last
    return {"last": value, "step": step, "min": summary.smallest, "max": summary.largest}


def _list_checkpoints(folder: Path) -> Iterator[CheckpointFacts]:
    checkpoints = Checkpoints(folder, keep_last=1)
    steps = checkpoints.list_steps()
    delivered = checkpoints.find_delivered_step()
    for step in steps:
        yield CheckpointFacts(step, measure_folder(checkpoints.locate(step)), step == delivered)


def _read_verdict(folder: Path) -> str | None:
    try:
        return renamed.state(str(read_yaml_map(folder / VERDICT)["verdict"]))
    except (DamagedFileError, KeyError):
        return None
