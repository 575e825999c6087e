"""Sweeps from their question to workers: frozen, extended, resumed, pruned, reused; all by the command line's own path."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from experiments.core.errors import InputError
from experiments.sweep.create import extend, prepare, write
from experiments.sweep.ledger import LedgerState
from experiments.sweep.spec import read_overrides
from experiments.sweep.submit import count_todo, make_pool, retry_unfinished, submit
from experiments.sweep.sweep import Sweep
from tests.conftest import Lathe
from tests.support.workers import QUICK, entries, start_worker, wait_until


def frozen(folder: Path, *overrides: str, name: str = "probe") -> Sweep:
    return write(prepare(read_overrides([*QUICK, "tracking=off", f"runs_dir={folder}", *overrides], name=name)))


def worked(sweep: Sweep) -> Sweep:
    assert start_worker(sweep).wait(timeout=120) == 0, (sweep.folder / "workers" / "w.txt").read_text()
    return sweep


def test_every_problem_of_every_point_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        frozen(tmp_path, "batch_size_global=-1,0,32", "max_steps=40")
    assert "batch_size_global=-1 is not more than 0" in str(caught.value)
    assert "batch_size_global=0 is not more than 0" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_editing_a_file_changes_nothing_of_what_waits(tmp_path: Path) -> None:
    mine = tmp_path / "mine" / "optimizer"
    mine.mkdir(parents=True)
    text = "_target_: torch.optim.sgd.SGD\n_partial_: true\nlr: 0.05\n"
    (mine / "own.yaml").write_text(text)
    spec = read_overrides(
        [*QUICK, "tracking=off", f"runs_dir={tmp_path}", "optimizer=own", "seed=0,1"], [str(mine.parent)], "probe"
    )
    sweep = write(prepare(spec, config_dirs=[str(mine.parent)]))
    (mine / "own.yaml").write_text(text.replace("0.05", "nonsense"))
    worked(sweep)
    assert [entry.state for entry in entries(sweep)] == ["finished"] * 2
    assert {sweep.trial(entry).config["optimizer"]["lr"] for entry in entries(sweep)} == {0.05}


@pytest.mark.slow
def test_extending_a_sweep_runs_only_the_difference(tmp_path: Path) -> None:
    sweep = worked(frozen(tmp_path, "optimizer.lr=0.01,0.02"))
    assert extend(sweep, ["optimizer.lr=0.02,0.03", "sweep.num_seeds=2"]) == 4
    sweep = Sweep(sweep.folder)
    assert retry_unfinished(sweep) == 4
    worked(sweep)
    assert len(entries(sweep)) == 6
    assert {(entry.state, entry.attempt) for entry in entries(sweep)} == {("finished", 1)}
    assert len({entry.point for entry in entries(sweep)}) == 3


@pytest.mark.slow
def test_resuming_runs_what_failed_and_never_what_is_finished(tmp_path: Path) -> None:
    sweep = worked(frozen(tmp_path, "optimizer.lr=0.01,1e30"))
    assert [entry.state for entry in entries(sweep)] == ["finished", "failed"]
    assert retry_unfinished(sweep) == 1
    worked(sweep)
    assert [(entry.state, entry.attempt) for entry in entries(sweep)] == [("finished", 1), ("failed", 2)]


@pytest.mark.slow
def test_the_budget_of_points_ends_a_sweep_that_asks(tmp_path: Path) -> None:
    asked = ("optimizer.lr=tag(log, interval(0.001, 0.1))", "sweep.strategy=tpe", "sweep.budget.max_points=4")
    sweep = frozen(tmp_path, *asked, "sweep.num_seeds=2")
    assert count_todo(sweep.spec, LedgerState()) == 8
    worked(sweep)
    assert len(entries(sweep)) == 8
    assert {entry.state for entry in entries(sweep)} == {"finished"}
    assert extend(sweep, ["sweep.budget.max_points=5"]) == 0
    worked(Sweep(sweep.folder))
    assert len(entries(sweep)) == 10


@pytest.mark.slow
def test_a_strategy_knows_of_every_trial_that_has_ended_when_it_is_asked(tmp_path: Path) -> None:
    asked = (
        "optimizer.lr=tag(log, interval(0.001, 0.1))",
        "sweep.budget.max_points=5",
        "sweep.strategy.startup_points=2",
    )
    sweep = worked(frozen(tmp_path, "sweep.strategy=tpe", *asked))
    events = [json.loads(line) for line in (sweep.folder / "ledger.jsonl").read_text().splitlines()]
    order = [event["event"] for event in events if event["event"] in ("trial", "ended")]
    assert order == ["trial", "ended"] * 5


@pytest.mark.slow
def test_a_budget_of_time_begins_no_further_trial(tmp_path: Path) -> None:
    sweep = worked(frozen(tmp_path, "optimizer.lr=0.01,0.02,0.03", "sweep.budget.device_h=1e-9"))
    assert [entry.state for entry in entries(sweep)] == ["finished", "pending", "pending"]
    assert sweep.ledger().read().closed == "sweep.budget.device_h=1e-09 is spent"


@pytest.mark.slow
def test_bad_trials_are_ended_at_a_rung(tmp_path: Path) -> None:
    pruner = "sweep.pruner={name: asha, first_step: 100, factor: 3}"
    steps = ("max_steps=4000", "eval_every_steps=100", "checkpoint.every_steps=1000")
    sweep = worked(frozen(tmp_path, "optimizer.lr=0.01,0.02,1e-9,1e-8,1e-7", pruner, *steps))
    states = [entry.state for entry in entries(sweep)]
    assert states[0] == "finished"
    assert "pruned" in states[2:]
    pruned = [entry for entry in entries(sweep) if entry.state == "pruned"]
    assert all(entry.step < 4000 and entry.value is not None for entry in pruned)


@pytest.mark.slow
def test_a_choice_of_an_option_brings_its_own_keys(tmp_path: Path) -> None:
    file = tmp_path / "choice.yaml"
    file.write_text(
        f"base: [{', '.join(QUICK)}, tracking=off, 'runs_dir={tmp_path}']\n"
        "space:\n  optimizer:\n    sgd: {optimizer.momentum: '0.0,0.9'}\n    adamw: {optimizer.weight_decay: '0.1'}\n"
    )
    from experiments.sweep.spec import read

    sweep = worked(write(prepare(read(str(file)))))
    found = [sweep.trial(entry).config["optimizer"] for entry in entries(sweep)]
    assert [(one["_target_"].rpartition(".")[2], one.get("momentum"), one["weight_decay"]) for one in found] == [
        ("SGD", 0.0, 0.0), ("SGD", 0.9, 0.0), ("AdamW", None, 0.1),
    ]  # fmt: skip


@pytest.mark.slow
def test_finished_trials_of_another_sweep_are_reused_when_asked_for(tmp_path: Path) -> None:
    first = worked(frozen(tmp_path, "optimizer.lr=0.01,0.02", name="first"))
    second = frozen(tmp_path, "optimizer.lr=0.02,0.03", "sweep.reuse=true", name="second")
    assert [entry.state for entry in entries(second)] == ["finished", "pending"]
    assert entries(second)[0].value == entries(first)[1].value
    assert entries(second)[0].reused == f"first/{entries(first)[1].id}"


@pytest.mark.parametrize(
    ("devices", "per_trial", "side_by_side", "trials_per_worker", "ranks"),
    [(4, None, 1, 1, 4), (4, None, 2, 2, 4), (4, 1, 2, 8, 1), (4, 2, 1, 2, 2)],
)
def test_a_worker_is_shared_out_among_trials(
    tmp_path: Path, devices: int, per_trial: int | None, side_by_side: int, trials_per_worker: int, ranks: int
) -> None:
    parallel = "parallel=data" if ranks > 1 else "parallel=single"
    packed = [f"launcher.trials_per_device={side_by_side}", f"hardware.devices_per_node={devices}", parallel]
    packed += [f"launcher.devices_per_trial={per_trial}"] if per_trial else []
    found = prepare(read_overrides([*QUICK, f"runs_dir={tmp_path}", "seed=0,1", *packed], name="probe"))
    worker = {"nodes": 1, "devices_per_node": devices}
    pool = make_pool(tmp_path, found.templates, worker, found.spec.values, 100, None)
    assert (pool.trials_per_worker, pool.ranks_per_trial) == (trials_per_worker, ranks)
    assert found.templates.all[0].config["hardware"]["devices_per_node"] == ranks


@pytest.mark.slow
def test_the_command_runs_a_sweep_and_says_what_was_best(lathe: Lathe, tmp_path: Path) -> None:
    done = lathe("run", "-m", *QUICK, "tracking=off", "optimizer.lr=0.001,0.01")
    assert done.returncode == 0, done.stderr
    assert "2/2 done" in done.stdout
    assert "lr=0.01" in done.stdout
    (folder,) = (tmp_path / "runs").glob("*/sweep.yaml")
    again = lathe("resume", folder.parent.name)
    assert "nothing is left to run" in again.stdout
    assert again.returncode == 0


@pytest.mark.slow
def test_a_killed_command_leaves_the_sweep_going_on(live: Any, tmp_path: Path) -> None:
    process = live.start("run", "-m", *QUICK, "tracking=off", "optimizer.lr=0.001,0.01,0.02,0.03", "max_steps=400")
    wait_until(lambda: bool(list((tmp_path / "runs").glob("*/*/attempts/1/journal.jsonl"))), "the first trial")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    sweep = Sweep(next((tmp_path / "runs").glob("*/sweep.yaml")).parent)
    wait_until(lambda: all(entry.state == "finished" for entry in entries(sweep)), "all trials")


@pytest.mark.slow
def test_two_commands_at_once_do_no_harm(tmp_path: Path) -> None:
    sweep = frozen(tmp_path, "optimizer.lr=range(1,13)", "max_steps=40")
    workers = [start_worker(sweep, f"w{number}") for number in range(3)]
    assert submit(sweep) is not None
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0, 0]
    wait_until(lambda: {entry.state for entry in entries(sweep)} <= {"finished", "failed"}, "all trials")
    assert {entry.attempt for entry in entries(sweep)} == {1}
