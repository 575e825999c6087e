import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modules.data.base import IGNORED
from modules.objective.pixel_cross_entropy import PixelCrossEntropy


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(4, 2, 5, 3), torch.randint(3, (4, 2, 5))


@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 3.0]])
def test_it_is_the_mean_over_pixels(weights: list[float] | None) -> None:
    logits, masks = batch()
    loss, metrics = PixelCrossEntropy(weights)(logits, masks)
    nats = F.cross_entropy(logits.movedim(3, 1), masks, reduction="none")
    expected = nats.mean() if weights is None else (nats * torch.tensor(weights)[masks]).mean()
    assert loss == pytest.approx(float(expected), rel=1e-6)
    assert metrics["loss_nats"] == loss


def test_ignored_pixels_neither_count_nor_train() -> None:
    logits, masks = batch()
    logits.requires_grad_()
    masks[0, :, 2:] = IGNORED
    loss, _ = PixelCrossEntropy(dice_weight=0.7)(logits, masks)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[0, :, 2:] == 0).all()
    assert (logits.grad[0, :, :2] != 0).all()
    part, whole = (PixelCrossEntropy()(logits[:1, :, :stop], masks[:1, :, :stop])[1]["loss_nats"] for stop in (2, 5))
    assert float(whole) == pytest.approx(float(part), rel=1e-6)


@pytest.mark.parametrize("dice_weight", [0.0, 2.0])
def test_the_loss_of_a_batch_is_the_mean_of_its_parts_whatever_is_ignored(dice_weight: float) -> None:
    logits, masks = batch()
    masks[0] = IGNORED
    masks[1, 0, :4] = IGNORED
    objective = PixelCrossEntropy([1.0, 2.0, 0.5], dice_weight)
    whole, _ = objective(logits, masks)
    parts = [float(objective(logits[rows], masks[rows])[0]) for rows in (slice(0, 2), slice(2, 4))]
    assert float(whole) == pytest.approx(sum(parts) / 2, rel=1e-6)
    assert torch.isfinite(whole)


def test_the_dice_loss_is_nearly_0_for_a_perfect_mask_and_nearly_1_for_a_wrong_one() -> None:
    truth = torch.zeros(1, 20, 20, dtype=torch.int64)
    truth[0, :, :7] = 1
    sure = 50.0 * F.one_hot(truth, 2).float()
    objective = PixelCrossEntropy(dice_weight=1.0)
    assert float(objective(sure, truth)[1]["loss_dice"]) == pytest.approx(0, abs=1e-6)
    assert float(objective(sure, 1 - truth)[1]["loss_dice"]) == pytest.approx(1, abs=0.01)
    assert float(objective(sure, truth * 0)[1]["loss_dice"]) > 0.9, "nothing was there, and much was found"


def test_of_several_masks_the_first_trains() -> None:
    logits, masks = batch()
    assert PixelCrossEntropy()(logits, (masks, masks * 0))[0] == PixelCrossEntropy()(logits, masks)[0]


def test_what_does_not_fit_is_reported() -> None:
    logits, masks = batch()
    with pytest.raises(
        ValueError, match=re.escape("but got [4, 2, 5, 3] and [4, 2, 4]; use a model with logits for every")
    ):
        PixelCrossEntropy()(logits, masks[:, :, :4])
    with pytest.raises(ValueError, match=re.escape("but got [4, 10] and [4]")):
        PixelCrossEntropy()(torch.zeros(4, 10), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(
        ValueError, match=re.escape("objective.class_weights has 2 values, but the model has 3 classes")
    ):
        PixelCrossEntropy([1.0, 1.0])(logits, masks)


@pytest.mark.parametrize("changed", [{"class_weights": []}, {"class_weights": [0.0, -1.0]}, {"dice_weight": -1.0}])
def test_a_wrong_weight_is_reported(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="PixelCrossEntropy wants"):
        PixelCrossEntropy(**changed)
