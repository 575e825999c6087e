"""BLEU in parts, against sacrebleu on the whole."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from modules.data.base import END, IGNORED, PADDING, Batch, Data, InputReader, Pair
from modules.evaluator import translation
from modules.evaluator.base import MakesArtifacts, ModelEvaluator
from modules.evaluator.translation import Translation
from modules.model.base import State

sacrebleu = pytest.importorskip("sacrebleu", reason="sacrebleu is an extra: pip install 'lathe-dl[translate]'")

WORDS = ["", "", "", "", "the", "cat", "sat", "on", "a", "mat", "dog", "here"]


def _made_up(num_texts: int, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (num_texts,), generator=generator).tolist()
    return [torch.randint(4, len(WORDS), (length,), generator=generator).tolist() for length in lengths]


def _text(words: Sequence[int]) -> str:
    return " ".join(WORDS[word] for word in words)


SOURCES = _made_up(23, 0)
REFERENCES = [
    [
        other if row % 3 else [*source[:4], *other[:2]]
        for row, (source, other) in enumerate(zip(SOURCES, each, strict=True))
    ]
    for each in (_made_up(23, 1), _made_up(23, 2), _made_up(23, 3))
]


class Texts:
    """Made-up pairs, of which some have more references than others."""

    def pair(self, number: int) -> Pair:
        index, is_test = divmod(number, 2)
        references = tuple(_text(each[index]) for each in REFERENCES[: 1 + index % 3])
        return Pair("test" if is_test else "val", index, _text(SOURCES[index]), references)

    def target_text(self, words: Tensor) -> str:
        return _text([word for word in words.tolist() if word > END])


class Echo(nn.Module):
    """Writes the source again."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def encode(self, source: Tensor) -> State:
        return source, torch.zeros(len(source), dtype=torch.int64)

    def step(self, state: State, words: Tensor) -> tuple[Tensor, State]:
        source, time = state
        wanted = nn.functional.pad(source, (0, 20), value=END)[torch.arange(len(source)), time]
        return torch.log_softmax(9.0 * nn.functional.one_hot(wanted, len(WORDS)), -1), (source, time + 1)


def _evaluator(**others: Any) -> Translation:
    options: dict[str, Any] = {
        "beam_size": 2, "length_alpha": 0.6, "max_tokens": 12, "tokenize": "none", "num_examples": None, "num_examples_logged": 2,
    }  # fmt: skip
    evaluator = Translation(**{**options, **others})
    evaluator.setup(cast(Data, Texts()))
    return evaluator


def _batch(first: int, last: int, is_test: bool = False) -> Batch:
    longest = max(map(len, SOURCES[first:last])) + 1
    source = torch.tensor([[*text, END] + [PADDING] * (longest - len(text) - 1) for text in SOURCES[first:last]])
    numbers = torch.arange(first, last) * 2 + is_test
    return (source, source), (source.masked_fill(source == PADDING, IGNORED), numbers)


def _expected(last: int) -> float:
    columns = [
        [_text(each[row]) if place <= row % 3 else None for row in range(last)] for place, each in enumerate(REFERENCES)
    ]
    return float(
        sacrebleu.corpus_bleu([_text(each) for each in SOURCES[:last]], columns, tokenize="none", force=True).score
    )


def test_bleu_of_batches_added_up_is_sacrebleus_of_all() -> None:
    evaluator = _evaluator()
    assert isinstance(evaluator, ModelEvaluator)
    parts = [evaluator.update_with_model(Echo(), _batch(*bounds)) for bounds in ((0, 7), (7, 20), (20, 23))]
    assert {part.dtype for part in parts} == {torch.float64}
    actual = evaluator.compute_with_model(Echo(), torch.stack(parts).sum(0))
    assert actual == {"bleu": pytest.approx(_expected(23), abs=1e-9)}
    assert 5 < actual["bleu"] < 95


def test_validation_uses_the_first_pairs_and_testing_all() -> None:
    evaluator = _evaluator(num_examples=9)
    sums = sum(evaluator.update_with_model(Echo(), _batch(*bounds)) for bounds in ((0, 7), (7, 20), (20, 23)))
    assert evaluator.compute_with_model(Echo(), cast(Tensor, sums)) == {"bleu": pytest.approx(_expected(9), abs=1e-9)}
    sums = evaluator.update_with_model(Echo(), _batch(0, 23, is_test=True))
    assert evaluator.compute_with_model(Echo(), sums) == {"bleu": pytest.approx(_expected(23), abs=1e-9)}


class Five:
    """A split of the first pairs."""

    in_memory = True

    def __len__(self) -> int:
        return 5

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        return _batch(0, len(indices), is_test=True)


def test_the_first_translations_are_shown() -> None:
    evaluator = _evaluator()
    assert isinstance(evaluator, MakesArtifacts)
    shown = evaluator.artifacts(Echo(), Five())["translations.txt"].decode()
    assert shown.split("\n\n")[1].splitlines() == [
        f"source       {_text(SOURCES[1])}",
        f"reference    {_text(REFERENCES[0][1])}",
        f"reference    {_text(REFERENCES[1][1])}",
        f"translation  {_text(SOURCES[1])}",
    ]
    assert shown.count("source") == 2
    assert _evaluator(num_examples_logged=9).artifacts(Echo(), Five())["translations.txt"].decode().count("source") == 5
    assert _evaluator(num_examples_logged=0).artifacts(Echo(), Five()) == {}


class Given(Texts):
    """Reads the numbers of words."""

    def read(self, given: Sequence[str]) -> tuple[Tensor, Tensor]:
        source = torch.tensor([[*(WORDS.index(word) for word in text.split()), END] for text in given])
        return source, source[:, :1]


def test_it_predicts_a_translation() -> None:
    answers = _evaluator().predict(Echo(), cast(InputReader, Given()), ["the cat sat", "here"])
    assert [answer.text for answer in answers] == ["the cat sat", "here"]
    assert [answer.details for answer in answers] == [{"translation": "the cat sat"}, {"translation": "here"}]
    with pytest.raises(ValueError, match="wants a data set with a translation of each input, but object has none"):
        _evaluator().predict(Echo(), cast(InputReader, object()), ["here"])


def test_what_does_not_fit_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="wants a data set with a translation of each input, but object has none"):
        _evaluator().setup(cast(Data, object()))
    with pytest.raises(
        ValueError, match=r"wants a model with encode\(\) and step\(\), or with score_frames\(\), but Linear has none"
    ):
        _evaluator().update_with_model(nn.Linear(2, 2), _batch(0, 2))
    with pytest.raises(
        ValueError, match=r"evaluator.tokenize='moses' is not a tokenizer of sacrebleu; use one of none"
    ):
        _evaluator(tokenize="moses")
    monkeypatch.setitem(sys.modules, "MeCab", None)
    with pytest.raises(
        ValueError,
        match=r"evaluator.tokenize='ja-mecab' is not available here \(.*; install what is missing, or use 13a",
    ):
        _evaluator(tokenize="ja-mecab")
    with pytest.raises(ValueError, match=r"^evaluator.beam_size=0 is less than 1; write 1, which is greedy, or more$"):
        _evaluator(beam_size=0)
    with pytest.raises(
        ValueError, match=r"^evaluator.length_alpha=-0.5 .* or more. evaluator.num_examples=0 is less than 1;"
    ):
        _evaluator(num_examples=0, length_alpha=-0.5)
    with pytest.raises(ValueError, match="wants at least 1 pair, but got 0"):
        _evaluator().compute_with_model(Echo(), torch.zeros(11, dtype=torch.float64))


def test_a_missing_extra_is_reported_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translation, "find_spec", lambda name: importlib.util.find_spec(f"no_{name}"))
    with pytest.raises(ValueError, match=r"which is an extra: pip install 'lathe-dl\[translate\]'; or use"):
        _evaluator()
