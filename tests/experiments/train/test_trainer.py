"""The training loop, tested on the digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.components.assemble import assemble
from experiments.config.compose import compose
from experiments.core.errors import InputError, TrainingError
from experiments.plan.plan import make_plan
from experiments.run.checkpoint import Checkpoints
from experiments.run.journal import Journal, read
from experiments.train.data_digest import fingerprint
from experiments.train.trainer import Trainer
from modules.data.base import ComponentWarning

SMALL = ("model=mlp", "model.hidden_sizes=[32]", "tracking=off", "hardware.device=cpu")


class Attempt:
    """A training in this process, and the calls of `on_running`."""

    def __init__(
        self,
        folder: Path,
        *overrides: str,
        small: tuple[str, ...] = SMALL,
        should_stop: Callable[[], str | None] = lambda: None,
    ) -> None:
        config = compose([*small, *overrides]).config
        self.folder = folder
        self.calls: list[tuple[int, str | None]] = []
        self.checkpoints = Checkpoints(folder, config["checkpoint"]["keep_last"])
        self.journal = Journal(folder / "journal.jsonl")
        self.training = Trainer(
            config, make_plan(config), assemble(config), self.journal, self.checkpoints, should_stop,
            lambda step, warning: self.calls.append((step, warning)),
        )  # fmt: skip

    def run(self) -> tuple[str, str | None]:
        with self.journal:
            return self.training.run()

    def curve(self, key: str) -> dict[int, float]:
        events = read(self.folder / "journal.jsonl")[0]
        points = [event for event in events if event["event"] == "metrics" and key in event["metrics"]]
        return {event["step"]: event["metrics"][key] for event in points}

    def weights(self) -> dict[str, torch.Tensor]:
        return self.training.components.engine.weights()


def test_an_error_that_the_objective_raises_only_in_training_mode_is_wrong_input(tmp_path: Path) -> None:
    network = ("model=inception_v1", "model.width=0.01", "model.stem_pools=0", "model.stem_stride=1")
    with pytest.raises(
        InputError, match=r"objective\.aux_weight=0 leaves 2 auxiliary classifiers of the model untrained"
    ):
        Attempt(tmp_path, *network, "objective.aux_weight=0", small=SMALL[2:]).run()


def test_the_loop_learns_digits(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "max_steps=400", "eval_every_steps=150", "optimizer.lr=0.01")
    assert attempt.run() == ("finished", None)
    assert max(attempt.curve("test/accuracy_top1").values()) > 0.93
    loss = attempt.curve("train/loss_nats")
    assert sorted(loss) == [1, *range(10, 401, 10)]
    assert loss[400] < loss[1] / 10
    assert sorted(attempt.curve("val/accuracy_top1")) == [150, 300, 400]
    assert attempt.calls == [(0, None)]
    assert all(0 < share < 1 for share in attempt.curve("perf/data_wait_fraction").values())


def test_bf16_learns_as_well(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "max_steps=300", "precision=bf16", "optimizer.lr=0.01")
    attempt.run()
    assert max(attempt.curve("test/accuracy_top1").values()) > 0.9


def test_accumulation_gives_the_big_batch(tmp_path: Path) -> None:
    whole = Attempt(tmp_path / "a", "max_steps=20", "optimizer=sgd", "batch_size_global=60")
    split = Attempt(tmp_path / "b", "max_steps=20", "optimizer=sgd", "batch_size_global=60", "batch_size_per_device=12")
    whole.run(), split.run()
    assert split.curve("train/loss_nats") == pytest.approx(whole.curve("train/loss_nats"), rel=1e-5)
    torch.testing.assert_close(split.weights(), whole.weights(), rtol=1e-5, atol=1e-6)


def test_gradients_are_clipped_and_their_norm_is_logged(tmp_path: Path) -> None:
    base = ("max_steps=1", "optimizer=sgd", "optimizer.lr=1.0", "optimizer.momentum=0.0", "seed=3")
    attempt = Attempt(tmp_path, *base, "grad_clip_norm=0.01")
    before = {name: tensor.clone() for name, tensor in attempt.training.components.setup.model.state_dict().items()}
    attempt.run()
    moved = torch.cat([(tensor - before[name]).flatten() for name, tensor in attempt.weights().items()])
    assert moved.norm() == pytest.approx(0.01, rel=1e-3)
    assert attempt.curve("train/grad_norm")[1] > 0.1


def test_the_error_for_a_loss_that_is_not_finite_names_its_step(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "optimizer=sgd", "optimizer.lr=1e30", "max_steps=50", "checkpoint.every_steps=1")
    with pytest.raises(
        TrainingError,
        match=r"loss_nats=(nan|inf) at step \d+ is not a finite number; start another run with a lower optimizer\.lr",
    ) as raised:
        attempt.run()
    step = int(str(raised.value).split("at step ")[1].split()[0])
    assert attempt.training.done == step
    assert sorted(attempt.curve("train/loss_nats"))[-1] == step
    latest = attempt.checkpoints.latest()
    assert latest is None or latest.step < step


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch 2.13's own
def test_a_compiled_model_learns_the_same(tmp_path: Path) -> None:
    plain, compiled = (Attempt(tmp_path / str(flag), "max_steps=10", f"compile={flag}") for flag in ("false", "true"))
    plain.run(), compiled.run()
    assert compiled.curve("train/loss_nats") == pytest.approx(plain.curve("train/loss_nats"), rel=1e-3)
    assert compiled.weights().keys() == plain.weights().keys()


def test_channels_last_gives_the_same_losses(tmp_path: Path) -> None:
    plain, last = (
        Attempt(tmp_path / flag, f"channels_last={flag}", small=("model=lenet", "optimizer=sgd", "max_steps=5"))
        for flag in ("false", "true")
    )
    plain.run(), last.run()
    assert last.curve("train/loss_nats") == pytest.approx(plain.curve("train/loss_nats"), rel=1e-4)
    assert last.curve("val/loss_nats") == pytest.approx(plain.curve("val/loss_nats"), rel=1e-4)


def test_the_last_and_the_best_checkpoints_are_retained(tmp_path: Path) -> None:
    attempt = Attempt(
        tmp_path, "max_steps=60", "eval_every_steps=7", "checkpoint.every_steps=10", "checkpoint.keep_last=2",
        "checkpoint.best_metric=val/loss_nats", "checkpoint.best_mode=min",
    )  # fmt: skip
    attempt.run()
    losses = attempt.curve("val/loss_nats")
    best = attempt.checkpoints.best()
    assert best is not None
    assert losses[best.step] == min(losses.values())
    steps = {int(path.name[5:]) for path in (tmp_path / "checkpoints").glob("step_*")}
    assert {60, best.step} <= steps
    assert len(steps) <= 3


def test_epochs_see_every_example_that_fills_a_batch(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "max_steps=null", "max_epochs=2", "batch_size_global=100", "data.num_train=530")
    attempt.run()
    assert attempt.training.done == 2 * 5


def test_a_stop_saves_the_step_and_the_next_attempt_continues(tmp_path: Path) -> None:
    steps = iter(range(1000))
    first = Attempt(tmp_path, "max_steps=30", should_stop=lambda: "SIGTERM" if next(steps) == 12 else None)
    assert first.run() == ("interrupted", "SIGTERM after step 12, which is saved")
    second = Attempt(tmp_path, "max_steps=30")
    assert second.run() == ("finished", None)
    assert second.calls == [(12, None)]
    whole = Attempt(tmp_path / "whole", "max_steps=30")
    whole.run()
    assert all(torch.equal(tensor, second.weights()[name]) for name, tensor in whole.weights().items())


def test_a_stop_before_the_first_step_trains_nothing(tmp_path: Path) -> None:
    assert Attempt(tmp_path, should_stop=lambda: "SIGINT").run() == ("interrupted", "SIGINT before step 1")
    assert not (tmp_path / "checkpoints").exists()


def test_a_best_step_that_a_crash_left_unmarked_is_marked_on_resume(tmp_path: Path) -> None:
    base = ("max_steps=40", "eval_every_steps=20", "checkpoint.every_steps=1000", "optimizer.lr=0.01")
    Attempt(tmp_path, *base, should_stop=lambda: None).run()
    best = tmp_path / "checkpoints" / "best.json"
    expected = best.read_text()
    best.unlink()
    Attempt(tmp_path, *base).run()
    assert best.read_text() == expected


def test_the_error_for_a_wrong_best_metric_lists_the_metrics(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "max_steps=5", "checkpoint.best_metric=val/acuracy")
    with pytest.raises(
        InputError, match="val/acuracy is not a metric of this run; use one of val/accuracy_top1, val/loss"
    ):
        attempt.run()


def test_an_evaluator_that_does_not_fit_the_outputs_fails_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="top_k"):
        Attempt(tmp_path, "evaluator.top_k=[1,20]").run()
    assert not Attempt(tmp_path).curve("train/loss_nats")


def test_data_that_changed_since_an_earlier_attempt_are_an_error(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "max_steps=1")
    attempt.training.previous.digests["train"] = "0123456789abcdef"
    with pytest.raises(
        TrainingError, match=r"data=digits has changed: the split 'train' has the digest [0-9a-f]{16}-[0-9a-f]{16}, and"
    ):
        attempt.run()


def test_a_digest_of_an_earlier_version_is_compared_as_far_as_it_goes(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "max_steps=1")
    digest = fingerprint(attempt.training.components.data.load("train"))
    attempt.training.previous.digests["train"] = digest.partition("-")[0]
    with pytest.warns(
        ComponentWarning, match="data=digits, split 'train': an earlier version of Lathe recorded only its"
    ):
        assert attempt.run()[0] == "finished"


def test_weights_that_are_not_finite_replace_no_checkpoint(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "max_steps=20", "checkpoint.every_steps=5", "eval_every_steps=50")
    original = attempt.training.components.setup.objective

    def objective(outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss, metrics = original(outputs, targets)
        if attempt.training.done == 9:
            loss = loss + (outputs * 0).sum().sqrt()  # 0, with an infinite gradient
        return loss, metrics

    attempt.training.components.setup.objective = objective  # type: ignore[assignment]
    with pytest.raises(TrainingError, match="the weights after step 10 are not all finite numbers"):
        attempt.run()
    latest = attempt.checkpoints.latest()
    assert latest is not None
    assert latest.step == 5


def test_an_attempt_fails_if_no_checkpoint_can_be_restored(tmp_path: Path) -> None:
    Attempt(tmp_path, "max_steps=10").run()
    with pytest.raises(TrainingError, match="no checkpoint of this run can be restored; the one of step 10"):
        Attempt(tmp_path, "max_steps=10", "model.hidden_sizes=[33]").run()
    assert list((tmp_path / "checkpoints").glob("step_*")), "checkpoints that cannot be loaded stay if no other can"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_a_missing_device_is_wrong_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="device=cuda"):
        Attempt(tmp_path, "hardware.device=cuda").run()


def test_an_objective_without_metrics_trains(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "max_steps=3", "eval_every_steps=3")
    objective: Any = attempt.training.components.setup.objective
    attempt.training.components.setup.objective = lambda outputs, targets: (objective(outputs, targets)[0], {})
    assert attempt.run() == ("finished", None)
