"""Files of runs and sweeps: a damaged one is named, or read around; the others are read."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.core.errors import InputError
from experiments.results.report.from_runs import collect_from_runs
from experiments.results.search.index import FILE, Index
from experiments.results.search.search import Keys, search
from experiments.run import journal
from experiments.run.history import read_previous_attempts
from experiments.run.journal_tail import JournalTail
from experiments.sweep.ledger import Ledger
from experiments.sweep.status.progress import ProgressReader
from experiments.sweep.sweep import Sweep
from experiments.tracking.run_tags import read_verdict
from experiments.trial.lookup import find_run
from experiments.trial.record import record_trial
from tests.support.ledgers import claim_trial, finish_trial, ids, make_idle_sweep
from tests.support.mutations import damaged
from tests.support.stores import log_steps, make_run, start_attempt, write_outcome

RUN_FILES = [
    "trial.yaml", "provenance.yaml", "outcome.json", "verdict.yaml", "sync.json", "attempts/1/journal.jsonl", "attempts/1/sealed",
    "attempts/2/changed.yaml", FILE,
]  # fmt: skip
SWEEP_FILES = ["ledger.jsonl", "sweep.yaml", "templates.json", "provenance.yaml", "sync.json"]


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs and a sweep."""
    runs_dir = tmp_path_factory.mktemp("runs")
    for name in ("aaaaaa", "bbbbbb"):
        trial = make_run(runs_dir, name, hardware={"nodes": 1, "devices_per_node": 1})
        with start_attempt(trial) as log:
            log_steps(log, range(3))
            log.params({"plan.num_steps": 3, "env.torch": "2"})
            log.data(name="d", digest="0", num_examples=3, split="train")
            log.state("finished", step=3, attempt=1)
        with start_attempt(trial, 2, 2) as log:
            log_steps(log, range(2, 5))
        journal.seal(trial.folder / "attempts" / "1" / "journal.jsonl")
        write_outcome(trial, number=2)
        (trial.folder / "attempts" / "2" / "changed.yaml").write_text("num_data_workers: 2\n", encoding="utf-8")
        (trial.folder / "verdict.yaml").write_text("verdict: identical\nreproduces: {run: a}\n", encoding="utf-8")
        (trial.folder / "sync.json").write_text(
            '{"store": "x", "run_id": "0123456789", "offsets": {"1": 7}}', encoding="utf-8"
        )
    sweep = make_idle_sweep(runs_dir, "probe", [{"lr": 1}, {"lr": 2}])
    finish_trial(sweep, ids(2)[0], 0.5)
    claim_trial(sweep, ids(2)[1])
    (sweep.folder / "sync.json").write_text('{"store": "x", "run_id": "0"}', encoding="utf-8")
    Index(runs_dir).runs()
    return runs_dir


@pytest.fixture(scope="module")
def contents(runs_dir: Path) -> dict[Path, bytes]:
    """Every file of the folder, undamaged."""
    return {path: path.read_bytes() for path in runs_dir.rglob("*") if path.is_file()}


@given(data=st.data())
@settings(max_examples=settings().max_examples * 4)
def test_a_damaged_file_of_a_run_is_named(runs_dir: Path, contents: dict[Path, bytes], data: st.DataObject) -> None:
    folder = runs_dir / "single" / "aaaaaa"
    name = data.draw(st.sampled_from(RUN_FILES))
    path = runs_dir / FILE if name == FILE else folder / name
    before = contents[path]
    path.write_bytes(data.draw(damaged([before, b"", b"[]", b"{}", b"null", b"5", b'"a"'])))
    os.utime(path, (data.draw(st.integers(0, 10**6)),) * 2)  # the index sees the change
    try:
        index = Index(runs_dir)
        found = index.runs()
        keys = Keys.from_runs(found).all()
        assert {"bbbbbb"} <= {run.id for run in found} or path.name == FILE
        assert any("aaaaaa" in line for line in index.damaged) or "aaaaaa" in {run.id for run in found}
        assert "id" in keys
        search(runs_dir, "name=blobs", "-created")
        with contextlib.suppress(InputError):
            trial = find_run("aaaaaa", runs_dir)
            record_trial(trial)
            trial.read_attempt_config(2)
            trial.outcome()
            read_verdict(trial)
        with contextlib.suppress(InputError):
            collect_from_runs([find_run("aaaaaa", runs_dir)])
        with contextlib.suppress(InputError):
            read_previous_attempts(folder, 3)
            JournalTail(folder / "attempts" / "1", "train/loss_nats").read()
    finally:
        path.write_bytes(before)
        (runs_dir / FILE).unlink(missing_ok=True)
        Index(runs_dir).runs()


@given(data=st.data())
@settings(max_examples=settings().max_examples * 4)
def test_a_damaged_file_of_a_sweep_is_named(runs_dir: Path, contents: dict[Path, bytes], data: st.DataObject) -> None:
    path = runs_dir / "probe" / data.draw(st.sampled_from(SWEEP_FILES))
    before = contents[path]
    path.write_bytes(data.draw(damaged([before, b"", b"[]\n", b"{}\n", b"null\n", b"5\n"])))
    try:
        ledger = Ledger(runs_dir / "probe")
        with contextlib.suppress(InputError):
            ledger.read()
            sweep = Sweep(runs_dir / "probe")
            ProgressReader(sweep, ledger).read()
            sweep.templates()
        Index(runs_dir).runs()
    finally:
        path.write_bytes(before)
