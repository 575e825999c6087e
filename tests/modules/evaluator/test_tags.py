"""Search by tags: average precision of a whole split from any batches, and queries."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import nn

from modules.data.tensors import make_places
from modules.evaluator.search.tags import Tags, find_tags

TAGS = ["river", "tenniscourt", "blue"]


def test_the_mean_average_precision_is_that_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(-3, 4, (23, 5), generator=generator).float()  # many are equal
    tags = (torch.rand(23, 5, generator=generator) < 0.3).float()
    tags[:, 4] = 0  # a tag that no photo has
    tags[7] = 1
    tags[7, 4] = 0
    evaluator, order = Tags(cut=1), torch.randperm(23, generator=generator)
    batches = [evaluator.update(scores[rows], (tags[rows], make_places(rows, 23))) for rows in torch.split(order, 6)]
    metrics = evaluator.compute(sum(batches[1:], batches[0]))
    expected = [average_precision_score(tags[:, tag], scores[:, tag]) for tag in range(4)]
    assert metrics["map"] == pytest.approx(sum(expected) / 4)
    assert metrics["map_chance"] == pytest.approx(float(tags[:, :4].mean()))
    assert metrics["precision_at1"] == pytest.approx(
        float(torch.stack([tags[scores[:, tag].argmax(), tag] for tag in range(4)]).mean())
    )


def test_an_example_that_is_counted_twice_has_its_own_values() -> None:
    rows = torch.tensor([1, 1])
    scores, tags = torch.tensor([[2.0], [2.0]]), torch.tensor([[1.0], [1.0]])
    metrics = Tags().compute(Tags().update(scores, (tags, make_places(rows, 3))))
    assert metrics["map"] == metrics["map_chance"] == 1.0


@pytest.mark.parametrize(
    ("query", "tags"),
    [("Tennis Court", ["tenniscourt"]), ("blue tennis-court blue", ["blue", "tenniscourt"]), (" river ", ["river"])],
)
def test_a_query_names_tags(query: str, tags: list[str]) -> None:
    assert find_tags(query, TAGS) == tags


def test_an_unknown_word_of_a_query_is_reported_with_near_tags() -> None:
    with pytest.raises(
        ValueError, match=r"has the word 'rivr', which is none of the 3 tags; choose tags such as river"
    ):
        find_tags("blue rivr", TAGS)
    with pytest.raises(ValueError, match=r"evaluator.query=' ' names no tag"):
        Tags(query=" ")


class Given(nn.Linear):
    def forward(self, inputs: Any) -> Any:
        return inputs


def test_predictions_name_tags_or_the_probability_of_a_query() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5, 9.0], [0.0, 3.0, 1.0, 9.0]])  # the last place is not used
    data: Any = SimpleNamespace(class_names=[*TAGS, ""], read=lambda inputs: logits)
    named = Tags(top_k_shown=2).predict(Given(1, 1), data, ["a", "b"])
    assert [each.text for each in named] == ["river 0.881  blue 0.622", "tenniscourt 0.953  blue 0.731"]
    ranked = Tags(query="blue river").predict(Given(1, 1), data, ["a", "b"])
    assert [each.text for each in ranked] == ["blue + river 0.548", "blue + river 0.366"]
    assert [each.score is None for each in named + ranked] == [True, True, False, False]
