from typing import Any

import pytest
import torch

from modules.data.joined.joined_sets import JoinedSets
from modules.data.tensors import TensorSplit
from modules.evaluator.groups.grouped_accuracy import GroupedAccuracy
from modules.objective.grouped_cross_entropy import GroupedCrossEntropy

COUNTS = {"small": 2, "large": 3}


class Numbers:
    """Grey images of one number, from ``first`` on; the class is its remainder."""

    def __init__(self, first: int, size: int, num_classes: int, shape: tuple[int, ...] = (1, 2, 2)) -> None:
        self.first, self.size, self.num_classes, self.shape = first, size, num_classes, shape

    def load(self, split: str) -> TensorSplit:
        numbers = torch.arange(self.first, self.first + self.size)
        images = numbers[:, None, None, None].float().expand(-1, *self.shape)
        return TensorSplit(images, numbers % self.num_classes, lambda rows, seeds: rows + seeds[:, None, None, None])

    def example(self, batch_size: int) -> Any:
        return torch.zeros(batch_size, *self.shape), torch.zeros(batch_size, dtype=torch.int64)


def join(**changes: Any) -> JoinedSets:
    sets = {"small": Numbers(0, 4, 2), "large": Numbers(100, 6, 3, (3, 4, 5))}
    arguments: dict[str, Any] = {"sets": sets, "class_counts": COUNTS, "num_classes": 5}
    return JoinedSets(**arguments | {"num_features": 27, "image_shape": [3, 3, 3]} | changes)


def test_a_batch_has_the_examples_of_all_sets_in_order_with_their_seeds() -> None:
    split = join().load("train")
    assert len(split) == 10
    images, classes = split.batch(torch.tensor([9, 0, 4, 3, 5]), torch.tensor([0, 10, 20, 30, 0]))
    assert isinstance(images, torch.Tensor)
    assert images.shape == (5, 3, 3, 3)
    assert images.amin((1, 2, 3)).tolist() == pytest.approx([105, 10, 120, 33, 101])
    assert images.amax((1, 2, 3)).tolist() == pytest.approx([105, 10, 120, 33, 101])
    assert isinstance(classes, torch.Tensor)
    assert classes.tolist() == [2 + 105 % 3, 0, 2 + 100 % 3, 1, 2 + 101 % 3]
    images, _ = join(num_features=6, image_shape=[1, 2, 3]).load("test").batch(torch.tensor([2]), torch.tensor([0]))
    assert isinstance(images, torch.Tensor)
    assert images.tolist() == [[[[2.0] * 3] * 2]]
    images, classes = join().example(2)
    assert isinstance(images, torch.Tensor)
    assert isinstance(classes, torch.Tensor)
    assert (images.shape, classes.shape) == ((2, 3, 3, 3), (2,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 4}, r"set data\.num_classes=5"),
        ({"class_counts": {"small": 2, "big": 3}}, "in their order"),
        ({"class_counts": {"small": 3, "large": 2}}, r"set data\.class_counts\.small=2"),
    ],
)
def test_counts_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        join(**changes)


@pytest.mark.parametrize(
    ("shape", "message"), [((4,), r"data\.sets\.large is Numbers"), ((2, 3, 3), "images of 2 channels")]
)
def test_sets_of_other_things_than_images_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        join(sets={"small": Numbers(0, 4, 2), "large": Numbers(100, 6, 3, shape)}).example(3)


def test_each_group_has_a_softmax_of_its_own() -> None:
    torch.manual_seed(0)
    logits, classes = torch.randn(4, 5), torch.tensor([1, 4, 0, 2])
    loss, _ = GroupedCrossEntropy(COUNTS)(logits, classes)
    groups = [logits[0, :2], logits[1, 2:], logits[2, :2], logits[3, 2:]]
    expected = -sum(group.log_softmax(0)[place] for group, place in zip(groups, (1, 2, 0, 0), strict=True)) / 4
    assert loss.item() == pytest.approx(float(expected))
    with pytest.raises(ValueError, match=r"\[batch, 5\].*\[4, 3\]"):
        GroupedCrossEntropy(COUNTS)(logits[:, :3], classes)
    with pytest.raises(ValueError, match="at least 1 class"):
        GroupedCrossEntropy({"small": 0})


def test_accuracy_is_within_the_classes_of_the_group() -> None:
    logits = torch.tensor([[1.0, 0, 9, 9, 9], [0, 1, 9, 9, 9], [9, 9, 0, 0, 1], [9, 9, 0, 1, 0], [9, 9, 1, 0, 0]])
    classes, evaluator = torch.tensor([0, 0, 4, 4, 2]), GroupedAccuracy(COUNTS)
    sums = evaluator.update(logits[:2], classes[:2]) + evaluator.update(logits[2:], classes[2:])
    metrics = evaluator.compute(sums)
    assert metrics["accuracy_top1_small"] == 0.5
    assert metrics["accuracy_top1_large"] == pytest.approx(2 / 3)
    assert metrics["accuracy_top1_small_constant"] == 1
    assert metrics["accuracy_top1_large_constant"] == pytest.approx(2 / 3)
    assert metrics["accuracy_top1"] == pytest.approx((0.5 + 2 / 3) / 2)
    with pytest.raises(ValueError, match="at least 1 example"):
        evaluator.compute(sums * 0)
