"""The weights that a run delivers: which ones they are, and that the test metrics are those of these weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from experiments.components.assemble import assemble
from experiments.config.compose import compose
from experiments.plan.plan import make_plan
from experiments.run.checkpoint import Checkpoints
from experiments.run.journal import Journal, read
from experiments.train.data_loading import ALL, EvaluationLoader
from experiments.train.trainer import Trainer
from modules.parallel.base import Rank
from modules.parallel.single import Single
from tests.conftest import Lathe
from tests.experiments.train.test_trainer import Attempt
from tests.support.ranks import run_on_ranks
from tests.support.variants import only_long

LENGTH = ("max_steps=30", "eval_every_steps=10", "checkpoint.every_steps=15", "optimizer.lr=0.01", "seed=1")
FIRST_IS_BEST = ("checkpoint.best_metric=val/loss_nats", "checkpoint.best_mode=max")
"""The loss falls, so the first evaluation has the largest one."""


def measure_delivered(training: Trainer, folder: Path) -> tuple[int, dict[str, float]]:
    """The delivered step, and the test metrics of its weights in a new process with one rank."""
    checkpoint = Checkpoints(folder, 1).delivered()
    assert checkpoint is not None
    config = {**training.config, "hardware": {**training.config["hardware"], "devices_per_node": 1}}
    config["parallel"] = compose(["parallel=single"]).config["parallel"]
    components, engine = assemble(config), Single()
    alone = Trainer(config, make_plan(config), components, training.journal, training.checkpoints, lambda: None, print)
    engine.prepare(components.setup, alone.make_engine_config())
    engine.load(checkpoint.folder)
    batches = EvaluationLoader(components.data.load("test"), config["batch_size_eval"], 0, ALL)
    values = engine.evaluate(batches, components.evaluator)
    return checkpoint.step, {f"test/{name}": value for name, value in values.items()}


def read_points(folder: Path) -> dict[tuple[str, int], float]:
    """Every point of a journal by metric and step, each of which it has once."""
    path = next(path for path in (folder / "journal.jsonl", folder / "attempts/1/journal.jsonl") if path.exists())
    events = [event for event in read(path)[0] if event["event"] == "metrics"]
    points = [((name, event["step"]), value) for event in events for name, value in event["metrics"].items()]
    repeated = [key for key, count in Counter(key for key, _ in points).items() if count > 1]
    assert not repeated
    return dict(points)


def last_of(points: dict[tuple[str, int], float], metric: str) -> float:
    return points[max(key for key in points if key[0] == metric)]


def check(training: Trainer, folder: Path, expected_step: int) -> None:
    points = read_points(folder)
    step, values = measure_delivered(training, folder)
    assert step == expected_step == last_of(points, "delivered/step")
    tested = {key: value for key, value in points.items() if key[0].startswith("test/")}
    assert tested == pytest.approx({(name, step): value for name, value in values.items()}, rel=1e-6)
    for name in ("val/loss_nats", "val/accuracy_top1"):
        assert last_of(points, f"delivered/{name}") == pytest.approx(points[name, step], nan_ok=True)


@pytest.mark.parametrize(
    ("overrides", "step"),
    [
        (FIRST_IS_BEST, 10),
        (("checkpoint.best_metric=val/loss_nats", "checkpoint.best_mode=min"), 30),
        (("checkpoint.best_metric=null",), 30),
        ((*FIRST_IS_BEST, "checkpoint.every_steps=1", "checkpoint.keep_last=2"), 10),  # the best one is never pruned
        ((*FIRST_IS_BEST, "num_data_workers=1", "precision=bf16"), 10),
    ],
)
def test_the_test_metrics_are_those_of_the_delivered_weights(
    tmp_path: Path, overrides: tuple[str, ...], step: int
) -> None:
    attempt = Attempt(tmp_path, *LENGTH, *overrides)
    assert attempt.run() == ("finished", None)
    check(attempt.training, tmp_path, step)


def test_a_metric_that_is_never_a_number_selects_the_last_step(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, *LENGTH)
    attempt.training.components.evaluator.compute = lambda sums: {"accuracy_top1": float("nan")}  # type: ignore[union-attr, method-assign]
    attempt.run()
    assert last_of(read_points(tmp_path), "delivered/step") == 30
    assert not Checkpoints(tmp_path, 1).has_best


def test_a_resumed_run_delivers_what_an_earlier_attempt_saved(tmp_path: Path) -> None:
    asked = iter(range(100))
    first = Attempt(
        tmp_path / "run", *LENGTH, *FIRST_IS_BEST, should_stop=lambda: "stop" if next(asked) == 22 else None
    )
    assert first.run()[0] == "interrupted"
    (tmp_path / "run" / "journal.jsonl").rename(tmp_path / "first.jsonl")
    second = Attempt(tmp_path / "run", *LENGTH, *FIRST_IS_BEST)
    second.training.delivered_step = 10  # as the journal of the first attempt says
    assert second.run() == ("finished", None)
    whole = Attempt(tmp_path / "whole", *LENGTH, *FIRST_IS_BEST)
    whole.run()
    points, expected = read_points(tmp_path / "run"), read_points(tmp_path / "whole")
    assert (
        points["test/loss_nats", 10]
        == expected["test/loss_nats", 10]
        == measure_delivered(second.training, tmp_path / "run")[1]["test/loss_nats"]
    )


def _truncate(best: Path) -> None:
    (best / "model.safetensors").write_bytes(b"")


def _remove(best: Path) -> None:
    (best / "model.safetensors").unlink()


def _spoil_mark(best: Path) -> None:
    (best.parent / "best.json").write_text("{")


@pytest.mark.parametrize("damage", [_truncate, _remove, _spoil_mark])
def test_a_run_whose_best_checkpoint_is_damaged_delivers_the_last_one(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    attempt = Attempt(tmp_path, *LENGTH, *FIRST_IS_BEST)
    load_delivered = attempt.training._evaluate_delivered

    def damage_first(test: object) -> None:
        attempt.training.checkpointer.wait()
        damage(tmp_path / "checkpoints" / "step_00000010")
        load_delivered(test)  # type: ignore[arg-type]

    attempt.training._evaluate_delivered = damage_first  # type: ignore[method-assign]
    assert attempt.run() == ("finished", None)
    assert any(warning for _, warning in attempt.calls)
    check(attempt.training, tmp_path, 30)


def _train(rank: Rank, folder: Path, overrides: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    config = compose(overrides).config
    journal = Journal(folder / "journal.jsonl" if rank.number == 0 else Path("/dev/null"))
    training = Trainer(
        config, make_plan(config), assemble(config), journal, Checkpoints(folder, 1), lambda: None,
        lambda step, warning: None, rank=rank, folder=folder,
    )  # fmt: skip
    assert training.run() == ("finished", None)


@pytest.mark.slow
@pytest.mark.parametrize(
    "parallel", ["data", "zero1", pytest.param("zero2", marks=only_long), "zero3", "pipeline", "model"]
)
def test_every_engine_measures_the_delivered_weights(tmp_path: Path, parallel: str) -> None:
    network = ("model=mlp", "model.hidden_sizes=[8]", "tracking=off", "hardware.device=cpu")
    overrides = (*network, *LENGTH, *FIRST_IS_BEST, f"parallel={parallel}", "hardware.devices_per_node=2")
    run_on_ranks(2, _train, tmp_path, overrides)
    alone = Attempt(tmp_path / "alone", *network, *LENGTH, *FIRST_IS_BEST)
    check(alone.training, tmp_path, 10)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [("async", "parallel.num_servers=2"), pytest.param(("hybrid", "parallel.group_size=2"), marks=only_long)],
)
def test_asynchronous_engines_measure_the_delivered_weights(
    lathe: Lathe, tmp_path: Path, overrides: tuple[str, str]
) -> None:
    network = ("model=mlp", "model.hidden_sizes=[8]", "tracking=off", "hardware.device=cpu")
    parallel = (f"parallel={overrides[0]}", overrides[1], "hardware.devices_per_node=2")
    done = lathe("run", *network, *LENGTH, *FIRST_IS_BEST, *parallel)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs" / "single").glob("*/")
    alone = Attempt(tmp_path / "alone", *network, *LENGTH, *FIRST_IS_BEST)
    check(alone.training, folder, 10)
