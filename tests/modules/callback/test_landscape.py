"""The loss around the weights, checked on a function whose shape is known."""

from __future__ import annotations

import csv
import io
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from modules.callback.base import Training
from modules.callback.landscape import Landscape, _draw_direction, _LossOfWeights
from modules.data.base import Tree
from modules.data.tensors import TensorSplit
from modules.task.base import Loss, StepContext, Task


class Surface(nn.Module):
    """A point in the plane, as a matrix with one row for each coordinate; its bias is frozen."""

    def __init__(self, x: float, y: float) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.tensor([[float(x)], [float(y)]]))
        self.bias = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        x, y = self.point.flatten()
        height: Tensor = (
            (x**2 - 1) ** 2 + y**2 + inputs.mean() * 0
        )  # two minima at x = -1 and 1, a saddle at the origin
        return height


class Height(Task):
    needs = ("inputs",)

    def loss(self, model: nn.Module, batch: Tree, context: StepContext) -> Loss:
        assert not context.is_training
        return Loss(model(batch[0]))


def training() -> Training:
    val = TensorSplit(torch.zeros(5, 1), torch.zeros(5, dtype=torch.int64))
    return cast(Training, SimpleNamespace(num_steps=7, seed=0, task=Height(), val=val))


@pytest.mark.parametrize(
    ("start", "end", "num_negative"),
    [((0.9, 0.3), (1.0, 0.0), 0), ((0.1, 0.4), (0.0, 0.0), 1), ((-1.2, 0.0), (-1.0, 0.0), 0)],
)
def test_newton_steps_find_the_critical_point_nearby(
    start: tuple[float, float], end: tuple[float, float], num_negative: int
) -> None:
    loss = _LossOfWeights(Surface(0, 0), training(), 7, 3)
    weights, norm, matrix = loss.approach_critical_point(torch.tensor(start, dtype=torch.float32), 30)
    assert weights.tolist() == pytest.approx(end, abs=1e-3)
    assert norm < 1e-3
    assert int((torch.linalg.eigvalsh(matrix) < 0).sum()) == num_negative


def test_the_files_have_the_loss_around_and_before_the_weights_and_the_model_stays_as_it_was() -> None:
    model = Surface(2.0, 1.0)
    callback = Landscape(num_points=3, extent=0.5, num_critical_points=4)
    callback.on_start(model)
    with torch.no_grad():
        model.point.copy_(torch.tensor([[1.0], [0.5]]))
    model.train()
    assert callback.artifacts(model, 6, training()) == {}
    files = callback.artifacts(model, 7, training())
    assert model.training
    assert model.point.flatten().tolist() == [1.0, 0.5]
    with Image.open(io.BytesIO(files["landscape.png"])) as picture:
        assert picture.size[0] > 1000
    rows = list(csv.DictReader(io.StringIO(files["landscape.csv"].decode())))
    heights = {(each["x"], each["y"]): float(each["loss"]) for each in rows if each["kind"] == "surface"}
    assert len(heights) == 9
    assert heights["0", "0"] == pytest.approx(0.25)
    line = {each["x"]: float(each["loss"]) for each in rows if each["kind"] == "line"}
    assert line["0"] == pytest.approx(10.0), "the initial weights"
    assert line["1"] == pytest.approx(0.25)
    shares = [float(each["x"]) for each in rows if each["kind"] == "critical"]
    assert len(shares) == 4
    assert set(shares) <= {0.0, 0.5}


def test_a_direction_is_as_long_as_each_filter_and_leaves_biases_out() -> None:
    weights = {"weight": torch.tensor([[3.0, 4.0], [0.0, 2.0]]), "bias": torch.ones(2)}
    direction = _draw_direction(weights, torch.Generator().manual_seed(0))
    assert direction[:4].view(2, 2).norm(dim=1).tolist() == pytest.approx([5.0, 2.0])
    assert direction[4:].tolist() == [0.0, 0.0]


def test_a_resumed_training_knows_the_initial_weights_of_its_first_attempt() -> None:
    first, second = Landscape(), Landscape()
    first.on_start(Surface(2.0, 1.0))
    second.on_start(Surface(9.0, 9.0))
    second.load_state_dict(first.state_dict())
    assert second.initial["point"].flatten().tolist() == [2.0, 1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_points": 1}, "wants num_points of at least 2, but got 1"),
        ({"extent": 0}, "wants an extent above 0"),
        ({"num_newton_steps": 0}, "wants num_newton_steps of at least 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Landscape(**options)


def test_a_large_model_has_no_search_for_critical_points() -> None:
    with pytest.raises(
        ValueError, match=r"at most 1,000 weights, but the model has 1,001,000; set callback\.landscape"
    ):
        Landscape(num_critical_points=1).on_start(nn.Linear(1000, 1000))
