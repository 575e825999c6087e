from typing import Any

import pytest
import torch
from scipy.spatial import ConvexHull
from torch import Tensor, nn
from torch.nn.functional import one_hot

from modules.data.base import IGNORED
from modules.data.generated.copying import Copying
from modules.data.generated.pointing import ConvexHulls, SortedNumbers
from modules.data.generated.programs import Programs
from modules.evaluator.sequences.hull_area import HullArea, compute_area, is_simple
from modules.evaluator.sequences.sequence_accuracy import SequenceAccuracy


class Solves(nn.Module):
    """Gives the answers of a problem; ``wrong`` gives one class for all tokens."""

    def __init__(self, data: SortedNumbers | ConvexHulls, wrong: int | None = None) -> None:
        super().__init__()
        self.data, self.wrong, self.unused = data, wrong, nn.Parameter(torch.zeros(1))

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        points, places = inputs
        answers = self.data.solve(points).clamp_min(0)[:, : places.shape[1]]
        if self.wrong is not None:
            answers = torch.full_like(answers, self.wrong)
        return one_hot(answers, points.shape[1] + 1).float()


def test_accuracy_counts_tokens_whole_sequences_and_a_constant() -> None:
    targets = torch.tensor([[IGNORED, 2, 0, IGNORED], [1, 1, 0, IGNORED], [IGNORED, 2, 1, 0]])
    given = torch.tensor([[0, 2, 0, 1], [1, 1, 2, 2], [0, 0, 1, 0]])
    evaluator = SequenceAccuracy()
    sums = sum(evaluator.update(one_hot(given[row], 3).float(), targets[row]) for row in ([0], [1, 2]))
    assert isinstance(sums, Tensor)
    metrics = evaluator.compute(sums)
    assert metrics["accuracy_tokens"] == pytest.approx(6 / 8)
    assert metrics["accuracy_sequences"] == pytest.approx(1 / 3)
    # First places 2, 1, 2; then 0, 1, 1; then nothing, 0, 0; then nothing.
    assert metrics["accuracy_tokens_constant"] == pytest.approx((2 + 2 + 2) / 8)
    assert metrics["accuracy_sequences_constant"] == pytest.approx((2 / 3) ** 3)


def test_accuracy_refuses_other_shapes_and_no_targets() -> None:
    evaluator = SequenceAccuracy()
    with pytest.raises(ValueError, match=r"\[2, 3\] and \[2\]"):
        evaluator.update(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="at least 1 target"):
        evaluator.compute(evaluator.update(torch.zeros(1, 2, 3), torch.full((1, 2), IGNORED)))


def test_predictions_are_answers_as_a_person_writes_them() -> None:
    numbers, hulls = SortedNumbers(5, 1, 1, 1), ConvexHulls(5, 2, 1, 1)
    evaluator = SequenceAccuracy()
    (prediction,) = evaluator.predict(Solves(numbers), numbers, ["0.5 -1 3e-1"])
    assert prediction.details == {"answer": "-1 3e-1 0.5"}
    square = "0,0 1,1 0.5,0.5 0,1 1,0"
    (prediction,) = evaluator.predict(Solves(hulls), hulls, [square])
    assert prediction.text in ("0,0 1,0 1,1 0,1", "0,1 0,0 1,0 1,1")
    (prediction,) = evaluator.predict(Solves(hulls, wrong=0), hulls, [square])
    assert prediction.text == ""
    with pytest.raises(ValueError, match="choose another evaluator"):
        evaluator.predict(Solves(hulls), Copying(1, 1, 2, 4, 1, 1), ["x"])  # type: ignore[arg-type]  # reads no inputs


def test_a_model_that_knows_only_one_character_answers_with_it() -> None:
    data = Programs(2, 1, ["add"], 49, 1, 1)

    class Sevens(nn.Embedding):
        def forward(self, tokens: Tensor) -> Tensor:
            return one_hot(torch.full_like(tokens, 4 + 7), 49).float()

    (prediction,) = SequenceAccuracy().predict(Sevens(1, 1), data, ["1+2"])
    assert prediction.text == "7" * data.answer_width


def test_hulls_cover_themselves_and_one_place_covers_nothing() -> None:
    data, evaluator = ConvexHulls(6, 2, 7, 1), HullArea(num_pictures=1)
    evaluator.setup(data)
    split: Any = data.load("val")
    batch = split.batch(torch.arange(7), torch.zeros(7))
    right = evaluator.compute_with_model(nn.Module(), evaluator.update_with_model(Solves(data), batch))
    assert right["covered_area"] == pytest.approx(1)
    assert right["valid_polygons"] == 1
    areas = [ConvexHull(each).volume for each in batch[0][0].double().numpy()]
    first = [compute_area(each[:3]) for each in batch[0][0].double().numpy()]
    expected = sum(one / whole for one, whole in zip(first, areas, strict=True)) / 7
    assert right["covered_area_triangle"] == pytest.approx(expected)
    wrong = evaluator.compute_with_model(nn.Module(), evaluator.update_with_model(Solves(data, wrong=2), batch))
    assert (wrong["covered_area"], wrong["valid_polygons"]) == (0, 0)
    assert evaluator.artifacts(Solves(data), split)["hulls.png"].startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="data=convex_hulls"):
        evaluator.setup(Copying(1, 1, 2, 4, 1, 1))


def test_polygons_that_cross_themselves_are_not_simple() -> None:
    square = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]]).numpy()
    assert is_simple(square)
    assert not is_simple(square[[0, 2, 1, 3]])
    assert not is_simple(square[[0, 1, 2, 1]])
    assert not is_simple(square[:2])
