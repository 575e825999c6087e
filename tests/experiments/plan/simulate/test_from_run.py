from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.config.rules.engine import read_engine
from experiments.core.errors import InputError
from experiments.plan.simulate.distributions import Lognormal
from experiments.plan.simulate.from_run import RecordedRun, find_mode, predicted, read, read_choices
from experiments.plan.simulate.modes import Choices, simulate
from experiments.run.journal import Journal
from experiments.trial.trial import Trial
from tests.support.simulated_clusters import make_cluster, make_machine

SERVERS = {"_target_": "modules.parallel.parameter_server.ParameterServer"}


def make_run(folder: Path, step_ms: list[float], parallel: dict[str, Any] | None = None, **metrics: float) -> Trial:
    """A run folder with the files that a simulation reads."""
    folder.mkdir(parents=True)
    config = {
        "batch_size_global": 60, "log_every_steps": 1, "hardware": {"device": "cpu"},
        "parallel": parallel or {"_target_": "modules.parallel.data.DataParallel", "data": "auto"},
    }  # fmt: skip
    (folder / "trial.yaml").write_text(yaml.safe_dump(config))
    with Journal(folder / "attempts" / "1" / "journal.jsonl") as journal:
        journal.params({"plan.num_parameters": 1000, "plan.num_steps": 7, "plan.data": 3})
        for step, value in enumerate(step_ms, 1):
            journal.metrics(step, {"perf/step_time_ms": value, **metrics})
        journal.metrics(len(step_ms), {"test/accuracy_top1": 0.5})
    return Trial(folder)


def test_the_steps_after_the_first_are_read_from_a_journal(tmp_path: Path) -> None:
    recorded = read(make_run(tmp_path / "abc", [900.0, 30.0, 20.0]))
    assert recorded.step_s == (0.03, 0.02)
    assert (recorded.name, recorded.mode, recorded.workers, recorded.batch_size) == ("run abc", "sync", 3, 20)
    assert (recorded.num_parameters, recorded.num_samples) == (1000, 420)
    assert recorded.examples_per_s == pytest.approx(60 / 0.025)


def test_the_first_step_of_every_attempt_is_left_out(tmp_path: Path) -> None:
    trial = make_run(tmp_path / "abc", [900.0, 30.0])
    with Journal(trial.folder / "attempts" / "2" / "journal.jsonl") as journal:
        journal.params({"plan.num_parameters": 1000, "plan.num_steps": 7, "plan.data": 3})
        for step, value in ((2, 31.0), (3, 800.0), (4, 40.0)):
            journal.metrics(step, {"perf/step_time_ms": value})
    assert read(trial).step_s == (0.03, 0.04)


@pytest.mark.parametrize("step_ms", [[], [900.0]])
def test_a_run_without_steps_is_refused(tmp_path: Path, step_ms: list[float]) -> None:
    with pytest.raises(InputError, match=r"run 'abc' has no step time after the first \(perf/step_time_ms\); run more"):
        read(make_run(tmp_path / "abc", step_ms))


@pytest.mark.parametrize(
    ("parallel", "mode", "choices"),
    [
        ({"_target_": "modules.parallel.data.DataParallel", "data": 4}, "sync", Choices()),
        (
            {**SERVERS, "num_servers": 1, "num_backup_workers": 0, "group_size": 1, "max_staleness": None},
            "async",
            Choices(None, 1),
        ),
        (
            {**SERVERS, "num_servers": 2, "num_backup_workers": 0, "group_size": 1, "max_staleness": 0},
            "sync_servers",
            Choices(None, 1, 0),
        ),
        (
            {**SERVERS, "num_servers": 1, "num_backup_workers": 2, "group_size": 1, "max_staleness": None},
            "backup",
            Choices(2, 1),
        ),
        (
            {**SERVERS, "num_servers": 1, "num_backup_workers": 0, "group_size": 3, "max_staleness": 4},
            "hybrid",
            Choices(None, 3, 4),
        ),
    ],
)
def test_each_engine_has_its_mode(parallel: dict[str, Any], mode: str, choices: Choices) -> None:
    engine = read_engine({"parallel": parallel})
    assert find_mode(engine) == mode
    assert read_choices(engine) == choices


def test_an_asynchronous_run_has_separate_times_of_computing_and_applying(tmp_path: Path) -> None:
    metrics = {
        "async/compute_ms_mean": 24.0, "async/compute_ms_std": 6.0, "async/apply_ms_mean": 2.0, "async/pull_ms_mean": 1.0,
        "async/push_ms_mean": 4.0, "train/loss_nats": 1.0,
    }  # fmt: skip
    parallel = {**SERVERS, "num_servers": 2, "num_backup_workers": 0, "group_size": 1, "max_staleness": None}
    recorded = read(make_run(tmp_path / "abc", [900.0, 30.0], parallel, **metrics))
    assert recorded.examples_per_s == pytest.approx(2000.0)
    assert "train/loss_nats" not in recorded.parts_ms
    made = recorded.cluster(make_machine(devices_per_node=3, concurrent_devices=3.0))
    assert isinstance(made.times, Lognormal)
    assert (made.times.mean_s, made.times.variation) == pytest.approx((0.024, 0.25))
    assert (made.apply_s, made.num_servers, made.num_bytes) == (0.004, 2, 4000)  # each server its part
    message_times = made.measured_message_times
    assert message_times is not None
    assert (message_times.pull_s, message_times.push_s, message_times.rest_s) == pytest.approx((0.001, 0.002, 0.001))


def test_simulated_runs_of_one_and_four_workers_predict_each_other() -> None:
    """The simulator makes two runs on a machine of 2 cores; each run predicts the other."""
    on = make_machine(devices_per_node=4, concurrent_devices=2.0, is_accelerator=False, link_latency_s=1e-4)
    truth = make_cluster(Lognormal(0.1, 0.2), on, num_bytes=4_000_000, batch_size=16)
    runs = {}
    for workers in (1, 4):
        steps = [
            simulate(truth, "sync", workers, Choices(seed=seed, num_steps=1)).updates_per_s ** -1 for seed in range(60)
        ]
        runs[workers] = RecordedRun(f"{workers}", "sync", workers, 16, 1_000_000, tuple(steps))
    for source, other in ((1, 4), (4, 1)):
        prediction = predicted(runs[source], runs[other], on)
        assert prediction.examples_per_s == pytest.approx(runs[other].examples_per_s, rel=0.1)


def test_a_recorded_asynchronous_run_is_predicted_from_a_run_of_one_replica() -> None:
    """If messages use the cores, the cores limit the speed of two replicas on two cores."""
    on = make_machine(devices_per_node=4, concurrent_devices=2.0, is_accelerator=False)
    parts = {
        "compute_ms_mean": 50.0,
        "compute_ms_std": 5.0,
        "apply_ms_mean": 4.0,
        "pull_ms_mean": 6.0,
        "push_ms_mean": 14.0,
    }
    one = RecordedRun("one", "async", 1, 8, 1000, (0.08,), {f"async/{name}": (value,) for name, value in parts.items()})
    four = replace(one, workers=4, step_s=(4 * 0.08 / 2,))
    assert predicted(one, one, on).examples_per_s == pytest.approx(one.examples_per_s, rel=0.02)
    assert predicted(one, four, on).examples_per_s == pytest.approx(four.examples_per_s, rel=0.1)


def test_backup_workers_do_not_count_in_a_batch(tmp_path: Path) -> None:
    parallel = {**SERVERS, "num_servers": 1, "num_backup_workers": 1, "group_size": 1, "max_staleness": 0}
    recorded = read(make_run(tmp_path / "abc", [900.0, 30.0], parallel))
    assert (recorded.workers, recorded.batch_size) == (3, 30)
    assert recorded.examples_per_s == pytest.approx(2000.0)
