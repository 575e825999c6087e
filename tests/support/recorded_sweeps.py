"""Sweeps without workers, with runs for a store: ledger, journals and run folders, which the test writes as workers do."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from experiments.run import journal
from experiments.sweep.sweep import Sweep
from experiments.tracking.trackers.mlflow_metric import make_metric_name
from tests.support import ledgers
from tests.support.stores import sql

METRIC = "val/accuracy_top1"
VALUE = f"delivered/{METRIC}"
"""What ranks the trials."""


def make_swept(
    runs_dir: Path, points: Sequence[Mapping[str, Any]], *, name: str = "probe", seeds: int = 1,
    store: str | None = None, sync: str = "live", tracking: Mapping[str, Any] | None = None, **spec: Any,
) -> Sweep:  # fmt: skip
    """Create a sweep with pending trials."""
    sweep = ledgers.make_idle_sweep(runs_dir, name, points, seeds, **{"space": make_space(points), **spec})
    config = {
        "name": "blobs", "description": None, "seed": 0, "max_steps": ledgers.MAX_STEPS, "batch_size_global": 64,
        "model": {"_target_": "modules.model.mlp.Mlp", "hidden_sizes": [64, 32]},
        "data": {"_target_": "modules.data.blobs.Blobs"},
        "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.5},
        "launcher": {"_target_": "launchers.local.Local"},
        "tracking": tracking or {"store": store, "experiment": "lathe", "sync": sync},
    }  # fmt: skip
    template = {"choices": {}, "config": config, "links": {}, "overrides": []}
    (sweep.folder / "templates.json").write_text(json.dumps([template]))
    code = [{"name": "lathe", "git_sha": "0123abcd" * 5, "branch": "main", "dirty": True}]
    provenance = {"run_key": uuid.uuid4().hex, "trust": [], "config_dirs": ["my conf"], "code": code}
    (sweep.folder / "provenance.yaml").write_text(yaml.safe_dump(provenance))
    (sweep.folder / "code" / "packages" / "experiments").mkdir(parents=True)
    (sweep.folder / "code" / "lathe.patch").write_text("diff\n")
    return Sweep(sweep.folder)


def make_space(points: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    space: dict[str, list[Any]] = {}
    for key in dict.fromkeys(key for point in points for key in point):
        space[key] = list(dict.fromkeys(point[key] for point in points if key in point))
    return space


def start_trial(sweep: Sweep, trial: str, worker: str = "w") -> None:
    """Claim a trial and write its run folder, as a worker does."""
    ledgers.claim_trial(sweep, trial, worker)
    entry = ledgers.read_entry(sweep, trial)
    folder = sweep.folder / trial
    if not (folder / "trial.yaml").exists():
        config = json.loads((sweep.folder / "templates.json").read_text())[0]["config"]
        for key, value in entry.values.items():
            parent, _, last = key.rpartition(".")
            node = config[parent] if parent else config
            if not isinstance(node.get(last), dict):  # the option of a group
                node[last] = value
        provenance = {"trial_id": trial, "run_key": f"{sweep.key}-{trial}", "overrides": [], "sweep": sweep.name}
        (folder / "provenance.yaml").write_text(yaml.safe_dump(provenance))
        (folder / "trial.yaml").write_text(yaml.safe_dump({**config, "seed": entry.seed}))
    for path in journal.journals(folder):
        journal.seal(path)


def run_trial(sweep: Sweep, trial: str, value: float, steps: Sequence[int] = (100, 200)) -> None:
    """Run a trial to its end."""
    start_trial(sweep, trial)
    ledgers.log_metric(sweep, trial, dict.fromkeys(steps, value))
    ledgers.end_trial(sweep, trial, "finished", value=value, step=steps[-1])


def read_children(runs_dir: Path, column: str = "status") -> dict[str, Any]:
    """One column of the store for the runs of all trials, by their names."""
    query = f"select r.name, r.{column} from runs r join tags t using (run_uuid) where t.key = 'lathe.kind' and t.value = 'trial'"
    return dict(sql(runs_dir / "mlflow.db", query))


def read_run_tags(runs_dir: Path, name: str) -> dict[str, str]:
    return _read_table(runs_dir, name, "tags")


def read_run_params(runs_dir: Path, name: str) -> dict[str, str]:
    return _read_table(runs_dir, name, "params")


def _read_table(runs_dir: Path, name: str, table: str) -> dict[str, str]:
    query = f"select t.key, t.value from {table} t join runs using (run_uuid) where name = '{name}'"
    return dict(sql(runs_dir / "mlflow.db", query))


def read_parent_status(runs_dir: Path, name: str = "probe") -> str:
    ((status,),) = sql(runs_dir / "mlflow.db", f"select status from runs where name = '{name}'")
    return str(status)


def read_journal_points(sweep: Sweep) -> list[tuple[str, str, int, float]]:
    """Every point of every trial's journals, once: trial, metric as MLflow names it, step, value."""
    return sorted(
        (entry.id, make_metric_name(key), event["step"], value)
        for entry in sweep.ledger().read().entries.values()
        for event in journal.replay(sweep.folder / entry.id)
        if event["event"] == "metrics"
        for key, value in event["metrics"].items()
    )


def read_stored_points(runs_dir: Path, database: str = "mlflow.db") -> list[tuple[str, str, int, float]]:
    """The same points as they are in the store, without the ones that come from the ledger."""
    query = "select t.value, m.key, m.step, m.value from metrics m join tags t using (run_uuid) where t.key = 'lathe.trial_id'"
    return sorted(sql(runs_dir / database, f"{query} and m.key != 'system/cost_queue_wait_s'"))
