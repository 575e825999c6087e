from __future__ import annotations

import gzip
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from modules.data.base import Data, DataError, Split
from modules.evaluator.base import MakesArtifacts, ModelEvaluator
from modules.evaluator.word_vectors import WordVectors
from modules.evaluator.words.analogies import read_analogies
from modules.evaluator.words.neighbours import neighbours, table
from modules.evaluator.words.word2vec_format import write_word2vec
from modules.evaluator.words.word_similarity import read_pairs

WORDS = ["king", "queen", "man", "woman", "oslo", "norway", "rome", "italy", "car"]
NUMBERS = {word: number for number, word in enumerate(WORDS)}
QUESTIONS = """: capital
Oslo Norway Rome Italy
oslo norway rome queen
oslo norway paris france
: gram-royal
man king woman queen
: empty
man king woman prince
"""
PAIRS = "Word 1,Word 2,Human (mean)\nking,queen,9.5\nKing,car,2.0\nman,woman,8\nking,prince,7\n"


def _vectors() -> Tensor:
    """Axes: person, female, royal, place, a country, south, car."""
    rows = [
        [1, 0, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 0, 1, 0], [0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 1],
    ]  # fmt: skip
    return torch.tensor(rows, dtype=torch.float32)


SPLIT = cast(Split, None)
"""Words are shown without examples."""


class Table(nn.Module):
    def __init__(self, extra: int = 0) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.cat([_vectors(), torch.full((extra, 7), 0.5)]))

    def word_vectors(self) -> Tensor:
        return self.table


def _unit() -> Tensor:
    return nn.functional.normalize(_vectors(), dim=1)


def test_analogies_are_answered_section_by_section() -> None:
    actual = read_analogies(QUESTIONS, NUMBERS)
    assert (len(actual.questions), actual.num_questions) == (3, 5)
    assert actual.count_correct(_unit()) == {"capital": (1, 2), "gram-royal": (1, 1)}


def test_the_three_words_of_a_question_are_no_answer() -> None:
    actual = read_analogies(": same\nking man king man\n", NUMBERS)
    assert actual.count_correct(_unit()) == {"same": (0, 1)}


@pytest.mark.parametrize("text", ["king queen man woman\n", ": a\nking queen man\n"])
def test_a_line_that_is_no_question_is_reported(text: str) -> None:
    with pytest.raises(ValueError, match=r"line [12] is neither"):
        read_analogies(text, NUMBERS)


def test_pairs_are_read_from_both_formats_and_ranked() -> None:
    simlex = (
        "word1\tword2\tPOS\tSimLex999\tconc(w1)\nking\tqueen\tN\t9.5\t2\nking\tcar\tN\t2.0\t3\nman\twoman\tN\t8\t4\n"
    )
    for text, num_pairs in ((PAIRS, 4), (simlex, 3)):
        actual = read_pairs(text, NUMBERS)
        assert actual.scores.tolist() == [9.5, 2.0, 8.0]
        assert actual.num_pairs == num_pairs
        assert actual.spearman(_unit()) == pytest.approx(1.0)
        assert actual.spearman(torch.ones(9, 7)) == 0.0
    with pytest.raises(ValueError, match="line 2 has no score"):
        read_pairs("a,b,c\nd,e,f\n", NUMBERS)


def test_neighbours_of_several_words_are_those_of_their_mean() -> None:
    assert [word for word, _ in neighbours("king", NUMBERS, WORDS, _unit(), 2) or []] == ["queen", "man"]
    both = neighbours("Oslo Norway", NUMBERS, WORDS, _unit(), 2)
    assert both is not None
    assert [word for word, _ in both] == ["italy", "rome"]
    assert neighbours("king prince", NUMBERS, WORDS, _unit(), 2) is None
    assert len(neighbours("king", NUMBERS, WORDS, _unit(), 100) or []) == 8
    assert table({"king": [("queen", 0.81)], "prince": None}) == "king        prince\n0.81 queen  (unknown)\n"


@pytest.fixture
def evaluator(tmp_path: Path) -> WordVectors:
    (tmp_path / "asked").mkdir()
    (tmp_path / "asked" / "questions.txt.gz").write_bytes(gzip.compress(QUESTIONS.encode()))
    (tmp_path / "asked" / "pairs-3.csv").write_text(PAIRS)
    return _evaluator(tmp_path)


def _evaluator(root: Path, **others: Any) -> WordVectors:
    options: dict[str, Any] = {
        "similarity": {"pairs-3.csv": None}, "analogies": {"questions.txt.gz": None}, "most_frequent": 100,
        "neighbours_of": ["king", "prince"], "num_neighbours": 2,
    }  # fmt: skip
    return WordVectors(str(root), "asked", **{**options, **others})


def _data(words: list[str]) -> Data:
    return cast(Data, SimpleNamespace(words=words))


def _measured(evaluator: WordVectors, words: list[str], model: nn.Module) -> dict[str, float]:
    evaluator.setup(_data(words))
    batch = torch.zeros(2), torch.zeros(2)
    return evaluator.compute_with_model(model, evaluator.update_with_model(model, batch))


def test_it_computes_metrics_and_artifacts_of_vectors(evaluator: WordVectors) -> None:
    assert isinstance(evaluator, ModelEvaluator)
    assert isinstance(evaluator, MakesArtifacts)
    actual = _measured(evaluator, WORDS, Table(extra=4))
    assert actual == {
        "pairs_3_spearman": pytest.approx(1.0),
        "analogies_accuracy": pytest.approx(2 / 3),
        "analogies_semantic_accuracy": 0.5,
        "analogies_syntactic_accuracy": 1.0,
    }
    shown = {name: content.decode() for name, content in evaluator.artifacts(Table(extra=4), SPLIT).items()}
    assert shown["neighbours.txt"].startswith("king        prince\n0.82 queen  (unknown)\n")
    assert "questions: 3 of 5 questions have only known words\n" in shown["analogies.txt"]
    assert "0.500      1 of     2  capital\n" in shown["analogies.txt"]


def test_metrics_skip_unknown_words(evaluator: WordVectors) -> None:
    assert _measured(evaluator, ["x", "y"], Table()) == {}
    assert evaluator.artifacts(Table(), SPLIT)["neighbours.txt"].decode().splitlines()[1] == "(unknown)  (unknown)"


def test_without_files_it_only_shows_neighbours(tmp_path: Path) -> None:
    evaluator = _evaluator(tmp_path, similarity={}, analogies={})
    assert _measured(evaluator, WORDS, Table()) == {}
    assert list(evaluator.artifacts(Table(), SPLIT)) == ["neighbours.txt"]


def test_what_does_not_fit_is_reported(evaluator: WordVectors, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wants a data set with a vocabulary, but SimpleNamespace has none"):
        evaluator.setup(cast(Data, SimpleNamespace()))
    with pytest.raises(ValueError, match=r"wants a model with word_vectors\(\), but Linear has none"):
        _measured(evaluator, WORDS, nn.Linear(2, 2))
    with pytest.raises(DataError, match=r"evaluator.folder='asked': .*absent.csv is missing"):
        _measured(_evaluator(tmp_path, similarity={"absent.csv": None}), WORDS, Table())
    (tmp_path / "asked" / "pairs-3.csv").write_text("a,b,c\nd,e,f\n")
    with pytest.raises(DataError, match=r"pairs-3.csv is damaged or of another format \(line 2 has no score"):
        _measured(evaluator, WORDS, Table())


def test_vectors_are_written_as_word2vec_does(tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    write_word2vec(path, WORDS[:2], _vectors() / 3)
    assert path.read_text().splitlines() == [
        "2 7", "king 0.333333 0 0.333333 0 0 0 0", "queen 0.333333 0.333333 0.333333 0 0 0 0",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="a vector for each of 10 words, but got 9"):
        write_word2vec(path, [*WORDS, "more"], _vectors())
    with pytest.raises(ValueError, match="words without white space, but got 'new york'"):
        write_word2vec(path, ["new york"], _vectors())


def test_gensim_reads_what_is_written(tmp_path: Path) -> None:
    models = pytest.importorskip("gensim.models", reason="gensim is an extra: pip install 'lathe-dl[bench]'")
    write_word2vec(tmp_path / "vectors.txt", WORDS, _vectors() + 0.1)
    read = models.KeyedVectors.load_word2vec_format(tmp_path / "vectors.txt")
    assert read.index_to_key == WORDS
    torch.testing.assert_close(torch.tensor(read.vectors), _vectors() + 0.1)
