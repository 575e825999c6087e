import re
from io import BytesIO

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import f1_score, jaccard_score, roc_auc_score
from torch import Tensor, nn

from modules.data.base import IGNORED, Batch
from modules.evaluator.base import MakesArtifacts
from modules.evaluator.segmentation import Segmentation


def batch(num_classes: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(num_classes)
    masks = torch.randint(num_classes, (3, 20, 30))
    masks[:, :3] = IGNORED
    return torch.randn(3, 20, 30, num_classes) + F.one_hot(masks.clamp_min(0), num_classes), masks


def test_the_metrics_of_two_classes_are_scikit_learns() -> None:
    logits, masks = batch(2)
    evaluator = Segmentation(2, background=0, num_pictures=0)
    metrics = evaluator.compute(evaluator.update(logits, masks))
    counts = masks != IGNORED
    truth, actual = masks[counts].numpy(), logits.argmax(3)[counts].numpy()
    assert metrics["dice"] == pytest.approx(f1_score(truth, actual))
    assert metrics["iou"] == pytest.approx(jaccard_score(truth, actual))
    assert metrics["miou"] == pytest.approx(jaccard_score(truth, actual, average="macro"))
    assert metrics["accuracy_pixel"] == pytest.approx((truth == actual).mean())
    assert metrics["auc"] == pytest.approx(roc_auc_score(truth, (logits[..., 1] - logits[..., 0])[counts]), abs=1e-4)
    share = truth.mean()
    assert metrics["dice_constant"] == pytest.approx(2 * share / (1 + share))
    assert metrics["miou_constant"] == pytest.approx(max(share, 1 - share) / 2)


@pytest.mark.parametrize("background", [None, 2])
def test_several_classes_are_averaged_without_the_background(background: int | None) -> None:
    logits, masks = batch(4)
    evaluator = Segmentation(4, background, num_pictures=0)
    metrics = evaluator.compute(evaluator.update(logits, masks))
    counts = masks != IGNORED
    truth, actual = masks[counts].numpy(), logits.argmax(3)[counts].numpy()
    wanted = [number for number in range(4) if number != background]
    assert metrics["dice"] == pytest.approx(f1_score(truth, actual, labels=wanted, average="macro"))
    assert metrics["miou"] == pytest.approx(jaccard_score(truth, actual, average="macro"))
    assert metrics.keys() == {"accuracy_pixel", "miou", "iou", "dice", "miou_constant", "dice_constant"}


@pytest.mark.parametrize("num_classes", [2, 3])
def test_sums_of_two_batches_are_those_of_both_together(num_classes: int) -> None:
    logits, masks = batch(num_classes)
    evaluator = Segmentation(num_classes, 0, 0)
    apart = evaluator.update(logits[:1], masks[:1]) + evaluator.update(logits[1:], masks[1:])
    assert apart.dtype == torch.float64
    assert torch.equal(apart, evaluator.update(logits, masks))


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_second_annotator_is_compared_with_the_first(num_classes: int) -> None:
    logits, masks = batch(num_classes)
    other = masks.roll(1, dims=2)
    evaluator = Segmentation(num_classes, 0, 0)
    metrics = evaluator.compute(evaluator.update(logits, (masks, other)))
    alone = evaluator.compute(evaluator.update(logits, masks))
    counts = masks != IGNORED
    expected = f1_score(masks[counts], other[counts], labels=range(1, num_classes), average="macro")
    assert metrics.pop("dice_second_observer") == pytest.approx(expected)
    assert 0 < metrics.pop("miou_second_observer") < 1
    assert metrics == alone
    same = evaluator.compute(evaluator.update(logits, (masks, masks)))
    assert same["dice_second_observer"] == same["miou_second_observer"] == 1


def test_empty_masks_that_agree_have_full_scores() -> None:
    evaluator = Segmentation(2, 0, 0)
    masks = torch.zeros(1, 4, 5, dtype=torch.int64)
    logits = torch.tensor([100.0, -100.0]).expand(1, 4, 5, 2)
    metrics = evaluator.compute(evaluator.update(logits, masks))
    assert metrics == {
        "accuracy_pixel": 1, "miou": 1, "iou": 1, "dice": 1, "auc": 0.5, "miou_constant": 1, "dice_constant": 1
    }  # fmt: skip


def test_the_area_is_1_for_scores_in_order_however_large() -> None:
    evaluator = Segmentation(2, 0, 0)
    masks = torch.tensor([[[0, 1, 1]]])
    logits = torch.tensor([[[[0.0, -1e6], [0.0, 2.0], [0.0, 1e6]]]])
    assert evaluator.compute(evaluator.update(logits, masks))["auc"] == 1
    assert evaluator.compute(evaluator.update(-logits, masks))["auc"] == 0


class Says(nn.Module):
    """Gives the same of all photos."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, photos: Tensor) -> Tensor:
        return self.outputs


class Shown:
    """A split of so many photos, of which the first are asked for."""

    in_memory = True

    def __init__(self, first: Batch, size: int) -> None:
        self.first, self.size = first, size

    def __len__(self) -> int:
        return self.size

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        assert indices.tolist() == list(range(2))
        return self.first


def test_pictures_show_photo_truth_and_prediction_side_by_side() -> None:
    evaluator = Segmentation(3, 0, 2)
    assert isinstance(evaluator, MakesArtifacts)
    photos = torch.linspace(-2, 3, 2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    masks = torch.tensor([0, 1, 2, IGNORED, 1]).expand(2, 4, 5)
    files = evaluator.artifacts(
        Says(9.0 * F.one_hot((masks == 0).long(), 3)), Shown((photos, (masks, masks * 0 + 1)), 5)
    )
    assert list(files) == ["000.png", "001.png"]
    with Image.open(BytesIO(files["001.png"])) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (4, 4 * 5 + 3 * 4, 3)
    assert pixels[:, :5].min() == 0
    assert pixels[:, :5].max() == 255
    truth, actual, second = pixels[0, 9:14], pixels[0, 18:23], pixels[0, 27:32]
    assert truth[0].tolist() == [0, 0, 0]
    assert truth[1].tolist() == [255, 255, 255]
    assert len({tuple(pixel) for pixel in truth.tolist()}) == 4
    assert (actual[0] == 255).all()
    assert (actual[1:] == 0).all()
    assert (second == 255).all()


def test_without_examples_there_are_no_pictures() -> None:
    assert Segmentation(2, 0, 0).artifacts(nn.Identity(), Shown((torch.empty(0), torch.empty(0)), 5)) == {}


def test_pictures_leave_padding_out() -> None:
    masks = torch.full((2, 7, 9), IGNORED)
    masks[0, :5, :6] = 1
    masks[0, 2] = IGNORED
    files = Segmentation(2, 0, 7).artifacts(Says(torch.randn(2, 7, 9, 2)), Shown((torch.randn(2, 1, 7, 9), masks), 2))
    sizes = [Image.open(BytesIO(content)).size for content in files.values()]
    assert sizes == [(3 * 6 + 2 * 4, 5), (3 * 9 + 2 * 4, 7)], "a photo and two masks, or all where nothing counts"


def test_what_does_not_fit_is_reported() -> None:
    logits, masks = batch(3)
    with pytest.raises(
        ValueError, match=re.escape("evaluator.num_classes=4 is not the model's number of classes; set it to 3")
    ):
        Segmentation(4, 0, 0).update(logits, masks)
    with pytest.raises(ValueError, match="use a model with logits for every pixel"):
        Segmentation(3, 0, 0).update(logits[:, 0], masks[:, 0])
    with pytest.raises(ValueError, match="wants background as one of 3 classes, but got 3"):
        Segmentation(3, 3, 0)
    with pytest.raises(ValueError, match="num_classes of at least 2 and num_pictures of at least 0, but got 1 and 0"):
        Segmentation(1, 0, 0)
    evaluator = Segmentation(3, 0, 0)
    with pytest.raises(ValueError, match="at least 1 pixel that is not ignored"):
        evaluator.compute(evaluator.update(logits, masks * 0 + IGNORED))
