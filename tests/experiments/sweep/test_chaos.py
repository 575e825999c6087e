"""A sweep under faults of every kind, compared with an undisturbed twin by SQL on the store.

The seed fixes the order of the faults and what they choose, but not what the processes do at that moment. LATHE_CHAOS_SEED gives
another one. With LATHE_LONG=1 each kind happens 100 times, in sweeps of 200 trials.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from experiments.sweep import ledger
from experiments.sweep.submit import retry_unfinished
from experiments.sweep.sweep import Sweep
from tests.support.faults import FAULTS, LOCK_PATIENCE_S, Scene, upload
from tests.support.stores import sql
from tests.support.variants import IS_LONG
from tests.support.waiting import PATIENCE_S
from tests.support.workers import make_sweep, read_entries, start_worker

SEED = int(os.environ.get("LATHE_CHAOS_SEED", "20161"))
NUM_EACH = 100 if IS_LONG else 1
"""How often each kind of fault happens at least; sweeps run until then."""
NUM_CURVES, NUM_COPIES = 10, 20 if IS_LONG else 5
"""A sweep has so many learning rates, each with so many values of a key that changes no curve."""
MAX_S = 500
"""How long one sweep may take."""
TINY = (
    "max_steps=24", "eval_every_steps=12", "checkpoint.every_steps=6", "log_every_steps=6", "checkpoint.best_metric=null",
)  # fmt: skip
Curve = list[tuple[str, int, float]]


@pytest.mark.slow
@pytest.mark.timeout(50 * MAX_S if IS_LONG else 600)
def test_every_trial_ends_once_and_as_if_nothing_had_happened(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "PATIENCE_S", LOCK_PATIENCE_S)
    generator, counts = random.Random(SEED), Counter[str]()
    twin = make(runs_dir, "twin", 1)
    assert start_worker(twin).wait(timeout=PATIENCE_S) == 0
    upload(twin)
    while min(counts[fault.__name__] for fault in FAULTS) < NUM_EACH:
        sweep = make(runs_dir, f"chaos{counts.total()}", NUM_COPIES)
        counts += run_under_faults(sweep, generator)
        compare(sweep, twin, runs_dir / "mlflow.db")
    print(f"seed {SEED}:", dict(counts))


def make(runs_dir: Path, name: str, num_copies: int) -> Sweep:
    points = [
        {"optimizer.lr": 0.001 * (number + 1), "checkpoint.keep_last": copy + 1}
        for copy in range(num_copies)
        for number in range(NUM_CURVES)
    ]
    return make_sweep(runs_dir, points, "tracking=sqlite", f"runs_dir={runs_dir}", *TINY, name=name, max_attempts=1000)


def run_under_faults(sweep: Sweep, generator: random.Random) -> Counter[str]:
    """Run a sweep to its end; return how often each kind of fault happened."""
    scene, counts = Scene(sweep, generator), Counter[str]()
    waiting = generator.sample(FAULTS, len(FAULTS))
    deadline = time.monotonic() + MAX_S
    try:
        while any(entry.state != "finished" for entry in read_entries(sweep)):
            assert time.monotonic() < deadline, Counter(entry.state for entry in read_entries(sweep))
            scene.start_missing()
            fault = waiting.pop(0)
            has_happened = fault(scene)
            counts[fault.__name__] += has_happened
            waiting.insert(len(waiting) if has_happened else 2, fault)
            time.sleep(generator.uniform(0.15, 0.5))
            scene.end_faults()
            resume(sweep)
    finally:
        scene.close()
    return counts


def resume(sweep: Sweep) -> None:
    """Do what `lathe resume` does. Only trials whose files were removed, and those that were cancelled, need it."""
    ended = [entry for entry in read_entries(sweep) if entry.state in ("failed", "cancelled")]
    for entry in ended:
        logs = [path.read_text()[-3000:] for path in sweep.folder.glob(f"{entry.id}/attempts/*/log.txt")]
        assert entry.failure in ("data lost", "cancelled"), (entry.id, entry.reason, *logs)
    if ended:
        retry_unfinished(sweep)


def compare(sweep: Sweep, twin: Sweep, database: Path) -> None:
    """Check that a sweep ended as its twin: each trial once, with the same points, of which none is stored twice."""
    ended = [line for line in sweep.ledger().path.read_text().splitlines() if '"state":"finished"' in line]
    assert len(ended) == NUM_CURVES * NUM_COPIES
    upload(sweep)
    undisturbed = read_curves(database, twin)
    expected = {entry.values["optimizer.lr"]: undisturbed[entry.id] for entry in read_entries(twin)}
    assert min(map(len, expected.values())) > 8
    assert read_curves(database, sweep) == {
        entry.id: expected[entry.values["optimizer.lr"]] for entry in read_entries(sweep)
    }
    assert sql(database, "select run_uuid, key, step from metrics group by 1, 2, 3 having count(*) > 1") == []
    reasons = (
        "select * from tags join runs using (run_uuid) where key in ('lathe.reason', 'lathe.failure') and value <> ''"
    )
    assert sql(database, f"{reasons} and status = 'FINISHED'") == []
    assert not [path for path in sweep.folder.rglob("*.partial") if path.name.startswith(".sync.json.")]


def read_curves(database: Path, sweep: Sweep) -> dict[str, Curve]:
    """The points of all finished runs of a sweep in the store, by trial. Each trial must have one such run."""
    curves: dict[str, dict[str, Curve]] = defaultdict(lambda: defaultdict(list))
    rows = sql(
        database,
        "select t.value, r.run_uuid, m.key, m.step, m.value from runs r "
        "join tags s on s.run_uuid = r.run_uuid and s.key = 'lathe.sweep' "
        "join tags t on t.run_uuid = r.run_uuid and t.key = 'lathe.trial_id' "
        f"join metrics m on m.run_uuid = r.run_uuid where s.value = '{sweep.name}' and r.status = 'FINISHED' "
        "and substr(m.key, 1, instr(m.key, '/')) in ('train/', 'val/', 'test/') order by 1, 3, 4, 5",
    )
    for trial, run, *point in rows:
        curves[trial][run].append((point[0], point[1], point[2]))
    assert {len(runs) for runs in curves.values()} == {1}
    return {trial: curve for trial, runs in curves.items() for curve in runs.values()}
