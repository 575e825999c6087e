"""What headers of experiments say to the zoo."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.config.options import groups
from experiments.core.errors import InputError
from experiments.results.zoo.rows import Row, read_rows, select_rows


def written(folder: Path, name: str, header: str) -> list[Row]:
    """The rows of one experiment of a user's own."""
    path = folder / "experiment" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# @package _global_\n{header}name: {name}\n")
    return [row for row in read_rows([str(folder)]) if row.experiment == name]


def test_each_measure_is_a_row_with_the_published_value_below_it(tmp_path: Path) -> None:
    header = (
        "# Question: what is\n#           it?\n# Family:   pixels\n# Measure:  test/dice 0.25 to 0.75\n# Published: 0.7\n"
        "# Measure:  test/dice with data=mine 'data.pattern=a b'\n# Expect:   little; see Note: nothing\n"
    )
    first, second = written(tmp_path, "deep", header)
    assert (first.name, first.metric, first.expected, first.published) == ("deep", "test/dice", (0.25, 0.75), "0.7")
    assert (second.name, second.expected, second.published) == ("deep-mine-a_b", None, "")
    assert second.command == "lathe run experiment=deep data=mine 'data.pattern=a b'"
    assert first.facts["Question"] == "what is it?"
    assert first.facts["Expect"] == "little; see Note: nothing"
    assert first.family == "pixels"


def test_an_experiment_without_a_measure_is_a_row_too(tmp_path: Path) -> None:
    (row,) = written(tmp_path, "plain", "# Published: 0.5\n")
    assert (row.name, row.metric, row.family, row.published) == ("plain", None, "other", "0.5")


@pytest.mark.parametrize(
    "text",
    [
        "accuracy",
        "test/a 0.1",
        "test/a 0.1 to",
        "test/a x to y",
        "test/a 0.9 to 0.1",
        "test/a nan to 1",
        "test/a with 'x",
    ],
)
def test_an_invalid_measure_is_reported(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a metric with an optional range and overrides; write"):
        written(tmp_path, "odd", f"# Measure: {text}\n")


def test_rows_are_selected_by_name_or_experiment(tmp_path: Path) -> None:
    known = [Row("a", {}, "test/x"), Row("a", {}, "test/x", None, ("data=b",)), Row("c", {}, "test/x")]
    assert [row.name for row in select_rows(known, ["a"])] == ["a", "a-b"]
    assert [row.name for row in select_rows(known, ["a-b", "c"])] == ["a-b", "c"]
    assert select_rows(known, []) == known
    with pytest.raises(InputError, match=r"NAME=a-c: there is no such experiment; did you mean 'a-b'"):
        select_rows(known, ["a-c"])


def test_every_built_in_experiment_has_a_row() -> None:
    assert {row.experiment for row in read_rows()} == set(groups()["experiment"])
