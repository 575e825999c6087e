"""`auto` in a data set: found when an experiment is composed, frozen in the trial, and found again for a point of a sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.config.auto_values import keep_encoding
from experiments.config.compose import compose
from experiments.core.errors import InputError
from experiments.sweep.templates import Template, Templates
from experiments.trial.trial import trial_id
from tests.support.own_data import REGRESSION, write_photos, write_table, write_text

TABLE = ("data=csv", "data.path=houses.csv", "data.target=price", *REGRESSION)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which is not the folder of all data sets, with a table."""
    monkeypatch.setenv("LATHE_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path)
    return tmp_path


def test_values_come_from_the_file_and_others_follow(here: Path) -> None:
    experiment = compose(TABLE)
    data = experiment.config["data"]
    assert (data["root"], data["num_train"], data["num_features"]) == (str(here), 160, 4)
    assert experiment.config["model"]["num_features"] == 4
    assert experiment.config["evaluator"]["std"] == data["target_std"]
    assert "auto" not in data.values()
    (here / "data").mkdir()
    (here / "houses.csv").rename(here / "data" / "houses.csv")  # another place of the same file is the same trial
    moved = compose(TABLE)
    assert moved.config["data"]["root"] == str(here / "data")
    assert trial_id(moved.config) == trial_id(experiment.config)


def test_a_value_that_is_written_stays(here: Path) -> None:
    assert compose([*TABLE, "data.target_mean=7"]).config["data"]["target_mean"] == 7


def test_a_fault_is_listed_with_all_others_and_nothing_that_follows_from_it(here: Path) -> None:
    with pytest.raises(InputError) as err:
        compose([*TABLE, "data.target=prize", "optimizer.lrr=1", "max_steps=x"])
    problems = err.value.problems
    assert len(problems) == 3
    assert sum("data.target='prize'" in problem for problem in problems) == 1


def test_a_class_that_finds_nothing_keeps_the_text(here: Path) -> None:
    with pytest.raises(InputError, match=r"data.num_train=auto is not a whole number"):
        compose(["data.num_train=auto"])


def test_code_that_is_not_trusted_is_not_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "own_counts.py").write_text(
        "class Rows:\n    is_component = True\n    auto_values = 'own_counts.find'\n"
        "    def __init__(self, num_train: int, num_features: int, num_classes: int) -> None: ...\n"
        "def find(data):\n    open('was_run', 'w').close()\n    return {'num_train': 1 / data['num_classes']}\n"
    )
    monkeypatch.syspath_prepend(str(here))
    words = ["data._target_=own_counts.Rows", *(f"~data.{key}" for key in ("image_shape",))]
    words += ["data.num_train=auto", "data.num_classes=0", "data.num_features=3", "model=mlp"]
    with pytest.raises(InputError, match="not on the list of code that may run"):
        compose(words)
    assert not (here / "was_run").exists()
    with pytest.raises(InputError, match=r"own_counts.find failed with ZeroDivisionError"):
        compose(words, trust=["own_counts"])
    with pytest.raises(InputError, match=r"data.num_train=.* is not a whole number"):
        compose([*words, "data.num_classes=2"], trust=["own_counts"])


def test_a_point_of_a_sweep_finds_them_again(here: Path) -> None:
    write_photos(here)
    write_photos(here / "more", per_class=20)
    base = compose(
        [
            "data=image_folder",
            "data.folder=pets",
            "data.image_size=8",
            "data.resize_size=9",
            "model=softmax",
            "batch_size_global=4",
        ]
    )
    templates = Templates([Template.from_experiment(base, {}, {})])
    templates.save(here)
    templates = Templates.load(here, (), ())
    config, _ = templates.fill({"data.folder": "more/pets", "data.image_size": 6}, 0)
    assert (base.config["data"]["num_train"], config["data"]["num_train"]) == (16, 32)
    assert config["data"]["image_shape"] == [3, 6, 6]
    assert config["model"]["num_features"] == 108
    with pytest.raises(InputError, match=r"data.folder='nowhere' is neither in"):
        templates.fill({"data.folder": "nowhere"}, 0)


def test_a_missing_folder_is_one_problem(here: Path) -> None:
    with pytest.raises(InputError, match=r"has a problem:\n.*data.folder='nowhere' is neither in"):
        compose(["data=image_folder", "data.folder=nowhere"])


@pytest.mark.parametrize("path", ["", "nowhere.txt", "/nowhere.txt", "."])
def test_a_path_that_cannot_be_read_is_told(here: Path, path: str) -> None:
    with pytest.raises(
        InputError, match=r"data.path.* (is empty|does not exist|is neither in|cannot be read)|cannot be read"
    ):
        compose(["data=text", f"data.path='{path}'", "model=gpt_nano"])


@pytest.mark.parametrize(
    ("words", "best"),
    [
        ([], ("val/accuracy_top1", "max")),
        (["checkpoint.best_metric=val/loss_nats"], ("val/loss_nats", "min")),
        (["checkpoint.best_metric=val/loss_nats", "checkpoint.best_mode=max"], ("val/loss_nats", "max")),
        (["checkpoint.best_metric=null"], (None, "max")),
        (["evaluator=perplexity"], ("val/perplexity", "min")),
        (["evaluator=none"], (None, "max")),
        ([*TABLE], ("val/r2", "max")),
        ([*TABLE, "checkpoint.best_metric=val/rmse"], ("val/rmse", "min")),
        (["callback=early_stopping", "evaluator=perplexity"], ("val/perplexity", "min")),
    ],
)
def test_the_evaluator_names_the_best_metric(here: Path, words: list[str], best: tuple[str | None, str]) -> None:
    config = compose(words).config
    assert (config["checkpoint"]["best_metric"], config["checkpoint"]["best_mode"]) == best
    for callback in config["callback"].values():
        assert (callback["metric"], callback["mode"]) == best


def test_a_text_is_counted(here: Path) -> None:
    write_text(here)
    data = compose(["data=text", "data.path=book.txt", "model=gpt_nano", "evaluator=perplexity"]).config["data"]
    assert data["num_train"] == (data["num_train_tokens"] - 1) // 64


def test_another_class_of_table_keeps_what_the_model_was_trained_with() -> None:
    trained = {"_target_": "modules.data.own.csv_file.CsvFile", "columns": {"area": {"mean": 1.0, "std": 2.0}}}
    lines = {"_target_": "modules.data.own.data_table.DataTable", "columns": "auto", "num_train": "auto"}
    assert keep_encoding(trained, lines) == {**lines, "columns": trained["columns"]}
    assert keep_encoding({**trained, "_target_": "modules.data.digits.Digits"}, lines) == lines
