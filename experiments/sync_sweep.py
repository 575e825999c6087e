"""Brings sweeps into MLflow: a parent run each, and a child run a trial. All of it is a pure function of ledger and journals."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yaml import YAMLError

from experiments import atomic, describe, store
from experiments.claims import label
from experiments.faults import InputError
from experiments.ledger import ENDED, Entry, Standing, State, mean_of
from experiments.standing import Standing as RunStanding
from experiments.store import StoreError
from experiments.sweep import Sweep, named
from experiments.sync import METRICS_PER_CALL, RunSync, connect, experiment_id_of, locked, mlflow_errors, ms, sync_run
from experiments.trial import Trial, find

if TYPE_CHECKING:
    from mlflow import MlflowClient

STATUS = {"running": "RUNNING", "waiting": "SCHEDULED", "done": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}


@dataclass(frozen=True)
class Summary:
    """What a sync of several runs did: runs brought up to date, points sent, and a line for each that failed."""

    runs: int
    points: int
    failures: tuple[str, ...]


def sync_all(runs_dir: Path, names: Sequence[str] = ()) -> Summary:
    """Sync runs and sweeps by the names of their folders; without names all in `runs_dir`."""
    sweeps, trials, failures = list[Sweep](), list[Trial](), list[str]()
    for name in names:
        try:
            sweep = named(name, runs_dir)
            if sweep is not None:
                sweeps.append(sweep)
            else:
                trials.append(find(name, runs_dir))
        except InputError as err:
            failures += err.problems
    if not names:
        trials = [Trial(path.parent) for path in sorted((runs_dir / "single").glob("*/trial.yaml"))]
        sweeps = [Sweep(path.parent.resolve()) for path in sorted(runs_dir.glob("*/sweep.yaml"))]
    # A trial of a sweep stands where the sweep's ledger says.
    sweeps += [Sweep(trial.folder.parent) for trial in trials if (trial.folder.parent / "sweep.yaml").is_file()]
    runs = points = 0
    alone = [trial for trial in trials if not (trial.folder.parent / "sweep.yaml").is_file()]
    several: list[Trial | Sweep] = [*alone, *dict.fromkeys(sweeps)]
    for what in several:
        try:
            new_runs, new_points = sync_sweep(what) if isinstance(what, Sweep) else (1, sync_run(what).points)
            runs, points = runs + new_runs, points + new_points
        except StoreError as err:
            failures.append(str(err))
        except (OSError, YAMLError, KeyError, TypeError) as err:
            reason = f"{type(err).__name__}: {' '.join(str(err).split())}"
            failures.append(f"{what.folder} is damaged ({reason}); restore it, or move it out of {runs_dir}")
    return Summary(runs, points, tuple(failures))


def sync_sweep(sweep: Sweep) -> tuple[int, int]:
    """Bring a sweep's parent run and the runs of its trials up to date; how many runs were looked at, and new points.

    Raises:
        StoreError: the store did not take it; what it took stays, and the next sync goes on from there.
    """
    return SweepSync(sweep).round()


class SweepSync:
    """Syncs one sweep, once or again and again; a trial that has ended and is in the store is not looked at again."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.ledger = sweep.ledger()
        self._children: dict[str, RunSync] = {}

    def round(self) -> tuple[int, int]:
        """Upload what is new."""
        errors = mlflow_errors()
        with locked(self.sweep.folder / "sync.lock"):
            standing = self.ledger.look()
            state = self._load()
            if state.get("told") == self.told(standing) and state["settled"]:
                return len(state["done"]), 0
            trial = self._some_trial()
            if trial is None:
                return 0, 0
            uri = store.store_uri(trial)
            try:
                client = connect(uri, self.sweep.runs_dir)
                self._attach(client, uri, state)
            except errors as err:
                raise StoreError(f"MLflow's store did not take the sweep {self.sweep.name!r}: {_line(err)}") from err
            points = sum(self._child(entry, state) for entry in list(standing.entries.values()))
            try:
                self._parent(client, state, standing)
            except errors as err:
                raise StoreError(f"MLflow's store did not take the sweep {self.sweep.name!r}: {_line(err)}") from err
            return len(state["done"]) or 1, points

    @staticmethod
    def told(standing: Standing) -> list[Any]:
        """What the store is to be told of, short."""
        counts = Counter(entry.state for entry in standing.entries.values())
        return [sorted(counts.items()), standing.closed, sum(entry.attempt for entry in standing.entries.values())]

    def _load(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.sweep.folder / "sync.json").read_text())
        except (FileNotFoundError, ValueError):
            return {
                "run_id": "",
                "experiment_id": "",
                "uri": "",
                "done": {},
                "events": 0,
                "told": None,
                "settled": False,
            }
        return found

    def _save(self, state: dict[str, Any]) -> None:
        atomic.write_text(self.sweep.folder / "sync.json", json.dumps(state) + "\n")

    def _some_trial(self) -> Trial | None:
        """A trial that says where the store is; they all say the same."""
        paths = sorted(self.sweep.folder.glob("*/trial.yaml"))
        return Trial(paths[0].parent) if paths else None

    def _attach(self, client: MlflowClient, uri: str, state: dict[str, Any]) -> None:
        """Find or make the parent run, before any child."""
        from mlflow.entities import Param, ViewType

        if state["run_id"] and state["uri"] == uri:
            return
        config, question = self.sweep.config, self.sweep.question
        experiment = experiment_id_of(client, uri, self.sweep.runs_dir, config["tracking"]["experiment"])
        by_key = f"tags.`lathe.sweep_key` = '{self.sweep.key}'"
        found = client.search_runs([experiment], by_key, run_view_type=ViewType.ALL, max_results=1)
        if found:
            run = found[0]
        else:
            tags = {"lathe.kind": "sweep", "lathe.sweep": self.sweep.name, "lathe.sweep_key": self.sweep.key}
            tags |= {
                "lathe.folder": str(self.sweep.folder),
                "mlflow.source.name": "lathe",
                "mlflow.source.type": "LOCAL",
            }
            started = ms(self.ledger.standing.opened)
            run = client.create_run(experiment, start_time=started, tags=tags, run_name=self.sweep.name)
        asked = {
            **{f"space.{key}": describe.param_text(value) for key, value in question["space"].items()},
            **{
                key: describe.param_text(question[key])
                for key in ("metric", "mode", "seeds", "strategy", "pruner", "budget")
            },
        }
        known = set(run.data.params)
        params = [
            Param(describe.clean_key(key), text) for key, text in asked.items() if describe.clean_key(key) not in known
        ]
        client.log_batch(run.info.run_id, params=params)
        client.log_artifact(run.info.run_id, str(self.sweep.folder / "sweep.yaml"))
        client.log_artifact(run.info.run_id, str(self.sweep.folder / "provenance.yaml"))
        state |= {"run_id": run.info.run_id, "experiment_id": experiment, "uri": uri, "done": {}, "told": None}
        self._save(state)

    def _child(self, entry: Entry, state: dict[str, Any]) -> int:
        """Bring one trial up to date; new points."""
        trial = self.sweep.trial(entry)
        mark = f"{entry.state} {entry.attempt}"
        if entry.attempt == 0 or state["done"].get(entry.id) == mark or not (trial.folder / "trial.yaml").exists():
            return 0
        ended = entry.since if entry.state in ENDED else None
        known = RunStanding(entry.state, entry.attempt, ended, entry.reason, entry.failure)
        run = self._children.setdefault(entry.id, RunSync(trial))
        run.known = known
        points = run.round(reconcile=False).points
        if entry.state in ENDED:
            state["done"][entry.id] = mark
            self._children.pop(entry.id)
        return points

    def _parent(self, client: MlflowClient, state: dict[str, Any], standing: Standing) -> None:
        from mlflow.entities import Metric, RunTag

        series = list(self._series())
        new = [
            Metric(f"sweep/{name}", value, ms(moment), step)
            for step, moment, values in series[state["events"] :]
            for name, value in values.items()
        ]
        for start in range(0, len(new), METRICS_PER_CALL):
            client.log_batch(state["run_id"], metrics=new[start : start + METRICS_PER_CALL])
        counts = Counter(entry.state for entry in standing.entries.values())
        word = self._word(counts, standing)
        tags = {"lathe.state": word, "mlflow.note.content": self._note(standing, counts)}
        states: tuple[State, ...] = ("waiting", "running", *sorted(ENDED))
        tags |= {f"lathe.{name}": str(counts[name]) for name in states}
        client.log_batch(state["run_id"], tags=[RunTag(key, text[: describe.MAX_TAG]) for key, text in tags.items()])
        if word in ("running", "waiting"):
            client.update_run(state["run_id"], status=STATUS[word])
        else:
            ended = max((entry.since for entry in standing.entries.values()), default=time.time())
            client.set_terminated(state["run_id"], STATUS[word], ms(ended))
        state |= {"events": len(series), "told": self.told(standing), "settled": counts["running"] == 0}
        self._save(state)

    def _word(self, counts: Counter[State], standing: Standing) -> str:
        if counts["running"] or (counts["waiting"] and standing.closed is None):
            return "running" if counts["running"] or counts["finished"] else "waiting"
        if counts["cancelled"] or (standing.closed or "").startswith("cancelled"):
            return "cancelled"
        return "failed" if counts["failed"] and not counts["finished"] else "done"

    def _series(self) -> Iterator[tuple[int, float, dict[str, float]]]:
        """After each trial that ended: its number, the time, and how many had, and the best so far."""
        replayed, step, mode = Standing(), 0, self.sweep.question["mode"]
        for line in self.ledger.path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            event = json.loads(line)
            before = replayed.entries[event["trial"]].state if event.get("trial") in replayed.entries else None
            replayed.apply(event)
            if event["event"] != "ended" or before != "running" or event["state"] not in ENDED:
                continue
            step += 1
            entries = replayed.entries.values()
            counts = Counter(entry.state for entry in entries)
            values = {"finished": float(counts["finished"]), "pruned": float(counts["pruned"])}
            values |= {"failed": float(counts["failed"]), "device_h": sum(entry.used_s for entry in entries) / 3600}
            if (best := best_point(replayed, mode)) is not None:
                values["best_value"] = best[1]
            yield step, event["time"], values

    def _note(self, standing: Standing, counts: Counter[State]) -> str:
        question, name = self.sweep.question, self.sweep.name
        lines = [f"**{name}**" + (f": {question['note']}" if question["note"] else ""), ""]
        lines += ["| key | values |", "|---|---|"]
        lines += [f"| `{key}` | `{describe.param_text(value)}` |" for key, value in question["space"].items()]
        lines += ["", ", ".join(f"{count} {state}" for state, count in counts.items())]
        if (best := best_point(standing, question["mode"])) is not None:
            entry, value = best
            lines += ["", f"Best: {question['metric']} {value:.6g} at `{label(entry.values, None)}`"]
        failed = Counter(entry.failure for entry in standing.entries.values() if entry.state == "failed")
        lines += [f"- {count} failed: {failure}" for failure, count in failed.items()]
        reused = [f"{entry.id} (of {entry.reused})" for entry in standing.entries.values() if entry.reused]
        lines += [f"Reused: {', '.join(reused)}"] if reused else []
        return "\n".join([*lines, "", "```", f"lathe status {name}", f"lathe resume {name}", "```"])


def best_point(standing: Standing, mode: str) -> tuple[Entry, float] | None:
    """The best of the points whose trials are all finished, by the mean of their seeds."""
    points = standing.points().values()
    found = [(value, entries[0]) for entries in points if (value := mean_of(entries)) is not None]
    if not found:
        return None
    value, entry = (max if mode == "max" else min)(found, key=lambda pair: pair[0])
    return entry, value


def _line(err: Exception) -> str:
    return describe.without_password(next(iter(str(err).strip().splitlines()), type(err).__name__))[:300]
