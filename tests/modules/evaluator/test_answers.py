"""What evaluators make of inputs without targets."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from modules.data.base import InputReader, UserInputError
from modules.data.skip_grams import SkipGrams
from modules.evaluator.accuracy import Accuracy
from modules.evaluator.base import Predicts
from modules.evaluator.perplexity import Perplexity
from modules.evaluator.segmentation import Segmentation
from modules.evaluator.word_vectors import WordVectors
from tests.support.masks import archive


class Numbers:
    """Reads numbers: the image of "3" is three."""

    takes = "image"
    class_names: Sequence[str] = ()

    def read(self, given: Sequence[str]) -> Tensor:
        return torch.tensor([[float(text)] for text in given])


class Letters:
    """Reads letters a to d, of which "e" is never used."""

    takes = "text"

    def __init__(self) -> None:
        self.tokenizer = self
        self.num_tokens = 4

    def read(self, given: Sequence[str]) -> Tensor:
        return torch.tensor([["abcd".index(letter) for letter in text] for text in given])

    def decode(self, tokens: Tensor) -> str:
        return "".join("abcd"[token] for token in tokens.tolist())

    def example(self, batch_size: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(batch_size, 3, dtype=torch.int64), torch.zeros(batch_size, 3, dtype=torch.int64)


class Next(nn.Module):
    """The letter after the last is likeliest; beyond what is used something is likelier still."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.lengths: list[int] = []

    def forward(self, tokens: Tensor) -> Tensor:
        self.lengths.append(tokens.shape[1])
        logits = 2.0 * nn.functional.one_hot((tokens + 1) % 4, 5).float()
        logits[..., 4] = 99
        return logits * self.weight


def scored(weights: list[float]) -> nn.Linear:
    model = nn.Linear(1, len(weights), bias=False)
    model.weight.data = torch.tensor(weights)[:, None]
    return model


@torch.inference_mode()
def test_classes_are_named_the_likeliest_first() -> None:
    data, model = Numbers(), scored([1.0, 0.0, 2.0])
    (numbered,) = Accuracy([1]).predict(model, cast(InputReader, data), ["1"])
    assert [each["name"] for each in numbered.details["classes"]] == ["2", "0", "1"]
    assert sum(each["probability"] for each in numbered.details["classes"]) == pytest.approx(1)
    data.class_names = ["ant", "bee", "cat"]
    named = Accuracy([1], top_k_shown=2).predict(model, cast(InputReader, data), ["1", "-1"])
    assert [answer.text for answer in named] == ["cat 0.665  ant 0.245", "bee 0.665  ant 0.245"]
    with pytest.raises(ValueError, match="top_k_shown of at least 1, but got 0"):
        Accuracy([1], top_k_shown=0)


@torch.inference_mode()
def test_a_text_is_continued_within_the_training_context() -> None:
    data, model = cast(InputReader, Letters()), Next()
    (surest,) = Perplexity(sample_tokens=5, sample_temperature=0).predict(model, data, ["bc"])
    assert surest.text == "bcdabcd"
    assert surest.details == {"text": "bc", "continuation": "dabcd"}
    assert model.lengths == [2, 3, 3, 3, 3]
    drawn = Perplexity(sample_tokens=40, sample_seed=3)
    one, other = drawn.predict(model, data, ["a", "bcd"])
    assert one == drawn.predict(model, data, ["a"])[0]  # whatever is asked beside it
    assert set(one.text) == set("abcd")
    assert other.text.startswith("bcd")
    with pytest.raises(ValueError, match="Numbers has no tokenizer"):
        drawn.predict(model, cast(InputReader, Numbers()), ["1"])
    with pytest.raises(ValueError, match="sample_tokens of at least 1"):
        Perplexity(sample_tokens=0)


class Bright(nn.Module):
    """Logits of pixels: class 1 where red is above the mean, class 2 where green is far above it."""

    def __init__(self) -> None:
        super().__init__()
        self.zero = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([self.zero * images[:, 0], images[:, 0], 1.5 * images[:, 1] - 1], dim=-1)


@torch.inference_mode()
def test_a_mask_is_that_of_the_photo_without_its_padding(tmp_path: Path) -> None:
    pixels = np.zeros((5, 7, 3), np.uint8)
    pixels[:2, :3, 0], pixels[3:, 2:, 1] = 200, 250
    Image.fromarray(pixels).save(tmp_path / "roof.png")
    data, evaluator = archive(tmp_path, num_classes=3, positive_values=None), Segmentation(3, 0, 0)
    assert isinstance(evaluator, Predicts)
    (answer,) = evaluator.predict(Bright(), data, [str(tmp_path / "roof.png")])
    expected = np.zeros((5, 7), int)
    expected[:2, :3], expected[3:, 2:] = 1, 2
    mask = Image.open(BytesIO(answer.files["mask.png"]))
    assert mask.mode == "P"
    assert np.array_equal(np.asarray(mask), expected)
    shown = np.asarray(Image.open(BytesIO(answer.files["overlay.png"])))
    assert ((shown == pixels).all(axis=-1) == (expected == 0)).all()
    assert answer.text == "0 54.3%  1 17.1%  2 28.6%"
    assert [each["share"] for each in answer.details["classes"]] == pytest.approx([19 / 35, 6 / 35, 10 / 35])


class Table(nn.Module):
    """Vectors of one, two, three and four, by how often they stand in the text."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.tensor([[2.0, 0, 0], [1, 0.2, 0], [0, 3, 0], [-1, 4, 0]]))

    def word_vectors(self) -> Tensor:
        return self.table


@torch.inference_mode()
def test_words_have_neighbours_alone_and_in_sums(tmp_path: Path) -> None:
    (tmp_path / "tiny.txt").write_text("four three three two two two one one one one " * 50)
    files = {"tiny.txt": None}
    data = SkipGrams(str(tmp_path.parent), tmp_path.name, files, 9, 2, 7, 3, None, 0.75, 4, None)
    evaluator = WordVectors("", "", {}, {}, most_frequent=3, neighbours_of=[], num_neighbours=2)
    alone, both, left, sum_of = evaluator.predict(Table(), data, ["One", "one two", "four", "one - two + three"])
    assert alone.text == "two 0.98  three 0.00"
    assert [each["word"] for each in both.details["neighbours"]] == ["three"]
    assert [each["word"] for each in left.details["neighbours"]] == [
        "three",
        "two",
    ]  # four itself is too rare an answer
    assert sum_of.text == ""  # no other word is left
    with pytest.raises(
        UserInputError, match="'- \\+' has no word; write a word, or for example 'king - man \\+ woman'"
    ):
        evaluator.predict(Table(), data, ["- +"])
    with pytest.raises(ValueError, match="wants a model with word_vectors"):
        evaluator.predict(Next(), data, ["one"])
