"""Word error rates of recognised texts."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from modules.data.base import END, PADDING, Pair, Tensors
from modules.evaluator.texts.word_errors import WordErrors

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "one", "two", "three"]
REFERENCES = [("one",), ("one two two three",), ("three three", "two")]


class Spoken:
    """Three recordings; the input is the number of the recording."""

    takes = "audio"

    def load(self, split: str) -> Any:
        raise NotImplementedError

    def example(self, batch_size: int) -> Any:
        raise NotImplementedError

    def pair(self, number: int) -> Pair:
        return Pair("test", number, f"{number}.wav", REFERENCES[number])

    def target_text(self, words: Tensor) -> str:
        numbers = words.tolist()
        return " ".join(WORDS[number] for number in numbers[: numbers.index(END)])


class Scores(nn.Module):
    """Recognises "one", "one two" and "two"."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def score_frames(self, source: Tensors) -> tuple[Tensor, Tensor]:
        _, lengths = source
        paths = torch.tensor([[4, PADDING, PADDING], [4, 5, 5], [5, PADDING, PADDING]])
        return nn.functional.one_hot(paths, len(WORDS)).mul(9.0).log_softmax(-1), lengths


@pytest.mark.parametrize("beam_size", [1, 3])
def test_word_errors_add_up_over_the_split(beam_size: int) -> None:
    evaluator = WordErrors(beam_size=beam_size)
    evaluator.setup(cast(Any, Spoken()))
    inputs = torch.zeros(3, 3, 2), torch.full((3,), 3), torch.zeros(3, 1, dtype=torch.int64)
    targets = torch.zeros(3, 1, dtype=torch.int64), torch.arange(3)
    sums = evaluator.update_with_model(Scores(), (inputs, targets))
    metrics = evaluator.compute_with_model(Scores(), sums + sums)
    assert metrics == pytest.approx({"wer": 2 / 6, "cer": 10 / 23, "exact": 2 / 3, "wer_constant": (0 + 3 + 1) / 6})


def test_models_and_data_without_texts_are_refused() -> None:
    evaluator = WordErrors()
    with pytest.raises(ValueError, match=r"wants a data set with a transcript of each input, .* use data=fsdd_texts"):
        evaluator.setup(cast(Any, object()))
    evaluator.setup(cast(Any, Spoken()))
    batch = (torch.zeros(1, 2), torch.zeros(1, 1)), (torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"wants a model with encode\(\) and step\(\), or with score_frames\(\)"):
        evaluator.update_with_model(nn.Linear(1, 1), batch)
