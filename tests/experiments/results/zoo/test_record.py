"""What is kept of a row that was measured, and how it is shown."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from experiments.core.errors import InputError
from experiments.results.zoo.figure import draw
from experiments.results.zoo.page import RowStatus, find_problems, make_page
from experiments.results.zoo.record import MeasuredRecord, Records, Refusal
from experiments.results.zoo.rows import Row

RECORD = MeasuredRecord(
    row="tiny", trial="6ca2e6ab10", overrides=[], metric="test/accuracy_top1", seeds=[0, 1, 2], values=[0.9, 0.92, 0.97],
    steps=300, steps_in_all=300, budget_s=None, wall_s=[5.0, 7.0, 6.0], cpu_s=[12.5, 13.5, 13.0], device="cpu", devices=1,
    threads=2, side_by_side=2, torch="2.13.0", revision="f6103fd7e2a1b", dirty=True, date="2026-11-28",
    runs=["zoo-tiny/6ca2e6ab10"], curve_metric="val/accuracy_top1", curve_steps=[100, 300],
    curves=[[0.5, 0.9], [0.6, 0.95], [0.4, 0.9]], weights="delivered",
)  # fmt: skip
ROW = Row(
    "tiny",
    {"Question": "does it learn?", "Family": "small", "Source": "me", "Expect": "0.97; 6 s"},
    "test/accuracy_top1",
    (0.95, 1.0),
    data="digits",
)


def but(**changes: Any) -> MeasuredRecord:
    return dataclasses.replace(RECORD, **changes)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    records = Records(tmp_path / "zoo.md")
    assert records.find("tiny") is None
    records.write(RECORD)
    records.write(Refusal("other", "its data: 'is' missing"))
    assert records.find("tiny") == RECORD
    assert records.find("other") == Refusal("other", "its data: 'is' missing")
    assert (tmp_path / "zoo" / "tiny.yaml").read_text().startswith("# Written by `lathe zoo --run`.\nrow: tiny\n")


@pytest.mark.parametrize("text", ["", "[1]", "row: {", "row: tiny\nvalue: 3\n"])
def test_a_damaged_record_is_reported_with_a_fix(text: str, tmp_path: Path) -> None:
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "tiny.yaml").write_text(text)
    with pytest.raises(InputError, match=r"tiny.yaml is not a valid record: .*; restore it, or remove it"):
        Records(tmp_path / "zoo.md").find("tiny")


@pytest.mark.parametrize(
    ("record", "seeds", "budget_s", "is_current"),
    [
        (RECORD, 3, None, True),
        (RECORD, 2, 5.0, True),
        (RECORD, 4, None, False),
        (but(trial="other"), 3, None, False),
        (but(weights="last step"), 3, None, False),
        (but(metric="test/loss_nats"), 3, None, False),
        (but(steps=200, budget_s=60.0), 3, 60.0, True),
        (but(steps=200, budget_s=60.0), 3, 61.0, False),
        (but(steps=200, budget_s=60.0), 3, None, False),
    ],
)
def test_a_record_is_current_until_a_measurement_would_add_something(
    record: MeasuredRecord, seeds: int, budget_s: float | None, is_current: bool
) -> None:
    assert record.is_current("6ca2e6ab10", "test/accuracy_top1", seeds, budget_s) is is_current


def test_the_page_follows_from_rows_and_records() -> None:
    shorter = but(
        row="tiny-b",
        steps=150,
        budget_s=60.0,
        seeds=[0],
        values=[0.5],
        overrides=["hardware.devices_per_node=2"],
        shorter=["max_steps=150"],
        weights="last step",
    )
    statuses = [
        RowStatus(ROW, RECORD),
        RowStatus(
            Row("tiny", {"Family": "small"}, "test/accuracy_top1", (0.9, 1), ("data=b",), "0.9 <x> | y", "b"), shorter
        ),
        RowStatus(Row("large", {}, "val/perplexity", data="text8"), Refusal("large", "its data is missing")),
        RowStatus(Row("new", {"Expect": "much"}, "val/perplexity", data="text8"), None),
        RowStatus(Row("plain", {}, data="digits"), None),
    ]
    assert make_page(statuses, "zoo") == (Path(__file__).parent / "page.md").read_text()


@pytest.mark.parametrize(
    ("record", "is_outside"),
    [
        (RECORD, True),
        (but(values=[0.95, 0.95, 0.95]), False),
        (but(steps=200), False),
        (but(overrides=["max_steps=200"]), False),
        (but(metric="test/loss_nats"), False),
    ],
)
def test_only_the_mean_of_complete_runs_is_compared_with_the_expected_range(
    record: MeasuredRecord, is_outside: bool
) -> None:
    assert RowStatus(ROW, record).is_outside is is_outside


def test_a_curve_is_an_svg_for_light_and_dark_pages(tmp_path: Path) -> None:
    for record in (RECORD, but(seeds=[0], values=[0.9], curves=[[0.5, 0.9]])):
        draw(record, tmp_path / "zoo" / "tiny.svg")
        text = (tmp_path / "zoo" / "tiny.svg").read_text()
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert "prefers-color-scheme: dark" in text
        assert ">val/accuracy_top1<" in text
        assert re.search(r'aria-label="val/accuracy_top1 by step', text)


def test_differences_of_the_page_are_reported(tmp_path: Path) -> None:
    file, folder = tmp_path / "zoo.md", tmp_path / "zoo"
    Records(file).write(RECORD)
    Records(file).write(but(row="gone"))
    file.write_text("another text")
    problems = find_problems("the text", file, [RowStatus(ROW, RECORD)], folder)
    assert [problem.replace(str(tmp_path), "") for problem in problems] == [
        "/zoo.md differs from the headers and records; write it with `lathe zoo --write`",
        "/zoo/tiny.svg is missing; draw it with `lathe zoo --write`",
        "/zoo/gone.yaml belongs to no experiment; remove it and gone.svg",
    ]
    file.write_text("the text")
    draw(RECORD, folder / "tiny.svg")
    (folder / "gone.yaml").unlink()
    assert find_problems("the text", file, [RowStatus(ROW, RECORD)], folder) == []


def test_a_record_without_a_value_for_each_seed_is_damaged(tmp_path: Path) -> None:
    records = Records(tmp_path / "zoo.md")
    for damaged in (but(values=[]), but(seeds=[]), but(cpu_s=[1.0])):
        records.write(damaged)
        with pytest.raises(
            InputError,
            match=r"tiny\.yaml is not a valid record: seeds, values, wall_s, cpu_s and curves differ in length",
        ):
            records.find("tiny")
