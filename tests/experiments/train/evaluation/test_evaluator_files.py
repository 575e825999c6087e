"""Files that an evaluator writes, for images and masks made for the test and selected only by overrides."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from experiments.components.assemble import assemble
from experiments.config.compose import compose
from experiments.plan.plan import make_plan
from experiments.run.checkpoint import Checkpoints
from experiments.run.journal import Event, Journal, read
from experiments.train.evaluation.evaluator_files import _fill, _make_skeleton
from experiments.train.trainer import Trainer
from tests.support.batches import fetch
from tests.support.masks import write_archive

OVERRIDES = (
    "experiment=dense_prediction", "model.base_channels=4", "model.num_levels=2", "data.folder=tiny",
    "data.files={tiny.npz: null}", "data.second_masks=null", "data.positive_values=[5]", "data.ignored_values=[7]",
    r"data.group_pattern='town\d'", "data.num_val_groups=1", "data.num_test_groups=1", "data.num_train=48",
    "data.image_shape=[3,8,8]", "data.num_features=192", "data.eval_size=[10,12]", "evaluator.num_pictures=3",
    "optimizer.lr=0.02", "schedule.warmup_steps=0", "batch_size_global=8", "max_steps=60", "eval_every_steps=60",
    "checkpoint.every_steps=60", "tracking=off", "hardware.device=cpu",
)  # fmt: skip


def trained(root: Path, *overrides: str) -> tuple[Trainer, list[Event]]:
    """Train in this process; return the trainer and the events of its journal."""
    (root / "tiny").mkdir()
    write_archive(root / "tiny" / "tiny.npz")
    config = compose([*OVERRIDES, f"data_root={root}", *overrides]).config
    path = root / "attempts" / "1" / "journal.jsonl"
    with Journal(path) as journal:
        training = Trainer(
            config, make_plan(config), assemble(config), journal, Checkpoints(root, 1), lambda: None,
            lambda step, warning: None,
        )  # fmt: skip
        assert training.run() == ("finished", None)
    return training, read(path)[0]


def artifacts(events: list[Event]) -> list[str]:
    return [event["path"] for event in events if event["event"] == "artifact"]


def test_a_run_writes_the_outputs_of_its_model_for_test_images(tmp_path: Path) -> None:
    training, events = trained(tmp_path)
    metrics = [event["metrics"] for event in events if event["event"] == "metrics"]
    losses = [each["train/loss_dice"] for each in metrics if "train/loss_dice" in each]
    assert losses[-1] < losses[0] - 0.1
    assert any(0 < each.get("test/dice_constant", 0) < 1 for each in metrics)
    assert artifacts(events) == ["attempts/1/test"]
    folder = tmp_path / "attempts" / "1" / "test"
    assert [path.name for path in folder.iterdir()] == ["000.png"], "there is one test image"
    with Image.open(folder / "000.png") as image:
        pixels = np.asarray(image)
    assert pixels.shape == (10, 11 * 3 + 2 * 4, 3), "without the padding to 12"
    inputs, _ = fetch(training.components.data.load("test"), torch.tensor([0]))
    with torch.inference_mode():
        classes = training.components.setup.model.eval()(inputs).argmax(3)[0].numpy()
    assert np.array_equal(pixels[:, 30:, 0] == 255, classes[:, :11] == 1)


ACCURACY = (
    "evaluator._target_=modules.evaluator.accuracy.Accuracy", "~evaluator.num_pictures", "~evaluator.background",
    "~evaluator.num_classes", "+evaluator.top_k=[1]",
)  # fmt: skip


@pytest.mark.parametrize("overrides", [["evaluator.num_pictures=0"], ACCURACY], ids=["none", "another evaluator"])
def test_a_run_without_artifacts_writes_no_files(tmp_path: Path, overrides: list[str]) -> None:
    _, events = trained(tmp_path, "checkpoint.best_metric=null", "max_steps=2", *overrides)
    assert artifacts(events) == []
    assert not (tmp_path / "attempts" / "1" / "test").exists()


class Tied(nn.Module):
    """Weights under two names, in a list, of two dtypes, and buffers of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 2)
        self.first, self.second, self.norm = nn.Linear(2, 5), nn.Linear(2, 5), nn.BatchNorm1d(5).double()
        self.second.weight = self.first.weight
        self.also = [self.first.weight]
        self.register_buffer("shift", torch.arange(5.0), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.lstm(inputs)[0]
        both = self.first(hidden) + self.second(hidden) @ self.also[0] @ self.also[0].T + self.get_buffer("shift")
        return cast(Tensor, self.norm(both.double()))


def test_the_skeleton_holds_no_weights_and_once_filled_is_the_same_model() -> None:
    model, inputs = Tied(), torch.rand(4, 3)
    skeleton = _make_skeleton(model)
    tensors = skeleton.state_dict(keep_vars=True)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        name: tensor.shape for name, tensor in model.state_dict().items()
    }
    assert sum(tensor.untyped_storage().nbytes() for tensor in tensors.values()) == 0
    assert [one.requires_grad for one in skeleton.parameters()] == [one.requires_grad for one in model.parameters()]
    model(inputs)  # changes the running mean of the norm
    with torch.no_grad():
        model.first.weight.mul_(-3)
    filled = _fill(skeleton, {name: tensor.clone() for name, tensor in model.state_dict().items()})
    assert torch.equal(filled.eval()(inputs), model.eval()(inputs))
    assert not {one.data_ptr() for one in filled.parameters()} & {one.data_ptr() for one in model.parameters()}
