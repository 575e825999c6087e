"""Tables in JSON lines and in folders of `datasets`, which give what the same CSV file gives, and lines that are no rows."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from experiments.tracking.model.raw_inputs import _make_example_rows
from modules.data.base import ComponentWarning, DataError, UserInputError
from modules.data.own.columns import find_auto_values
from modules.data.own.data_table import DataTable
from modules.data.own.json_rows import to_json_rows
from modules.data.own.table_files import read_rows
from tests.support.own_data import write_reviews, write_saved_dataset

AUTO = ("kind", "files", "columns", "classes", "num_features", "num_classes", "num_train", "target_mean", "target_std")
GIVEN: dict[str, Any] = {
    "val_path": None, "test_path": None, "held_out_share": 0.1, "ignore": [], "max_categories": 50, "max_words": 7, "fold": None,
    "num_folds": 5, "on_bad_example": "error", "target": "label",
}  # fmt: skip


def describe(path: Path, **changes: Any) -> dict[str, Any]:
    """All arguments of the data set, with those that are `auto` found."""
    data = {**dict.fromkeys(AUTO, "auto"), **GIVEN, "root": str(path.parent), "path": path.name, **changes}
    return data | {key: value for key, value in find_auto_values(data).items() if data[key] == "auto"}


def test_prose_becomes_counts_of_its_words(tmp_path: Path) -> None:
    found = describe(write_reviews(tmp_path))
    assert found["classes"] == ["bad", "good"]
    assert len(found["columns"]["text"]["words"]) == 7
    assert {"dull", "great"} <= {*found["columns"]["text"]["words"]}
    assert (found["num_train"], found["num_features"]) == (32, 8)
    data = DataTable(**found)
    inputs, targets = data.load("train").batch(torch.arange(32), torch.arange(32))
    assert isinstance(inputs, torch.Tensor)
    great = found["columns"]["text"]["words"].index("great") + list(found["columns"]).index("text")
    assert isinstance(targets, torch.Tensor)
    assert torch.equal((inputs[:, great] > 0).long(), targets)
    row = data.read([json.dumps({"text": "A great, GREAT film", "stars": None})])
    assert row[0, great] == pytest.approx(1.0986, abs=1e-3)  # the logarithm of 3
    assert _make_example_rows(found["columns"]).shape == (1, 2)
    assert data.read(to_json_rows(_make_example_rows(found["columns"])))[0].count_nonzero() >= 7
    with pytest.raises(UserInputError, match="has no column 'stars'; add it, or null"):
        data.read(['{"text": "a"}'])


def test_json_lines_csv_and_a_saved_data_set_give_the_same(tmp_path: Path) -> None:
    jsonl = write_reviews(tmp_path)
    table = read_rows(jsonl).table
    table.to_csv(tmp_path / "x.csv", index=False)
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf\n" + jsonl.read_bytes()))
    saved = write_saved_dataset(tmp_path, splits=("train",))
    first, *others = (describe(path) for path in (jsonl, tmp_path / "x.csv", tmp_path / "x.jsonl.gz", saved))
    for other in others:
        assert {**other, "path": 0, "files": 0} == {**first, "path": 0, "files": 0}
        assert torch.equal(DataTable(**other).load("val").inputs, DataTable(**first).load("val").inputs)


def test_numbers_in_lists_and_objects_are_columns(tmp_path: Path) -> None:
    rows = [{"at": [n, -n], "box": {"left": n / 7}, "label": "ab"[n % 2]} for n in range(30)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = describe(tmp_path / "x.jsonl")
    assert list(found["columns"]) == ["at.0", "at.1", "box.left"]
    assert DataTable(**found).read([json.dumps(rows[3])]).shape == (1, 3)


@pytest.mark.parametrize("layout", ["dict", "cache"])
def test_the_splits_of_a_saved_data_set_are_found(tmp_path: Path, layout: str) -> None:
    saved = write_saved_dataset(tmp_path, splits=("train", "validation"), layout=layout)
    found = describe(saved, val_path="auto", test_path="auto")
    assert (found["val_path"], found["test_path"]) == (f"{saved.name}/validation", None)
    data = DataTable(**found)
    assert [len(data.load(split)) for split in ("train", "val", "test")] == [36, 40, 4]
    assert describe(saved, val_path="auto", test_path="auto", fold=0)["num_train"] == 29
    nothing = tmp_path / "empty"
    nothing.mkdir()
    with pytest.raises(ValueError, match=r"has no Arrow file; name a folder that save_to_disk of datasets wrote"):
        describe(nothing)


def test_a_line_that_is_no_row_is_an_error_or_skipped(tmp_path: Path) -> None:
    lines = write_reviews(tmp_path).read_bytes().splitlines()
    (tmp_path / "x.jsonl").write_bytes(b"\n".join([*lines[:3], b"{no", b"[1]", b'{"a": "\xff"}', *lines[3:]]))
    message = r"x.jsonl, line 4 is no JSON object \(Expecting.*\); correct it, or set data.on_bad_example=skip"
    with pytest.raises(ValueError, match=message):
        describe(tmp_path / "x.jsonl")
    found = describe(tmp_path / "x.jsonl", on_bad_example="skip")
    whole = describe(tmp_path / "reviews.jsonl")
    assert {**found, "path": 0, "files": 0, "on_bad_example": 0} == {
        **whole,
        "path": 0,
        "files": 0,
        "on_bad_example": 0,
    }
    with pytest.warns(ComponentWarning, match=r"3 rows of .*x.jsonl cannot be read .*: line 4, line 5, line 6$"):
        DataTable(**found).load("train")
    csv = "a;label\n" + "".join(f"{n}.{n};{'xy'[n % 2]}\n" for n in range(30))
    (tmp_path / "x.csv").write_bytes(csv.replace("7.7;", "7;7;").encode() + b"9.1;\xff\n")
    with pytest.raises(ValueError, match=r"cannot be read as a table \(.*set data.on_bad_example=skip"):
        describe(tmp_path / "x.csv")
    rows = read_rows(tmp_path / "x.csv", "skip")
    assert (rows.skipped, len(rows.table)) == (("line 9", "line 32"), 29)
    assert rows.table["a"].dtype == float


LINES = "".join(f"{n}.5,{'xy'[n % 2]}\n" for n in range(30))
ZIPPED = io.BytesIO()
with zipfile.ZipFile(ZIPPED, "w") as archive:
    archive.writestr("a.csv", "a,label\n" + LINES)
    archive.writestr("b.csv", "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a ,a,label\n" + "1,2,x\n" * 9, r"two columns have the name 'a'"),
        ('[{"a": 1, "label": "x"}]', "one JSON list"),
        (ZIPPED.getvalue(), "the ZIP file holds 2 files instead of one"),
        (ZIPPED.getvalue()[:-9], "cannot be read as a table"),
        ("a,label\n1e308,x\n-1e308,y\n" + LINES, r"column 'a' has the number -?1e\+308, too large"),
        ('{"a": "\\ud800", "label": "x"}\n', "line 1 is no JSON object .*surrogates"),
        ('{"a": 1, "label": ["x"]}\n' * 9, "data.target='label' has values that are no classes"),
    ],
    ids=range(7),
)
def test_other_faults_of_a_table_are_named(tmp_path: Path, content: str | bytes, message: str) -> None:
    (tmp_path / "x.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises((ValueError, DataError), match=message):
        DataTable(**describe(tmp_path / "x.csv")).load("train")


@pytest.mark.parametrize("start", ["PK", "BZ", "BZh9", '"' + "x" * 140_000 + '"'], ids=["PK", "BZ", "BZh9", "long"])
def test_any_name_of_a_column_is_read(tmp_path: Path, start: str) -> None:
    (tmp_path / "x.csv").write_text(f"{start},label\n{LINES}")
    for on_bad_example in ("error", "skip"):
        assert read_rows(tmp_path / "x.csv", on_bad_example).table.shape == (30, 2)


def test_a_target_of_numbers_and_texts_or_of_huge_numbers_is_read(tmp_path: Path) -> None:
    labels = [1, "1", "b", True]
    rows = [{"a": n, "label": labels[n % 4]} for n in range(40)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert describe(tmp_path / "x.jsonl")["classes"] == ["1", "b"]
    (tmp_path / "y.jsonl").write_text("\n".join(f'{{"a": 1, "label": {"9" * 400}}}' for _ in rows))
    with pytest.raises(ValueError, match="which is not a finite number"):
        describe(tmp_path / "y.jsonl", kind="regression")


DAMAGED = "description of the columns is damaged"
NAMES = {"label": {"_type": "ClassLabel", "names": ["no", "yes"]}}


def save_arrow(folder: Path, label: Any, description: Any) -> None:
    table = pa.table({"a": [n / 2 for n in range(len(label))], "label": label})
    text = description if isinstance(description, str) else json.dumps({"info": {"features": description}})
    table = table.replace_schema_metadata({b"huggingface": text.encode()})
    with pa.OSFile(str(folder / "a.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "a.arrow"}]}')


@pytest.mark.parametrize(
    ("label", "description", "expected"),
    [
        ([None, 0, 1] * 9, NAMES, ["no", "yes"]), (["x", "y"] * 9, NAMES, ["x", "y"]),
        ([0, 1] * 9, {"other": NAMES["label"]}, ["0", "1"]),
        ([0, 2] * 9, NAMES, "a class of the number 2, but 2 names"), ([0, 1] * 9, "[]", DAMAGED),
        ([0, 1] * 9, "[" * 100_000, DAMAGED), ([0, 1] * 9, [1], DAMAGED),
        ([0, 1] * 9, {"label": {"_type": "ClassLabel", "names": 5}}, DAMAGED),
    ],
    ids=range(8),
)  # fmt: skip
def test_descriptions_of_classes_are_followed_or_refused(
    tmp_path: Path, label: list[Any], description: Any, expected: list[str] | str
) -> None:
    save_arrow(tmp_path, label, description)
    if isinstance(expected, list):
        assert describe(tmp_path)["classes"] == expected
    else:
        with pytest.raises(ValueError, match=expected):
            describe(tmp_path)


@pytest.mark.parametrize(
    "state",
    [
        "[]",
        "[" * 100_000,
        '{"_data_files": []}',
        '{"_data_files": [{"filename": 5}]}',
        '{"_data_files": [{"filename": ".."}]}',
        '{"_data_files": [{"filename": "b.arrow"}]}',
        '{"_data_files": [{"filename": "' + "x" * 300 + '"}]}',
        '{"_data_files": [{"filename": "\\ud800\\u0000"}]}',
    ],
    ids=range(8),
)
def test_a_damaged_list_of_files_is_refused(tmp_path: Path, state: str) -> None:
    save_arrow(tmp_path, [0, 1] * 9, NAMES)
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(ValueError, match=r"state.json cannot be read|lacks .*copy the whole folder"):
        describe(tmp_path)
