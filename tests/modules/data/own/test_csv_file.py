"""Tables of a user: what `auto` finds in them, and what a model gets."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from modules.data.base import DataError, UserInputError
from modules.data.own.columns import find_auto_values, take_part
from modules.data.own.csv_file import CsvFile

AUTO = ("kind", "files", "columns", "classes", "num_features", "num_classes", "num_train", "target_mean", "target_std")
HOUSES = "id,area,city,heated,note,price\n" + "".join(
    f"{n},{n * 2 if n % 5 else ''},{'Rome' if n % 3 else 'Oslo'},{n % 2 == 0},note {n},{n * 1.5}\n"
    for n in range(1, 61)
)


def describe(folder: Path, content: str | bytes = HOUSES, path: str = "table.csv", **arguments: Any) -> dict[str, Any]:
    """All arguments of the data set, with those that are `auto` found."""
    (folder / path).write_bytes(content.encode() if isinstance(content, str) else content)
    given: dict[str, Any] = {
        "val_path": None,
        "test_path": None,
        "held_out_share": 0.1,
        "ignore": [],
        "max_categories": 50,
    }
    data = {**dict.fromkeys(AUTO, "auto"), "root": str(folder), "path": path, "target": "price", **given, **arguments}
    return data | {key: value for key, value in find_auto_values(data).items() if data[key] == "auto"}


def test_a_column_becomes_scaled_numbers_or_one_input_per_text(tmp_path: Path) -> None:
    found = describe(tmp_path, ignore=["id"])
    assert (found["kind"], found["num_train"], found["num_classes"]) == ("regression", 48, 1)
    assert list(found["columns"]) == ["area", "city", "heated"]  # a note is different in each row
    assert found["columns"]["city"] == {"categories": ["Rome", "Oslo"]}
    assert found["columns"]["area"]["may_be_missing"]
    data = CsvFile(**found)
    splits = {name: data.load(name) for name in ("train", "val", "test")}
    assert [len(split) for split in splits.values()] == [48, 6, 6]
    inputs, targets = splits["train"].inputs, splits["train"].targets
    assert inputs.shape == (48, found["num_features"] if found["num_features"] == 5 else -1)
    is_known = inputs[:, 1] == 0
    torch.testing.assert_close(inputs[is_known, 0].mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(inputs[is_known, 0].std(correction=0), torch.tensor(1.0), atol=1e-4, rtol=0)
    assert inputs[~is_known, 0].eq(0).all()
    assert inputs[:, 2:4].sum(1).eq(1).all()
    torch.testing.assert_close(targets.mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
    original = torch.cat([split.targets for split in splits.values()]) * found["target_std"] + found["target_mean"]
    torch.testing.assert_close(original[:, 0].sort().values, torch.arange(1, 61) * 1.5, atol=1e-3, rtol=0)
    for real, blank in zip(splits["val"].batch(torch.arange(2), torch.zeros(2)), data.example(2), strict=True):
        assert (real.shape, real.dtype) == (blank.shape, blank.dtype)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("values", "kind", "classes"),
    [
        (["no", "yes"], "classification", ["no", "yes"]),
        (["True", "False"], "classification", ["False", "True"]),
        (["10", "9", "0"], "classification", ["0", "9", "10"]),
        (["1", "2", ""], "classification", ["1", "2"]),  # an empty cell makes floats of whole numbers
        (["1.5", "2"], "regression", []),
        ([str(n) for n in range(40)], "regression", []),
    ],
)
def test_the_target_tells_the_kind(tmp_path: Path, values: list[str], kind: str, classes: list[str]) -> None:
    rows = "".join(f"{n},{values[n % len(values)]}\n" for n in range(120))
    found = describe(tmp_path, f"x,price\n{rows}")
    assert (found["kind"], found["classes"]) == (kind, classes)
    targets = CsvFile(**found).load("train").targets
    assert targets.dtype == (torch.int64 if classes else torch.float32)
    if classes:
        assert set(targets.tolist()) == set(range(len(classes)))


@pytest.mark.parametrize(
    ("path", "encode"),
    [
        ("t.csv", lambda text: text.replace(",", ";").encode()),
        ("t.tsv", lambda text: text.replace(",", "\t").encode()),
        ("t.csv", lambda text: text.encode("utf-8-sig")),
        ("t.csv", lambda text: text.replace("\n", "\r\n").encode()),
        ("t.csv", lambda text: text.replace(",", ", ").encode()),
        ("t.csv.gz", lambda text: gzip.compress(text.encode())),
    ],
)
def test_usual_kinds_of_files_are_read(tmp_path: Path, path: str, encode: Callable[[str], bytes]) -> None:
    plain, found = describe(tmp_path), describe(tmp_path, encode(HOUSES), path)
    assert {**found, "files": None, "path": None} == {**plain, "files": None, "path": None}
    assert torch.equal(CsvFile(**found).load("val").inputs, CsvFile(**plain).load("val").inputs)


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (
            HOUSES,
            {"target": "prize"},
            "data.target='prize': .* has no such column; did you mean 'price'\\? its columns are 'id', 'area'",
        ),
        (
            HOUSES,
            {"ignore": ["idd"]},
            "data.ignore contains 'idd', but table.csv has no such column; did you mean 'id'\\? remove it",
        ),
        (HOUSES, {"path": "/nowhere.csv"}, "data.path='/nowhere.csv' does not exist"),
        (HOUSES, {"kind": "regression", "target": "city"}, "data.target='city' has the value 'Rome'"),
        ("price\n1\n2\n" * 20, {"kind": "regression", "target": "price"}, "no column besides the target"),
        ("", {}, "cannot be read as a table"),
        ("x,price\n", {}, "has no row with a target"),
        ("x,price\n1,\n", {}, "has no row with a target"),
        ("x,price\n1,2\n3,4\n", {}, "its 2 rows are too few for train, val, test; add rows"),
        ("x,price\n" + "1,a\n" * 30, {}, "has one class only, 'a'"),
        (b"\xff\xfe\x00x,price", {}, "cannot be read as a table"),
        ("x,price\n1,2,3\n1,2\n1,2,3,4\n", {}, "cannot be read as a table|has no such column"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(
    tmp_path: Path, content: str | bytes, arguments: dict[str, Any], message: str
) -> None:
    (tmp_path / "table.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    data: dict[str, Any] = {
        **dict.fromkeys(AUTO, "auto"),
        "root": str(tmp_path),
        "path": "table.csv",
        "target": "price",
    }
    data |= {"val_path": None, "test_path": None, "held_out_share": 0.1, "ignore": [], "max_categories": 50}
    with pytest.raises(ValueError, match=message):
        find_auto_values(data | arguments)


def test_files_of_their_own_take_no_rows_and_are_scaled_alike(tmp_path: Path) -> None:
    lines = HOUSES.splitlines(keepends=True)
    (tmp_path / "test.csv").write_text("".join([lines[0], *lines[-7:]]).replace("Rome", "Bonn"))
    found = describe(tmp_path, "".join(lines[:-7]), test_path="test.csv", ignore=["id", "note"])
    assert found["num_train"] == 53 - 6
    test = CsvFile(**found).load("test")
    assert len(test) == 7
    assert test.inputs[:, 2].eq(0).all()  # no training row has this city
    (tmp_path / "test.csv").write_text(HOUSES)
    with pytest.raises(DataError, match="the file has changed"):
        CsvFile(**found).load("test")


def test_rows_of_a_user_get_the_inputs_of_training(tmp_path: Path) -> None:
    data = CsvFile(**describe(tmp_path, ignore=["id", "note"]))
    row = {"area": "12", "city": "Oslo", "heated": "True", "price": None}
    assert torch.equal(data.read([json.dumps(row)]), data.read([json.dumps({**row, "area": 12.0, "heated": True})]))
    split = data.load("train")
    rows = [
        dict(zip(HOUSES.split("\n")[0].split(","), line.split(","), strict=True)) for line in HOUSES.split("\n")[1:-1]
    ]
    texts = [json.dumps({name: cell or None for name, cell in each.items()}) for each in rows]
    inputs = data.read([texts[index] for index in take_part(60, "train", [], 0.1)])
    assert torch.equal(inputs, split.inputs)
    for text, message in (
        ("[1]", "write a JSON object such as"),
        ("{}", "has no column 'area', 'city', .*; add them, or null for what is not known"),
        (
            json.dumps({key: row[key] for key in row if key != "city"}),
            "has no column 'city'; add it, or null if it is not",
        ),
        (json.dumps({**row, "area": "wide"}), "column 'area' has the value 'wide'"),
    ):
        with pytest.raises(UserInputError, match=message):
            data.read([text])
