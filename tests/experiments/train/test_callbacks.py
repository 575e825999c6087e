"""Callbacks in a training: their state, delivered weights, and an early end."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from experiments.core.errors import InputError, TrainingError
from modules.callback.base import Callback
from modules.parallel.checkpoint_format import StateError, read_tree, write_tree
from tests.experiments.train.test_trainer import Attempt

SHORT = ("max_steps=12", "eval_every_steps=4", "checkpoint.every_steps=4", "optimizer.lr=0.01")


class Spy(Callback):
    """Keeps a copy of the weights after every step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []

    def on_step_end(self, model: nn.Module, done: int, metrics: Mapping[str, Tensor]) -> None:
        self.weights.append({name: each.detach().clone() for name, each in model.named_parameters()})

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weights = list(state["weights"])


def test_the_average_of_the_weights_is_evaluated_and_delivered_and_the_others_are_trained(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, *SHORT, "callback=ema", "callback.ema.decay=0.6", "checkpoint.best_metric=null")
    spy = Spy()
    attempt.training.components.callbacks["spy"] = spy  # type: ignore[index]
    attempt.run()
    average = dict.fromkeys(spy.weights[0], torch.zeros(()))
    for weights in spy.weights:
        average = {name: 0.6 * average[name] + 0.4 * each for name, each in weights.items()}
    checkpoint = attempt.checkpoints.delivered()
    assert checkpoint is not None
    assert checkpoint.weights.name == "delivered.safetensors"
    delivered, trained = load_file(checkpoint.weights), load_file(checkpoint.folder / "model.safetensors")
    for name, each in average.items():
        torch.testing.assert_close(delivered[name], each / (1 - 0.6**12))
        assert torch.equal(trained[name], spy.weights[-1][name])
    plain = Attempt(tmp_path / "plain", *SHORT, "checkpoint.best_metric=null")
    plain.run()
    assert plain.curve("train/loss_nats") == attempt.curve("train/loss_nats")
    assert plain.curve("val/loss_nats") != attempt.curve("val/loss_nats")
    assert plain.curve("test/loss_nats") != attempt.curve("test/loss_nats")


def test_a_resumed_run_has_the_same_callbacks_bit_for_bit(tmp_path: Path) -> None:
    both = ("callback=[ema,early_stopping]", "callback.early_stopping.patience=9")
    whole = Attempt(tmp_path / "whole", *SHORT, *both)
    whole.run()
    stops = iter([None] * 6 + ["SIGTERM"] * 9)
    folder = tmp_path / "resumed"
    assert Attempt(folder, *SHORT, *both, should_stop=lambda: next(stops)).run()[0] == "interrupted"
    rest = Attempt(folder, *SHORT, *both)
    assert rest.run() == ("finished", None)
    last = [attempt.checkpoints.latest() for attempt in (whole, rest)]
    one, two = (checkpoint.folder for checkpoint in last if checkpoint is not None)
    for name in ("callbacks.safetensors", "callbacks.json", "delivered.safetensors", "model.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_a_training_ends_early_as_finished_and_a_resume_ends_at_once(tmp_path: Path) -> None:
    patient = (*SHORT, "max_steps=40", "optimizer.lr=0.0", "callback=early_stopping")
    attempt = Attempt(tmp_path, *patient, "callback.early_stopping.patience=2", "callback.early_stopping.min_change=1")
    state, reason = attempt.run()
    assert state == "finished"
    assert reason is not None
    assert reason.startswith("val/accuracy_top1 has not improved in 2 evaluations; its best value is 0.")
    assert sorted(attempt.curve("val/accuracy_top1")) == [4, 8, 12]
    assert sorted(attempt.curve("test/accuracy_top1")) == [4]  # the step that the run delivers
    again = Attempt(tmp_path, *patient, "callback.early_stopping.patience=2", "callback.early_stopping.min_change=1")
    assert again.run() == ("finished", reason)
    assert again.training.done == 12


def test_a_metric_that_the_run_does_not_have_is_wrong_input(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, *SHORT, "callback=early_stopping", "callback.early_stopping.metric=val/auc")
    with pytest.raises(InputError, match=r"val/auc is not a metric of this run; use one of val/accuracy_top1"):
        attempt.run()


def test_a_checkpoint_without_the_state_of_a_callback_is_not_resumed(tmp_path: Path) -> None:
    stops = iter([None] * 6 + ["SIGTERM"] * 9)
    Attempt(tmp_path, *SHORT, should_stop=lambda: next(stops)).run()
    with pytest.raises(TrainingError, match="callbacks"):
        Attempt(tmp_path, *SHORT, "callback=ema").run()


def test_a_tree_survives_the_files_of_a_checkpoint(tmp_path: Path) -> None:
    tree = {"a": [torch.arange(3), {"b": 1.5, "c": None}], "empty": [], "text": "x", "flag": True}
    write_tree(tmp_path, "own", tree)
    read = read_tree(tmp_path, "own")
    assert torch.equal(read["a"][0], torch.arange(3))
    assert (read["a"][1], read["empty"], read["text"], read["flag"]) == ({"b": 1.5, "c": None}, [], "x", True)


@pytest.mark.parametrize(
    ("tree", "message"),
    [({"a": object()}, r"can hold only numbers, text and lists"), ({1: 2.0}, "the key 1 of a map is not text")],
    ids=["object", "key"],
)
def test_a_tree_with_other_values_is_refused(tree: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write_tree(tmp_path, "own", tree)


DEEP = 100_000
HOSTILE_TREES = {
    "no tensor": '{"a": {"number of the tensor": 7}}', "list": "[]", "number": "1", "deep": "[" * DEEP + "]" * DEEP,
    "deep map": '{"a":' * 900 + "1" + "}" * 900,
}  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE_TREES.values(), ids=HOSTILE_TREES)
def test_a_hostile_tree_is_reported_as_damaged(text: str, tmp_path: Path) -> None:
    write_tree(tmp_path, "own", {})
    (tmp_path / "own.json").write_text(text)
    with pytest.raises(StateError, match="resume from an older checkpoint"):
        read_tree(tmp_path, "own")


def test_a_fifo_in_place_of_a_tree_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path, "own", {})
    (tmp_path / "own.json").unlink()
    os.mkfifo(tmp_path / "own.json")
    with pytest.raises(StateError, match="it is not a file"):
        read_tree(tmp_path, "own")
