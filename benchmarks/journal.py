"""Budget: the cost of logging to the journal, compared with calls of MLflow (``python -m benchmarks.journal``)."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import yaml

from experiments.run.journal import Journal, replay
from experiments.tracking.run_sync import RunSync, sync_run
from experiments.trial.trial import Trial

MAX_STEP_US = 20.0
MIN_METRICS_PER_S = 2500.0
RUNS, STEPS, ROUNDS = 8, 300, 3
VALUES = {f"train/metric_{i}": 0.123456789012345 / (i + 1) for i in range(10)}
WRITER = """
import sys
from pathlib import Path
from experiments.run.journal import Journal

journal = Journal(Path(sys.argv[1]))
step = 0
while True:
    journal.metrics(step, {"train/loss_nats": step / 3})
    print(step, flush=True)
    step += 1
"""


def make_trial(runs_dir: Path, name: str) -> Trial:
    trial = Trial(runs_dir / "single" / name)
    trial.folder.mkdir(parents=True)
    config = {"name": name, "tracking": {"store": None, "experiment": "bench", "sync": "end"}}
    (trial.folder / "trial.yaml").write_text(yaml.safe_dump(config))
    (trial.folder / "provenance.yaml").write_text(yaml.safe_dump({"trial_id": name, "run_key": name}))
    return trial


def begin(trial: Trial) -> Journal:
    journal = Journal(trial.folder / "attempts" / "1" / "journal.jsonl")
    journal.state("running", step=0, attempt=1)
    return journal


def journal_step_us(folder: Path) -> list[float]:
    """Return the microseconds of 20,000 steps with 10 metrics; every call writes to the file before it returns."""
    took = []
    with Journal(folder / "steps.jsonl") as journal:
        for step in range(22_000):
            start = time.perf_counter()
            journal.metrics(step, VALUES)
            took.append((time.perf_counter() - start) * 1e6)
    return took[2000:]


def mlflow_step_us(runs_dir: Path) -> list[float]:
    """Return the microseconds of `mlflow.log_metrics` of the same metrics on SQLite."""
    with begin(make_trial(runs_dir, "peer")):
        synced = sync_run(Trial(runs_dir / "single" / "peer"))
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{runs_dir / 'mlflow.db'}")
    took = []
    for step in range(110):
        start = time.perf_counter()
        mlflow.log_metrics(VALUES, step=step, run_id=synced.run_id)
        took.append((time.perf_counter() - start) * 1e6)
    return took[10:]


def upload_journal(runs_dir: Path, number: int, barrier: Barrier, times: Queue[tuple[float, float]]) -> None:
    trial = make_trial(runs_dir, f"journal{number}")
    with begin(trial) as journal:
        run = RunSync(trial)
        run.sync(reconcile=False)  # warm up: imports, store, run
        for step in range(STEPS):
            journal.metrics(step, VALUES)
        barrier.wait()
        start = time.time()
        run.sync(reconcile=False)
        times.put((start, time.time()))


def upload_batches(runs_dir: Path, number: int, barrier: Barrier, times: Queue[tuple[float, float]]) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client = MlflowClient(f"sqlite:///{runs_dir / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("bench")
    assert experiment is not None
    run_id = client.create_run(experiment.experiment_id, run_name=f"batch{number}").info.run_id
    points = [Metric(key, value, step, step) for step in range(STEPS) for key, value in VALUES.items()]
    barrier.wait()
    start = time.time()
    for first in range(0, len(points), 1000):
        client.log_batch(run_id, metrics=points[first : first + 1000])
    times.put((start, time.time()))


def metrics_per_s(target: object, runs_dir: Path, number: itertools.count[int]) -> float:
    """Return the rate of 8 processes that start together, until all points are in one SQLite store."""
    context = multiprocessing.get_context("spawn")
    barrier, times = context.Barrier(RUNS), context.Queue()
    processes = [
        context.Process(target=target, args=(runs_dir, next(number), barrier, times))  # type: ignore[arg-type]
        for _ in range(RUNS)
    ]
    for process in processes:
        process.start()
    spans = [times.get(timeout=300) for _ in processes]
    for process in processes:
        process.join()
    return float(RUNS * STEPS * len(VALUES) / (max(end for _, end in spans) - min(start for start, _ in spans)))


def stored_and_distinct(database: Path) -> tuple[int, int]:
    names = "from metrics join tags using (run_uuid) where tags.key = 'mlflow.runName' and tags.value like 'journal%'"
    with closing(sqlite3.connect(database)) as connection:
        stored = connection.execute(f"select count(*) {names}").fetchone()[0]
        pairs = connection.execute(f"select count(*) from (select distinct run_uuid, metrics.key, step {names})")
        return stored, pairs.fetchone()[0]


def lost_at_kill_9(folder: Path, kills: int = 5) -> tuple[int, int]:
    """Return how many lines a writer had written before `kill -9`, and how many of them are missing."""
    num_written = num_lost = 0
    for kill in range(kills):
        run = folder / f"kill{kill}"
        path = run / "attempts" / "1" / "journal.jsonl"
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        with writer.stdout:
            seen = {int(writer.stdout.readline()) for _ in range(2000 + 777 * kill)}
            writer.kill()
            seen |= {int(line) for line in writer.stdout}
        writer.wait()
        num_written += len(seen)
        num_lost += len(seen - {event["step"] for event in replay(run) if event["event"] == "metrics"})
    return num_written, num_lost


def main() -> int:
    """Print a table; return 1 if a budget is missed."""
    with tempfile.TemporaryDirectory() as name:
        runs_dir = Path(name)
        ours, theirs = journal_step_us(runs_dir), mlflow_step_us(runs_dir)
        rates: dict[str, list[float]] = {"journal": [], "batch": []}
        number = itertools.count()
        for _ in range(ROUNDS):
            rates["journal"].append(metrics_per_s(upload_journal, runs_dir, number))
            rates["batch"].append(metrics_per_s(upload_batches, runs_dir, number))
        stored, distinct = stored_and_distinct(runs_dir / "mlflow.db")
        num_written, num_lost = lost_at_kill_9(runs_dir)
    sent = ROUNDS * RUNS * STEPS * len(VALUES)
    step_us, rate = statistics.median(ours), statistics.median(rates["journal"])
    mlflow_us, batch = statistics.median(theirs), statistics.median(rates["batch"])
    p99 = statistics.quantiles(ours, n=100)[98], statistics.quantiles(theirs, n=100)[98]
    ranges = {kind: f"{min(each):,.0f}..{max(each):,.0f}" for kind, each in rates.items()}
    rows = [
        ("10 metrics, median", f"{step_us:.1f} us", f"<= {MAX_STEP_US:.0f} us", f"log_metrics {mlflow_us:,.0f} us"),
        ("10 metrics, 99th percentile", f"{p99[0]:.1f} us", "", f"log_metrics {p99[1]:,.0f} us"),
        (
            f"store, {RUNS} runs at once",
            f"{rate:,.0f}/s",
            f">= {MIN_METRICS_PER_S:,.0f}/s",
            f"log_batch {batch:,.0f}/s",
        ),
        (f"  range of {ROUNDS}", ranges["journal"], "", ranges["batch"]),
        (f"  lost, duplicated of {sent:,}", f"{sent - distinct}, {stored - distinct}", "0, 0", ""),
        (f"lost at kill -9 of {num_written:,}", str(num_lost), "0", ""),
    ]
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for row in (("what", "measured", "budget", "peer"), *rows):
        print("{:<34}{:>18}{:>14}   {}".format(*row))
    missed = step_us > MAX_STEP_US or rate < MIN_METRICS_PER_S or num_lost or stored != sent or distinct != sent
    print("a budget is missed" if missed else "all budgets are met")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
