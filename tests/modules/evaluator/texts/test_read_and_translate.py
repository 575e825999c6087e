"""A reader and a translator one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from modules.data.base import END, Data
from modules.data.image.pictured_texts import PicturedTexts
from modules.evaluator.texts.read_and_translate import ReadAndTranslate
from modules.model.base import State
from modules.model.model_group import ModelGroup
from tests.support.letter_pairs import LetterPairs

pytest.importorskip("sacrebleu", reason="sacrebleu is an extra: pip install 'lathe-dl[translate]'")
DATA = PicturedTexts(LetterPairs(), None, "target", "lines", 16, 64, [9], 9, 30, 12)


class Reader(nn.Module):
    """Reads a fixed text in each picture."""

    def __init__(self, *texts: str) -> None:
        super().__init__()
        self.texts = texts
        self.weight = nn.Parameter(torch.zeros(1))

    def score_frames(self, source: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        rows = [[token for each in DATA.encode_text(text) for token in (each, 0)] for text in self.texts]
        frames = torch.zeros(len(rows), 20, 30)
        for frame, row in zip(frames, rows, strict=True):
            frame[torch.arange(20), torch.tensor([*row, *[0] * (20 - len(row))])] = 9.0
        return frames.log_softmax(-1), torch.full((len(rows),), 20)


class Echo(nn.Module):
    """Translates each letter as itself."""

    def encode(self, source: Tensor) -> State:
        return source, torch.zeros(len(source), dtype=torch.int64)

    def step(self, state: State, words: Tensor) -> tuple[Tensor, State]:
        source, time = state
        wanted = functional.pad(source, (0, 20), value=END)[torch.arange(len(source)), time]
        return torch.log_softmax(9.0 * functional.one_hot(wanted, 40), -1), (source, time + 1)


def make() -> ReadAndTranslate:
    evaluator = ReadAndTranslate(1, 0.6, 12, "none", None, 2)
    evaluator.setup(DATA)
    return evaluator


def test_the_cascade_is_compared_with_the_translation_of_the_true_text() -> None:
    batch, evaluator = DATA.load("train").batch(torch.arange(3), torch.arange(3)), make()
    model = ModelGroup({"reader": Reader("a cat sat", "b c sat", ""), "translator": Echo()})
    sums = evaluator.update_with_model(model, batch)
    metrics = evaluator.compute_with_model(model, sums)
    assert sums[0] == 3
    assert metrics["cer"] == pytest.approx((3 + 2) / (9 + 9 + 2))
    right = ModelGroup({"reader": Reader("a cat sat", "a cat sat", "go"), "translator": Echo()})
    of_truth = evaluator.compute_with_model(right, evaluator.update_with_model(right, batch))
    assert of_truth["bleu"] == of_truth["bleu_of_true_text"] == metrics["bleu_of_true_text"]
    assert of_truth["cer"] == 0
    two = ModelGroup({"reader": Reader("a cat", "a"), "translator": Echo()})
    shown = evaluator.artifacts(two, DATA.load("test"))["translations.txt"].decode()
    assert shown.startswith("source       the cat\nreference    die katze\ntranslation  a`cat\n\nsource")


def test_a_picture_of_a_user_is_translated(tmp_path: Path) -> None:
    Image.new("L", (40, 16)).save(tmp_path / "a.png")
    model = ModelGroup({"reader": Reader("go"), "translator": Echo()})
    (prediction,) = make().predict(model, DATA, [str(tmp_path / "a.png")])
    assert prediction.details == {"translation": "go"}


def test_what_does_not_fit_is_reported() -> None:
    batch = DATA.load("train").batch(torch.arange(1), torch.arange(1))
    with pytest.raises(
        ValueError, match="wants a model with a part 'reader' that has score_frames\\(\\), but Echo has none"
    ):
        make().update_with_model(Echo(), batch)
    with pytest.raises(ValueError, match="a part 'translator'"):
        make().update_with_model(ModelGroup({"reader": Reader("go")}), batch)
    with pytest.raises(
        ValueError, match=r"wants pictures of texts with translations, but got LetterPairs; choose data="
    ):
        make().setup(cast(Data, LetterPairs()))
    with pytest.raises(ValueError, match="wants at least one model in parts"):
        ModelGroup({})
    with pytest.raises(ValueError, match="cannot use 'forward' as the name of a model"):
        ModelGroup({"forward": Echo()})
