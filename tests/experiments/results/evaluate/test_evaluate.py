"""`lathe evaluate`: what it measures and records, and that the run stays as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from experiments.cli.main import main
from experiments.config.compose import compose
from experiments.core.console import Display
from experiments.core.lock import locked
from experiments.launch import run_here
from experiments.launch.run_trial import run
from experiments.results.evaluate.configuration import _find_larger_sizes
from experiments.results.search.index import Index
from experiments.run import evaluations, journal
from experiments.run.checkpoint import Checkpoints
from experiments.trial.trial import Trial, freeze
from tests.support.own_data import write_photos

OVERRIDES = (
    "model=mlp", "callback=ema", "max_steps=4", "eval_every_steps=2", "checkpoint.every_steps=2", "checkpoint.keep_last=2",
    "checkpoint.best_metric=val/loss_nats", "checkpoint.best_mode=min", "optimizer.lr=0.05", "tracking=off",
)  # fmt: skip
PIXELS = """
import torch
class Pixels:
    in_memory = True
    def __init__(self, size: int, classes: int):
        self.size, self.classes = size, classes
    def load(self, split):
        return self
    def __len__(self):
        return 20
    def batch(self, indices, seeds):
        return torch.zeros(len(indices), 1, self.size, self.size), indices % self.classes
    def example(self, n):
        return self.batch(torch.zeros(n, dtype=torch.int64), None)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs with one finished run, whose delivered weights are an average."""
    runs_dir = tmp_path_factory.mktemp("runs")
    with (runs_dir / "output.txt").open("w", encoding="utf-8") as output:
        run(freeze(compose([*OVERRIDES, f"runs_dir={runs_dir}"])), display=Display(output), here=True)
    return runs_dir


@pytest.fixture
def trial(trained: Path, tmp_path: Path) -> Trial:
    """A copy of the run."""
    shutil.copytree(trained / "single", tmp_path / "single")
    return Trial(next(tmp_path.glob("single/*/trial.yaml")).parent)


def evaluate(trial: Trial, *args: str) -> int:
    return main(["evaluate", trial.folder.name, "--here", "--trust-code", "--runs-dir", str(trial.runs_dir), *args])


def test_an_evaluation_repeats_the_metrics_of_the_run_and_leaves_it_as_it_was(
    trial: Trial, capsys: pytest.CaptureFixture[str]
) -> None:
    def read() -> dict[str, bytes]:
        files = (path for path in trial.folder.rglob("*") if path.is_file() and evaluations.FOLDER not in path.parts)
        return {str(path): path.read_bytes() for path in files}

    before, events = read(), list(journal.replay(trial.folder))
    assert evaluate(trial, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    last = {name: value for event in events if event["event"] == "metrics" for name, value in event["metrics"].items()}
    own = {f"evaluation/1/{name}": value for name, value in last.items() if name.startswith("test/")}
    assert document["metrics"] == own
    assert document["step"] == last["delivered/step"]
    assert read() == before
    assert list(journal.replay(trial.folder)) == events
    assert not (trial.folder / "evaluations/1/initial.safetensors").exists()


def test_other_data_evaluators_and_checkpoints_are_recorded_and_found(
    trial: Trial, capsys: pytest.CaptureFixture[str]
) -> None:
    Index(trial.runs_dir).runs()  # an earlier search has cached the run without it
    named = ["evaluator.top_k=[1,3]", "--split", "val", "--name", "top3"]
    assert evaluate(trial, *named, "--checkpoint", "2") == 0
    assert evaluate(trial, *named, "--checkpoint", "4") == 0
    assert evaluate(trial, "evaluator=none", "--name", "top3") == 2
    assert "an earlier evaluation of this name has other overrides" in capsys.readouterr().err
    steps = [
        event["step"] for folder in evaluations.list_finished(trial.folder) for event in evaluations.read_points(folder)
    ]
    assert steps == [2, 4]
    metrics = Index(trial.runs_dir).runs()[0].metrics
    assert metrics["evaluation/top3/val/accuracy_top3"] >= metrics["evaluation/top3/val/accuracy_top1"]
    assert metrics["evaluation/top3/val/loss_nats"] == pytest.approx(metrics["val/loss_nats"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["model=lenet", "seed=2"], "model, seed: an evaluation keeps the model and its training as they are"),
        (["dta=mnist"], "dta is not a key of the configuration; did you mean 'data'?"),
        (["data=mnsit"], "data=mnsit is not an option of the group 'data'; did you mean 'mnist'"),
        (["data=mnist", "data_root=/nowhere"], "are not in /nowhere/mnist"),
        (["evaluator.top_k=x"], "evaluator.top_k=x is not a list of whole numbers"),
        (["parallel=async"], "is for a training; use parallel=single or parallel=data"),
        (["--checkpoint", "3"], "--checkpoint 3: there is none of this step, but of 2, 4"),
        (["--checkpoint", "newest"], "is not a checkpoint; write best, last, or the number of a step"),
        (["--name", "1"], "--name 1 is not a valid name"),
        (["--split", "dev"], "--split dev is not known; known: test, train, val"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments_are_refused(
    trial: Trial, capsys: pytest.CaptureFixture[str], args: list[str], message: str
) -> None:
    assert evaluate(trial, *args) == 2
    assert message in capsys.readouterr().err
    assert not evaluations.list_folders(trial.folder)


def test_data_that_do_not_fit_the_model_are_refused(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_pixels.py").write_text(PIXELS)
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "conf" / "data"
    folder.mkdir(parents=True)
    for name, size, num_classes in (("large", 9, 10), ("other", 8, 12)):
        (folder / f"{name}.yaml").write_text(f"{{_target_: own_pixels.Pixels, size: {size}, classes: {num_classes}}}")
    own = ["-cd", str(tmp_path / "conf"), "--trust", "own_pixels"]
    assert evaluate(trial, "data=large", *own) == 2
    expected = "the data give float32 [batch, 1, 9, 9], and the model was trained with float32 [batch, 1, 8, 8]"
    assert expected in capsys.readouterr().err
    assert evaluate(trial, "data=other", *own) == 2
    assert "a target or a token of the data is out of range for the model" in capsys.readouterr().err
    assert not (trial.folder / evaluations.FOLDER).exists()
    (problem,) = _find_larger_sizes({"num_classes": 10}, {"num_classes": 11})
    assert problem.startswith("data.num_classes=11 is more than the 10 classes that the model was trained with")


def _train(runs_dir: Path, *words: str) -> Trial:
    experiment = compose([*words, "max_steps=2", "batch_size_global=4", "tracking=off", f"runs_dir={runs_dir}"])
    with (runs_dir / "output.txt").open("w", encoding="utf-8") as output:
        return run(freeze(experiment), display=Display(output), here=True).trial


def test_classes_and_numbers_of_other_data_mean_what_they_meant_in_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"{n},{'abc'[n % 3]}\n" for n in range(60))
    (tmp_path / "all.csv").write_text(f"x,y\n{rows}")
    (tmp_path / "some.csv").write_text("x,y\n" + "".join(f"{1000 * n},{'bc'[n % 2]}\n" for n in range(20)))
    table = ("data=csv", "data.target=y", f"data.root={tmp_path}")
    trial = _train(tmp_path, *table, "data.path=all.csv", "model=mlp")
    assert evaluate(trial, *table, "data.path=some.csv") == 0
    evaluated = Trial(next((trial.folder / "evaluations").iterdir())).config["data"]
    for key in ("classes", "columns", "num_classes"):  # not those of the smaller file
        assert evaluated[key] == trial.config["data"][key]
    assert list(evaluated["files"]) == ["some.csv"]
    capsys.readouterr()
    write_photos(tmp_path)
    sizes = ("data=image_folder", "data.image_size=8", "data.resize_size=9", f"data.root={tmp_path}")
    trial = _train(tmp_path, *sizes, "data.folder=pets", "model=softmax")
    (tmp_path / "pets" / "bee").rename(tmp_path / "pets" / "wasp")
    assert evaluate(trial, *sizes, "data.folder=pets", "--split", "val") == 2
    assert "the data have the classes ant, wasp, but the model was trained with ant, bee" in capsys.readouterr().err


def test_tokens_of_another_text_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.txt").write_text("once upon a time " * 60)
    (tmp_path / "same.txt").write_text("a time once upon " * 60)
    (tmp_path / "other.txt").write_text("abcdefghij " * 60)
    text = ("data=text", f"data.root={tmp_path}", "data.context_tokens=8")
    trial = _train(tmp_path, *text, "data.path=one.txt", "model=gpt_nano", "evaluator=perplexity")
    assert evaluate(trial, *text, "data.path=same.txt") == 0
    assert evaluate(trial, *text, "data.path=other.txt") == 2
    assert "numbers its tokens in its own way, and the model knows those of the training" in capsys.readouterr().err


def test_a_run_that_cannot_be_evaluated_says_why(trial: Trial, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(trial.folder / "run.lock"):
        assert evaluate(trial) == 2
    assert "is still running, and its checkpoints come and go" in capsys.readouterr().err
    (trial.folder / evaluations.FOLDER).touch()  # as in a folder that is not writable
    assert evaluate(trial) == 2
    assert "cannot be written" in capsys.readouterr().err
    weights = Checkpoints(trial.folder, 1).best()
    assert weights is not None
    weights.weights.write_bytes(b"damaged")
    assert evaluate(trial, "--checkpoint", "best") == 2
    assert "is damaged and was skipped" in capsys.readouterr().err
    shutil.rmtree(trial.folder / "checkpoints")
    assert evaluate(trial) == 2
    assert "has no checkpoint in" in capsys.readouterr().err


def test_an_interrupted_evaluation_leaves_nothing(
    trial: Trial, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_here._StopRequest, "__call__", lambda self: "SIGINT")
    assert evaluate(trial) == 1
    assert "interrupted: SIGINT; nothing of it is recorded" in capsys.readouterr().err
    assert not (trial.folder / evaluations.FOLDER).exists()
