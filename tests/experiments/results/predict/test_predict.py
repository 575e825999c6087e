"""What real runs make of images and texts, as a user asks for it."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from experiments.cli.main import main
from experiments.components.instantiate import instantiate
from experiments.trial.trial import Trial, to_yaml
from modules.evaluator.base import Prediction
from tests.support.batches import fetch
from tests.support.preloaded import make_command
from tests.support.waiting import PATIENCE_S

TEXT = "to be or not to be\nthat is the question\n" * 5
SIZES = {"vocab_size": 16, "context_tokens": 5, "num_train_tokens": None, "num_train": None, "shift": True}
pytestmark = pytest.mark.slow


def train(server: Path, folder: Path, *args: str) -> Trial:
    command = [*make_command(server), "run", *args, "tracking=off", f"runs_dir={folder / 'runs'}"]
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Trial(next((folder / "runs" / "single").glob("*/")))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, preloaded: Path) -> Trial:
    args = ("model=lenet", "max_steps=20", "eval_every_steps=10", "checkpoint.every_steps=10", "batch_size_eval=3")
    return train(preloaded, tmp_path_factory.mktemp("digits"), *args)


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory, preloaded: Path) -> Trial:
    """A language model of a text of its own; it has more numbers than there are characters."""
    folder = tmp_path_factory.mktemp("writer")
    (folder / "conf" / "data").mkdir(parents=True)
    (folder / "tiny.txt").write_text(TEXT)
    data = {
        "root": str(folder.parent),
        "folder": folder.name,
        "files": {"tiny.txt": None},
        "tokens": "characters",
        **SIZES,
    }
    (folder / "conf" / "data" / "tiny.yaml").write_text(
        to_yaml({"_target_": "modules.data.text_file.TextFile", **data})
    )
    sizes = ("num_layers=1", "hidden_size=8", "num_heads=2", "num_kv_heads=1", "ff_size=12")
    parts = (
        "data=tiny",
        "model=gpt_nano",
        "evaluator=perplexity",
        "max_steps=4",
        "eval_every_steps=2",
        "batch_size_global=6",
    )
    return train(
        preloaded,
        folder,
        "-cd",
        "conf",
        *parts,
        *(f"model.{size}" for size in sizes),
        "checkpoint.best_metric=val/loss_nats",
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, digits: Trial) -> Path:
    """Seven digits of the test split as files."""
    folder = tmp_path_factory.mktemp("images")
    for number, pixels in enumerate(of_the_test_split(digits, 7)):
        Image.fromarray((pixels[0] * 255).round().astype(np.uint8)).save(folder / f"{number}.png")
    return folder


def of_the_test_split(trial: Trial, count: int) -> np.ndarray:
    split = instantiate(trial.config["data"], "data").load("test")
    return np.asarray(fetch(split, torch.arange(count))[0])


def lathe_predict(trial: Trial, *args: str) -> int:
    return main(["predict", trial.id, *args, "--runs-dir", str(trial.runs_dir)])


def predictions(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def exported(trial: Trial, folder: Path, *args: str) -> Any:
    """The model of a run as MLflow loads it from an exported folder."""
    assert main(["export", trial.id, "-o", str(folder), *args, "--runs-dir", str(trial.runs_dir)]) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's own
        import mlflow

        return mlflow.pyfunc.load_model(str(folder), model_config={"device": "cpu"})


def as_predicted(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in each.items() if key not in ("input", "run", "step")} for each in answers]


def test_an_exported_model_and_predict_agree_on_images_to_the_bit(
    digits: Trial, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = exported(digits, tmp_path / "model")
    capsys.readouterr()
    assert lathe_predict(digits, str(images), "--json") == 0
    answers = predictions(capsys)
    files = sorted(images.iterdir())
    assert [Path(answer["input"]) for answer in answers] == files
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])[..., None]
    assert model.predict(pixels).to_dict("records") == as_predicted(answers)
    encoded = np.array([file.read_bytes() for file in files], dtype=object)
    assert model.predict(encoded).to_dict("records") == as_predicted(answers)
    rows = model.predict(pixels, params={"answer": "probabilities"})
    arrays = model.get_raw_model().predict(of_the_test_split(digits, 7), {"answer": "probabilities"})
    for answer, row, same in zip(answers, rows, arrays, strict=True):
        probabilities = [(int(each["name"]), each["probability"]) for each in answer["classes"]]
        assert probabilities == [(number, row[number]) for number, _ in probabilities]
        assert row.tolist() == same.tolist()
    with pytest.raises(ValueError, match=r"image_1 is float32 \[5, 3\]; give uint8 \[height, width, 1, 3 or 4\]"):
        model.predict(np.array([pixels[0], np.zeros((5, 3), np.float32)], dtype=object))
    with pytest.raises(ValueError, match=r"^image_0 cannot be read as an image"):
        model.predict(np.array([b"no image"], dtype=object))


TABLE = "size,city,new,price,kind\n" + "".join(
    f"{size or ''},{city},{new},{12.5 * (size or 50) + 7},{kind}\n"
    for size, city, new, kind in [
        (31, "Rome", "true", "flat"),
        (None, "Oslo", "false", "house"),
        (75, "", "true", "flat"),
    ]
    * 6
)
ROWS = [
    {"size": 40, "city": "Oslo", "new": True},
    {"size": None, "city": "Paris", "new": False},
    {"size": 7.5, "city": None, "new": None},
]


@pytest.mark.parametrize(
    "parts",
    [
        ("data.target=price", "objective=regression", "evaluator=regression"),
        ("data.target=kind", "evaluator=classification"),
    ],
    ids=["regression", "classification"],
)
def test_an_exported_model_and_predict_agree_on_rows(
    parts: tuple[str, ...], preloaded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "homes.csv").write_text(TABLE)
    others = "data.ignore=[kind]" if "data.target=price" in parts else "data.ignore=[price]"
    sizes = ("data.path=homes.csv", "model=mlp", "batch_size_global=4", "max_steps=4", "name=homes")
    trial = train(preloaded, tmp_path, "data=csv", *parts, others, *sizes)
    model = exported(trial, tmp_path / "model")
    capsys.readouterr()
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    assert lathe_predict(trial, str(tmp_path / "rows.jsonl"), "--json") == 0
    expected = as_predicted(predictions(capsys))
    assert "value" in expected[0] or "classes" in expected[0]
    table = pd.DataFrame(ROWS)
    assert model.predict(table).to_dict("records") == expected
    assert model.predict(table.astype({"city": "category"})).to_dict("records") == expected
    assert len(model.predict(pd.DataFrame([ROWS[2]]))) == 1, "all but a number is missing"
    whole = pd.read_csv(tmp_path / "homes.csv")
    assert lathe_predict(trial, str(tmp_path / "homes.csv"), "--json") == 0
    assert model.predict(whole).to_dict("records") == as_predicted(predictions(capsys))
    assert model.metadata.signature.inputs.input_names() == ["size", "city", "new"]
    assert model.metadata.metadata["columns"] == {"size": "numbers", "city": "texts", "new": "numbers"}
    facts = (tmp_path / "model" / "data" / "model" / "model.yaml").read_text()
    assert str(tmp_path) not in facts
    arrays = exported(trial, tmp_path / "arrays", "--no-preprocessing")
    assert str(arrays.metadata.signature.inputs).startswith("[Tensor('float32', (-1, ")


def test_an_exported_model_and_predict_agree_on_texts_without_the_text(
    writer: Trial, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = exported(writer, tmp_path / "model")
    capsys.readouterr()
    texts = ["to be", "that"]
    assert lathe_predict(writer, *texts, "--json") == 0
    file = Path(writer.config["data"]["root"], writer.config["data"]["folder"], "tiny.txt")
    file.rename(file.with_suffix(".gone"))
    try:
        assert model.predict(texts).to_dict("records") == as_predicted(predictions(capsys))
        assert main(["export", writer.id, "-o", str(tmp_path / "m2"), "--runs-dir", str(writer.runs_dir)]) == 2
    finally:
        file.with_suffix(".gone").rename(file)
    assert "or add --no-preprocessing to export a model that takes arrays" in capsys.readouterr().err
    data = instantiate(writer.config["data"], "data")
    raw = model.get_raw_model()
    assert np.array_equal(
        raw.predict(data.read(["to be"]).numpy()), model.predict(["to be"], params={"answer": "outputs"})
    )


def test_only_one_line_per_image_goes_to_a_pipe(
    digits: Trial, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lathe_predict(digits, str(images / "3.png"), str(images / "1.png"), "--set", "evaluator.top_k_shown=2") == 0
    shown = capsys.readouterr()
    lines = [line.split("\t") for line in shown.out.splitlines()]
    assert [path for path, _ in lines] == [str(images / "3.png"), str(images / "1.png")]
    assert all(re.fullmatch(r"\d 0\.\d{3}  \d 0\.\d{3}", answer) for _, answer in lines)
    assert re.search(rf"model of run {digits.id}: step (10|20), best by val/accuracy_top1=", shown.err)
    assert lathe_predict(digits, str(images / "3.png"), "--set", "evaluator=top_k", "--json") == 0
    (answer,) = predictions(capsys)  # of another evaluator than that of the training
    assert len(answer["classes"]) == 5


def test_a_damaged_file_is_reported_and_the_others_are_predicted(
    digits: Trial, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.png").write_text("no image")
    names = [images / "0.png", tmp_path / "broken.png", tmp_path / "nowhere.png", images / "5.png"]
    pipe = "".join(f"{name}\n" for name in names).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(pipe)))
    assert lathe_predict(digits, "--json") == 1
    shown = capsys.readouterr()
    answers = [json.loads(line) for line in shown.out.splitlines()]
    assert [answer["input"] for answer in answers] == [str(name) for name in names]
    assert ["classes" in answer for answer in answers] == [True, False, False, True]
    assert answers[1]["error"].endswith(
        "broken.png cannot be read as an image (unknown format); convert it to JPEG or PNG, or leave it out"
    )
    assert shown.err.count("error: ") == 2


def test_an_error_of_the_model_is_reported_and_the_others_are_predicted(
    digits: Trial, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from modules.evaluator.accuracy import Accuracy

    answers = Accuracy.predict

    def too_large(self: Accuracy, model: torch.nn.Module, data: Any, given: Sequence[str]) -> list[Prediction]:
        if any(path.endswith("2.png") for path in given):
            torch.empty(2**60)
        return answers(self, model, data, given)

    monkeypatch.setattr(Accuracy, "predict", too_large)
    assert lathe_predict(digits, str(images)) == 1
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 6
    assert re.search(r"error: .*2\.png: .*allocate.*; give a smaller input\n", shown.err)
    assert shown.err.count("error: ") == 1


def test_arguments_are_checked_before_anything_is_predicted(
    digits: Trial, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lathe_predict(digits, str(images / "0.pn"), str(images / "1.png"), str(images / "*.gif")) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.replace(str(images), "IMAGES").splitlines() == [
        "InputError: the input of 'lenet-digits', which takes images, has 2 problems:",
        "  - there is no image IMAGES/0.pn; did you mean '0.png' or '6.png'?",
        "  - IMAGES/*.gif matches no file; write another pattern",
    ]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            "evaluator.top_k_show=3",
            "evaluator.top_k_show=3: Accuracy has no argument 'top_k_show'; did you mean 'top_k_shown'",
        ),
        ("evaluator.top_k_shown=many", "evaluator.top_k_shown=many is not a whole number"),
        (
            "model.dropout=0",
            "--set model.dropout=0 would change what the model was trained for; set evaluator, evaluator.KEY, data.root or "
            "data.photo_size",
        ),
    ],
)
def test_the_values_of_set_are_checked(
    digits: Trial, images: Path, change: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lathe_predict(digits, str(images), "--set", change) == 2
    assert problem in capsys.readouterr().err


def test_a_sampled_continuation_is_reproducible(writer: Trial, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ("--json", "--set", "evaluator.sample_tokens=9")
    assert lathe_predict(writer, "to be", "that is\nthe", "to be", *ask) == 0
    first, second, again = predictions(capsys)
    assert first == again
    assert [first["text"], second["text"]] == ["to be", "that is\nthe"]
    assert len(first["continuation"]) == 9
    assert set(first["continuation"]) <= set(TEXT)
    assert lathe_predict(writer, "to be", *ask, "--set", "evaluator.sample_seed=1") == 0
    assert predictions(capsys)[0]["continuation"] != first["continuation"]
    assert lathe_predict(writer, "to be\n", "--set", "evaluator.sample_tokens=2") == 0
    assert capsys.readouterr().out.startswith("to be\\n\tto be\\n")


def test_an_unknown_character_and_a_missing_vocabulary_are_reported(
    writer: Trial, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lathe_predict(writer, "Zoë", "to", "--set", "evaluator.sample_tokens=1") == 1
    shown = capsys.readouterr()
    assert "error: 'Zoë' has the characters 'Zë', which are not in tiny.txt" in shown.err
    assert len(shown.out.splitlines()) == 1
    text = Path(writer.config["data"]["root"], writer.config["data"]["folder"], "tiny.txt")
    text.rename(text.with_suffix(".gone"))
    try:
        assert lathe_predict(writer, "to") == 2
    finally:
        text.with_suffix(".gone").rename(text)
    assert f"{text} is missing; the set needs tiny.txt in that folder" in capsys.readouterr().err


def test_data_that_cannot_read_inputs_is_reported_with_another_command(
    digits: Trial, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from modules.data.digits import Digits

    monkeypatch.delattr(Digits, "read")
    assert lathe_predict(digits, "x.png") == 2
    assert "data Digits of run" in capsys.readouterr().err
