from typing import Any

import pytest
import torch

from modules.data.joined.joined_sets import JoinedSets
from modules.data.tensors import TensorSplit
from modules.evaluator.groups.grouped_accuracy import GroupedAccuracy
from modules.objective.grouped_cross_entropy import GroupedCrossEntropy

COUNTS = {"small": 2, "large": 3}


class Numbers:
    """Inputs that are numbers from ``first`` on; the class is their remainder."""

    def __init__(self, first: int, size: int, num_classes: int, width: int = 1) -> None:
        self.first, self.size, self.num_classes, self.width = first, size, num_classes, width

    def load(self, split: str) -> TensorSplit:
        inputs = torch.arange(self.first, self.first + self.size)
        return TensorSplit(
            inputs[:, None].float(), inputs % self.num_classes, lambda rows, seeds: rows + seeds[:, None]
        )

    def example(self, batch_size: int) -> Any:
        return torch.zeros(batch_size, self.width), torch.zeros(batch_size, dtype=torch.int64)


def join(**changes: Any) -> JoinedSets:
    sets = {"small": Numbers(0, 4, 2), "large": Numbers(100, 6, 3)}
    return JoinedSets(
        **{"sets": sets, "class_counts": COUNTS, "num_classes": 5, "num_features": 1, "image_shape": [1]} | changes
    )


def test_a_batch_has_the_examples_of_all_sets_in_order_with_their_seeds() -> None:
    split = join().load("train")
    assert len(split) == 10
    inputs, classes = split.batch(torch.tensor([9, 0, 4, 3, 5]), torch.tensor([0, 10, 20, 30, 0]))
    assert isinstance(inputs, torch.Tensor)
    assert inputs[:, 0].tolist() == [105, 10, 120, 33, 101]
    assert classes.tolist() == [2 + 105 % 3, 0, 2 + 100 % 3, 1, 2 + 101 % 3]
    inputs, classes = split.batch(torch.tensor([2]), torch.tensor([0]))
    assert (inputs.tolist(), classes.tolist()) == ([[2.0]], [0])


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


def test_sets_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'large': \[2\]"):
        join(sets={"small": Numbers(0, 4, 2), "large": Numbers(100, 6, 3, width=2)}).example(3)


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
