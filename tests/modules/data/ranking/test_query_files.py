import gzip
from pathlib import Path
from typing import Any

import pytest
import torch

from modules.data.base import IGNORED, DataError
from modules.data.ranking.query_files import QueryFiles

DOCUMENTS = "1 0:1 2:4\n0 0:3\n2 qid:7 1:5 # a note\n0 0:1 1:1 2:1\n4 0:2\n1 2:2\n"
NAMES = ("train.gz", "train.query.gz", "test.gz", "test.query.gz")


def make(folder: Path, documents: str = DOCUMENTS, counts: str = "2\n1\n3\n", **changes: Any) -> QueryFiles:
    for name, content in zip(NAMES, (documents, counts, DOCUMENTS, "2\n1\n3\n"), strict=True):
        (folder / name).write_bytes(gzip.compress(content.encode(), mtime=0))
    options = {"num_features": 3, "max_documents": 4, "val_every": 3} | changes
    return QueryFiles(str(folder.parent), folder.name, dict.fromkeys(NAMES), **options)


def test_a_query_is_an_example_with_its_documents(tmp_path: Path) -> None:
    data = make(tmp_path)
    train, val, test = (data.load(name) for name in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (2, 1, 3)
    assert train.targets.tolist() == [[1, 0, IGNORED, IGNORED], [2, IGNORED, IGNORED, IGNORED]]
    assert val.targets.tolist() == [[0, 4, 1, IGNORED]]
    documents = train.inputs[train.targets != IGNORED]
    assert torch.allclose(documents.mean(0), torch.zeros(3), atol=1e-6)
    assert torch.allclose(documents.std(0, unbiased=False), torch.ones(3), atol=1e-6)
    assert not train.inputs[train.targets == IGNORED].any()
    assert torch.equal(test.inputs[:2], train.inputs)
    for real, blank in zip(test.batch(torch.arange(2), torch.arange(2)), data.example(2), strict=True):
        assert isinstance(real, torch.Tensor)
        assert isinstance(blank, torch.Tensor)
        assert (real.shape, real.dtype) == (blank.shape, blank.dtype)


@pytest.mark.parametrize(
    ("documents", "counts", "changes", "message"),
    [
        ("1 0:1\nx 0:1\n", "2", {}, "line 2 is not `GRADE INDEX:VALUE"),
        ("1 0:1\n1 0=1\n", "2", {}, "line 2 is not `GRADE INDEX:VALUE"),
        ("1 0:nan\n", "1", {}, "line 1 has a value that is not finite"),
        ("-1 0:1\n", "1", {}, "a grade that is not from 0 to 30"),
        ("1 3:1\n", "1", {}, "line 1 has the signal 3, but data.num_features is 3"),
        (DOCUMENTS, "2\n1\n", {}, "add up to 3, but train.gz has 6"),
        (DOCUMENTS, "2\nmany\n", {}, "train.query.gz"),
        (DOCUMENTS, "2\n1\n3\n", {"max_documents": 2}, "a query has 3 documents, but data.max_documents is 2; raise it to 3"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused(
    tmp_path: Path, documents: str, counts: str, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        make(tmp_path, documents, counts, **changes).load("train")


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="val_every of at least 2"):
        make(tmp_path, val_every=1)
    with pytest.raises(ValueError, match="wants four files"):
        QueryFiles("", "", {"a": None}, 1, 1)
