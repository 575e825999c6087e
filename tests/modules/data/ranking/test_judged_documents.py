import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modules.data.base import IGNORED, DataError, UserInputError
from modules.data.ranking.bm25 import Bm25
from modules.data.ranking.judged_documents import JudgedDocuments

TEXTS = ["red car", "red red van", "a boat at sea", "the sea and a ship", "ship", "van and car"]
DOCUMENTS = "".join(json.dumps({"id": f"d{n}", "text": text, "title": text[:3]}) + "\n" for n, text in enumerate(TEXTS))
QUERIES = "".join(
    json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(["red", "sea", "ship sea", "car"])
)
JUDGEMENTS = "query document code\n0 d1 1\n0 d4 2\n1 d2 4\n1 d3 5\n2 d3 1\n2 d0 2\n3 d0 -1\n"
NAMES = ("documents.jsonl", "queries.jsonl", "judgements.tsv")


def make(folder: Path, *contents: str, **changes: Any) -> JudgedDocuments:
    parts = [*contents, DOCUMENTS, QUERIES, JUDGEMENTS][: 3 if not contents else None]
    for name, content in zip(NAMES, parts, strict=False):
        (folder / name).write_text(content)
    options = {"num_candidates": 3, "vector_size": 2, "vocab_size": 90, "min_count": 1, "held_out_every": 4} | changes
    return JudgedDocuments(str(folder.parent), folder.name, dict.fromkeys(NAMES), {"1": 4, "2": 3, "4": 1}, **options)


def test_bm25_is_that_of_the_formula() -> None:
    words = [text.split() for text in TEXTS]
    mean = sum(map(len, words)) / 6
    idf = np.log(1 + (6 - 2 + 0.5) / (2 + 0.5))
    expected = idf * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 3 / mean))
    bm25 = Bm25(words)
    assert bm25.score(["red", "unknown"])[[1, 2]] == pytest.approx([expected, 0])
    assert bm25.score(["red", "red"])[1] == pytest.approx(2 * expected) == bm25.score_other(["red", "red"], words[1])


def test_a_query_is_an_example_with_its_candidates(tmp_path: Path) -> None:
    data = make(tmp_path)
    train, val, test = (data.load(split) for split in ("train", "val", "test"))
    assert [split.queries for split in (train, val, test)] == [["ship sea"], ["sea"], ["red"]]
    (vectors, documents, signals, is_real), (grades, places, missed) = test.batch(torch.tensor([0]), torch.tensor([0]))
    assert grades.tolist() == [[4, 0, 0]]  # d1, d0, and then the first without a common word
    assert (places.tolist(), missed.tolist()) == ([[4]], [[3]])  # d4 is no candidate
    assert is_real.all()
    assert torch.allclose(signals.mean(1), torch.zeros(1, 2), atol=1e-6)
    assert torch.equal(documents[0, 0], data.collection.matrix[1])
    for real, blank in zip((vectors, documents, signals, is_real), data.example(1)[0], strict=True):
        assert (real.shape, real.dtype) == (blank.shape, blank.dtype)
    for own, other in zip(data.read(["red"]), (vectors, documents, signals, is_real), strict=True):
        assert torch.equal(own, other)
    copy = make(tmp_path)
    copy.files.path = tmp_path / "nothing"
    copy.restore_reader(json.loads(json.dumps(data.save_reader())))
    for own, other in zip(data.read(["red ship"]), copy.read(["red ship"]), strict=True):
        assert torch.equal(own, other)
    with pytest.raises(UserInputError, match="has no word"):
        data.read(["12"])


def test_a_small_collection_is_padded(tmp_path: Path) -> None:
    (_, documents, signals, is_real), (grades, _, missed) = (
        make(tmp_path, num_candidates=8).load("test").batch(torch.tensor([0]), torch.tensor([0]))
    )
    assert is_real.tolist() == [[True] * 6 + [False] * 2]
    assert grades[0, 6:].tolist() == [IGNORED] * 2
    assert not documents[0, 6:].any()
    assert not signals[0, 6:].any()
    assert missed.tolist() == [[IGNORED]]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (0, '{"id": 1}\n', "line 1 wants 'text' as a text, but has None"),
        (0, "[1]\n", "line 1 is no JSON object"),
        (0, '{"id": 1, "text": "a b"}\n{"id": "1", "text": "c"}\n', "two documents have the same id"),
        (0, '{"id": 1, "text": "a b"}\n', "too few for data.vector_size=2; lower it below"),
        (1, "\n", "it has no line"),
        (1, "{\n", "line 1 is no JSON"),
        (2, "0 d1 1\n0 d1\n", "line 2 is not `QUERY DOCUMENT CODE`"),
        (2, "0 d1 1\n7 d1 1\n", "line 2 names the query '7', which does not exist"),
        (2, "0 d1 1\n0 1 9\n", "line 2 names the document '1', which does not exist"),
        (2, "0 d1 5\n", "the split 'train' has no query"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused(tmp_path: Path, file: int, content: str, message: str) -> None:
    contents = [DOCUMENTS, QUERIES, JUDGEMENTS]
    contents[file] = content
    with pytest.raises(DataError, match=message):
        make(tmp_path, *contents).load("train")


def test_judgements_of_trec_are_grades(tmp_path: Path) -> None:
    data = make(tmp_path, DOCUMENTS, QUERIES, "0 0 d1 2\n2 0 d3 1\n0 0 d4 1\n0 0 d5 1\n", max_missed=1)
    data.grades = None
    with pytest.raises(DataError, match=r"set data\.max_missed=2"):
        data.load("test")
    data.max_missed = 2
    assert data.load("test").targets[0].tolist() == [[2, 0, 0]]


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least three files"):
        JudgedDocuments("", "a", {"b": None}, None, 2, 2, 2)
    for changes in ({"held_out_every": 2}, {"num_candidates": 1}, {"background_weight": 0.0}):
        with pytest.raises(ValueError, match=next(iter(changes))):
            make(tmp_path, **changes)
