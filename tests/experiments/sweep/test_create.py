"""Sweeps from spec to workers: created, extended, resumed, pruned, reused, as the command line does it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from experiments.cli.sweep import start
from experiments.core.errors import InputError
from experiments.sweep.create import extend, fill_metric, prepare, write
from experiments.sweep.ledger import LedgerState
from experiments.sweep.spec import read_overrides
from experiments.sweep.status.selection import cancel
from experiments.sweep.submit import count_todo, make_pool, retry_unfinished, submit
from experiments.sweep.sweep import Sweep
from launchers.base import LaunchError, SubmissionUnclearError
from tests.conftest import Lathe
from tests.support.cluster import write_commands
from tests.support.waiting import PATIENCE_S, wait_until
from tests.support.workers import QUICK, read_entries, start_worker


def create_sweep(folder: Path, *overrides: str, name: str = "probe") -> Sweep:
    return write(prepare(read_overrides([*QUICK, "tracking=off", f"runs_dir={folder}", *overrides], name=name)))


@pytest.mark.parametrize(
    ("given", "best", "expected"),
    [
        ((), ("val/r2", "max"), ("val/r2", "max")),
        ((), ("val/rmse", "min"), ("val/rmse", "min")),
        ((), (None, "max"), ("val/loss_nats", "min")),
        (("sweep.metric=val/rmse",), ("val/r2", "max"), ("val/rmse", "min")),
        (("sweep.metric=val/rmse", "sweep.mode=max"), ("val/r2", "max"), ("val/rmse", "max")),
    ],
)
def test_the_experiment_says_which_metric_compares_trials(
    given: tuple[str, ...], best: tuple[str | None, str], expected: tuple[str, str]
) -> None:
    checkpoint = dict(zip(("best_metric", "best_mode"), best, strict=True))
    spec = fill_metric(read_overrides([*given, "seed=0,1"]), {"checkpoint": checkpoint, "evaluator": {}})
    assert (spec.values["metric"], spec.values["mode"]) == expected


def run_worker(sweep: Sweep) -> Sweep:
    assert start_worker(sweep).wait(timeout=PATIENCE_S) == 0, (sweep.folder / "workers" / "w.txt").read_text()
    return sweep


def test_problems_of_all_points_are_reported_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        create_sweep(tmp_path, "batch_size_global=-1,0,32", "max_steps=40")
    assert "batch_size_global=-1 is not more than 0" in str(caught.value)
    assert "batch_size_global=0 is not more than 0" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_job_whose_number_is_not_known_is_found_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands, log = tmp_path / "bin", tmp_path / "log"
    commands.mkdir()
    write_commands(
        commands,
        sbatch=f"cat > /dev/null; echo sbatch $1 >> {log}; echo Welcome",
        squeue="echo 77; echo 78",
        scontrol=f'test "$3" = 77 && echo " StdOut={tmp_path}/probe/workers/77_1.txt"',
        scancel=f"echo scancel $* >> {log}",
    )
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    overrides = ["launcher=slurm", "hardware=cpu_partition"]
    spec = read_overrides([*QUICK, "tracking=off", f"runs_dir={tmp_path}", *overrides], name="probe")
    with pytest.raises(SubmissionUnclearError, match="printed 'Welcome' and no job number for 'probe'"):
        start(prepare(spec))
    sweep = Sweep(tmp_path / "probe")
    state = sweep.ledger().read()
    assert (state.is_submitting, state.submissions) == (True, [])
    assert submit(sweep) is not None
    state = sweep.ledger().read()
    assert (state.is_submitting, [each["job"] for each in state.submissions]) == (False, ["77"])
    cancel(sweep, sweep.executor())
    assert log.read_text().splitlines() == ["sbatch --test-only", "sbatch --parsable", "scancel 77"]
    write_commands(commands, sbatch="echo 'sbatch: error: invalid partition specified: x' >&2; exit 1")
    with pytest.raises(LaunchError, match="unknown partition"):
        start(prepare(spec), is_new=True)
    assert not (tmp_path / "probe-2").exists()


@pytest.mark.parametrize("launcher", ["local", "slurm"])
def test_a_folder_from_which_python_cannot_import_is_refused(launcher: str, tmp_path: Path) -> None:
    overrides = [*QUICK, "tracking=off", f"runs_dir='{tmp_path}/a:b'", "hardware=cpu_partition", f"launcher={launcher}"]
    with pytest.raises(LaunchError, match="probe has a ':', which separates folders in PYTHONPATH"):
        start(prepare(read_overrides(overrides, name="probe")))
    assert not (tmp_path / "a:b" / "probe").exists()


@pytest.mark.slow
def test_edited_file_does_not_change_pending_trials(tmp_path: Path) -> None:
    mine = tmp_path / "mine" / "optimizer"
    mine.mkdir(parents=True)
    text = "_target_: torch.optim.sgd.SGD\n_partial_: true\nlr: 0.05\n"
    (mine / "own.yaml").write_text(text)
    spec = read_overrides(
        [*QUICK, "tracking=off", f"runs_dir={tmp_path}", "optimizer=own", "seed=0,1"], [str(mine.parent)], "probe"
    )
    sweep = write(prepare(spec, config_dirs=[str(mine.parent)]))
    (mine / "own.yaml").write_text(text.replace("0.05", "nonsense"))
    run_worker(sweep)
    assert [entry.state for entry in read_entries(sweep)] == ["finished"] * 2
    assert {sweep.trial(entry).config["optimizer"]["lr"] for entry in read_entries(sweep)} == {0.05}


@pytest.mark.slow
def test_extending_a_sweep_runs_only_the_difference(tmp_path: Path) -> None:
    sweep = run_worker(create_sweep(tmp_path, "optimizer.lr=0.01,0.02"))
    assert extend(sweep, ["optimizer.lr=0.02,0.03", "sweep.num_seeds=2"]) == 4
    sweep = Sweep(sweep.folder)
    assert retry_unfinished(sweep) == 4
    run_worker(sweep)
    assert len(read_entries(sweep)) == 6
    assert {(entry.state, entry.attempt) for entry in read_entries(sweep)} == {("finished", 1)}
    assert len({entry.point for entry in read_entries(sweep)}) == 3


@pytest.mark.slow
def test_resume_runs_failed_trials_and_no_finished_ones(tmp_path: Path) -> None:
    sweep = run_worker(create_sweep(tmp_path, "optimizer.lr=0.01,1e30"))
    assert [entry.state for entry in read_entries(sweep)] == ["finished", "failed"]
    assert retry_unfinished(sweep) == 1
    run_worker(sweep)
    assert [(entry.state, entry.attempt) for entry in read_entries(sweep)] == [("finished", 1), ("failed", 2)]


@pytest.mark.slow
def test_max_points_ends_an_adaptive_sweep(tmp_path: Path) -> None:
    overrides = ("optimizer.lr=tag(log, interval(0.001, 0.1))", "sweep.strategy=tpe", "sweep.budget.max_points=4")
    sweep = create_sweep(tmp_path, *overrides, "sweep.num_seeds=2")
    assert count_todo(sweep.spec, LedgerState()) == 8
    run_worker(sweep)
    assert len(read_entries(sweep)) == 8
    assert {entry.state for entry in read_entries(sweep)} == {"finished"}
    assert extend(sweep, ["sweep.budget.max_points=5"]) == 0
    run_worker(Sweep(sweep.folder))
    assert len(read_entries(sweep)) == 10


@pytest.mark.slow
def test_strategy_chooses_each_point_after_the_previous_trial_ended(tmp_path: Path) -> None:
    overrides = (
        "optimizer.lr=tag(log, interval(0.001, 0.1))",
        "sweep.budget.max_points=5",
        "sweep.strategy.startup_points=2",
    )
    sweep = run_worker(create_sweep(tmp_path, "sweep.strategy=tpe", *overrides))
    events = [json.loads(line) for line in (sweep.folder / "ledger.jsonl").read_text().splitlines()]
    order = [event["event"] for event in events if event["event"] in ("trial", "ended")]
    assert order == ["trial", "ended"] * 5


@pytest.mark.slow
def test_no_trial_starts_after_the_time_budget(tmp_path: Path) -> None:
    sweep = run_worker(create_sweep(tmp_path, "optimizer.lr=0.01,0.02,0.03", "sweep.budget.device_h=1e-9"))
    assert [entry.state for entry in read_entries(sweep)] == ["finished", "pending", "pending"]
    assert sweep.ledger().read().closed == "sweep.budget.device_h=1e-09 is spent"


@pytest.mark.slow
def test_bad_trials_are_pruned_at_a_rung(tmp_path: Path) -> None:
    pruner = "sweep.pruner={name: asha, first_step: 100, factor: 3}"
    steps = ("max_steps=4000", "eval_every_steps=100", "checkpoint.every_steps=1000")
    sweep = run_worker(create_sweep(tmp_path, "optimizer.lr=0.01,0.02,1e-9,1e-8,1e-7", pruner, *steps))
    states = [entry.state for entry in read_entries(sweep)]
    assert states[0] == "finished"
    assert "pruned" in states[2:]
    pruned = [entry for entry in read_entries(sweep) if entry.state == "pruned"]
    assert all(entry.step < 4000 and entry.value is not None for entry in pruned)


@pytest.mark.slow
def test_options_of_a_choice_have_their_own_keys(tmp_path: Path) -> None:
    file = tmp_path / "choice.yaml"
    file.write_text(
        f"base: [{', '.join(QUICK)}, tracking=off, 'runs_dir={tmp_path}']\n"
        "space:\n  optimizer:\n    sgd: {optimizer.momentum: '0.0,0.9'}\n    adamw: {optimizer.weight_decay: '0.1'}\n"
    )
    from experiments.sweep.spec import read

    sweep = run_worker(write(prepare(read(str(file)))))
    optimizers = [sweep.trial(entry).config["optimizer"] for entry in read_entries(sweep)]
    assert [(one["_target_"].rpartition(".")[2], one.get("momentum"), one["weight_decay"]) for one in optimizers] == [
        ("SGD", 0.0, 0.0), ("SGD", 0.9, 0.0), ("AdamW", None, 0.1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("devices", "per_trial", "side_by_side", "trials_per_worker", "ranks"),
    [(4, None, 1, 1, 4), (4, None, 2, 2, 4), (4, 1, 2, 8, 1), (4, 2, 1, 2, 2)],
)
def test_devices_of_a_worker_are_divided_among_trials(
    tmp_path: Path, devices: int, per_trial: int | None, side_by_side: int, trials_per_worker: int, ranks: int
) -> None:
    parallel = "parallel=data" if ranks > 1 else "parallel=single"
    packed = [f"launcher.trials_per_device={side_by_side}", f"hardware.devices_per_node={devices}", parallel]
    packed += [f"launcher.devices_per_trial={per_trial}"] if per_trial else []
    draft = prepare(read_overrides([*QUICK, f"runs_dir={tmp_path}", "seed=0,1", *packed], name="probe"))
    worker = {"nodes": 1, "devices_per_node": devices}
    pool = make_pool(tmp_path, draft.templates, worker, draft.spec.values, 100, {})
    assert (pool.trials_per_worker, pool.ranks_per_trial) == (trials_per_worker, ranks)
    assert draft.templates.all[0].config["hardware"]["devices_per_node"] == ranks


@pytest.mark.slow
def test_command_runs_a_sweep_and_prints_the_best_point(lathe: Lathe, tmp_path: Path) -> None:
    done = lathe("run", "-m", *QUICK, "tracking=off", "optimizer.lr=0.001,0.01")
    assert done.returncode == 0, done.stderr
    assert "2/2 done" in done.stdout
    assert "lr=0.01" in done.stdout
    (folder,) = (tmp_path / "runs").glob("*/sweep.yaml")
    again = lathe("resume", folder.parent.name)
    assert "nothing is left to run" in again.stdout
    assert again.returncode == 0


@pytest.mark.slow
def test_sweep_continues_after_its_command_is_killed(live: Any, tmp_path: Path) -> None:
    process = live.start("run", "-m", *QUICK, "tracking=off", "optimizer.lr=0.001,0.01,0.02,0.03", "max_steps=400")
    wait_until(lambda: bool(list((tmp_path / "runs").glob("*/*/attempts/1/journal.jsonl"))), "the first trial")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    sweep = Sweep(next((tmp_path / "runs").glob("*/sweep.yaml")).parent)
    wait_until(lambda: all(entry.state == "finished" for entry in read_entries(sweep)), "all trials")


@pytest.mark.slow
def test_two_concurrent_commands_run_each_trial_once(tmp_path: Path) -> None:
    sweep = create_sweep(tmp_path, "optimizer.lr=range(1,13)", "max_steps=40")
    workers = [start_worker(sweep, f"w{number}") for number in range(3)]
    assert submit(sweep) is not None
    assert [worker.wait(timeout=PATIENCE_S) for worker in workers] == [0, 0, 0]
    wait_until(lambda: {entry.state for entry in read_entries(sweep)} <= {"finished", "failed"}, "all trials")
    assert {entry.attempt for entry in read_entries(sweep)} == {1}
