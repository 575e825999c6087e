"""`lathe diff`: what can be named, what is printed, and the exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.cli.main import main
from experiments.config.compose import compose
from experiments.run import journal
from experiments.trial.trial import Trial, freeze

SMALL = ("model=softmax", "max_steps=4", "tracking=off")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A frozen run as if it had run four steps."""
    folder = tmp_path_factory.mktemp("template")
    trial = freeze(compose([*SMALL, f"runs_dir={folder}"]))
    with journal.Journal(trial.folder / "attempts" / "1" / "journal.jsonl") as events:
        events.data(name="digits", digest="d1", num_examples=1297, split="train")
        events.params({"plan.cpu_threads": 1, "env.torch": "2.13.0", "env.cpu_capability": "AVX2"})
        for step in (1, 2, 3, 4):
            events.metrics(step, {"train/loss_nats": 1 / step, "perf/step_time_ms": 3.0 + step})
    return trial.folder


@pytest.fixture
def runs(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runs folder with two equal runs, `aaaaaaaaaa` and `bbbbbbbbbb`, below the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LATHE_RUNS", raising=False)
    for name in ("aaaaaaaaaa", "bbbbbbbbbb"):
        shutil.copytree(template, tmp_path / "runs" / "single" / name)
    return tmp_path / "runs" / "single"


def change(path: Path, **changes: Any) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def changed_loss(folder: Path, at: int, value: float) -> None:
    path = folder / "attempts" / "1" / "journal.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    for event in events:
        if event["event"] == "metrics" and event["step"] >= at:
            event["metrics"]["train/loss_nats"] = value
    path.write_text("".join(f"{json.dumps(event)}\n" for event in events))


def shown(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    code = main(["diff", *args])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def test_two_runs_of_one_trial_are_the_same(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = shown(capsys, "aaaa", "bbbb")
    assert code == 0
    assert text.splitlines() == [
        "A: aaaa",
        "B: bbbb",
        "same configuration, code, environment, data, hardware and seeds",
        "1 metrics are the same, 4 points",
    ]


def test_only_differences_are_shown(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = yaml.safe_load((runs / "bbbbbbbbbb" / "trial.yaml").read_text())
    change(runs / "bbbbbbbbbb" / "trial.yaml", seed=7, name="b", optimizer=config["optimizer"] | {"lr": 0.5})
    changed_loss(runs / "bbbbbbbbbb", 3, 0.25)
    code, text = shown(capsys, "aaaa", "bbbb")
    assert code == 1
    assert [line.split("│")[1:-1] for line in text.splitlines() if "0.001" in line] == [
        [" configuration ", " optimizer.lr ", " 0.001 ", " 0.5 "]
    ]
    assert "seeds" in text
    assert "environment" not in text
    assert "different, but without effect on the result: name" in text
    row = next(line for line in text.splitlines() if "train/loss_nats" in line)
    cells = [cell.strip() for cell in row.split("│")[1:-1]]
    assert cells == ["train/loss_nats", "3", "0.25", "0.25", "0.25", "-", "-", "4"]


def test_metrics_that_differ_by_more_than_the_tolerance_are_a_difference(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed_loss(runs / "bbbbbbbbbb", 4, 0.25000001)
    assert shown(capsys, "aaaa", "bbbb")[0] == 1
    assert shown(capsys, "aaaa", "bbbb", "--tolerance", "1e-6")[0] == 0


def test_the_json_document_holds_everything(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed_loss(runs / "bbbbbbbbbb", 2, float("nan"))
    code, text = shown(capsys, "aaaa", "bbbb", "--json")
    document = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert code == 1
    assert document["same"] is False
    assert document["metrics"][0]["first_step"] == 2
    assert document["metrics"][0]["largest"] is None
    assert set(document["differences"]) == {"configuration", "code", "environment", "data", "hardware", "seeds"}


def test_an_experiment_is_compared_with_a_run(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = shown(capsys, "aaaa", "model=softmax max_steps=4 optimizer.lr=0.02")
    assert code == 1
    assert "B: model=softmax max_steps=4 optimizer.lr=0.02" in text
    assert "optimizer.lr" in text
    assert "no metrics to compare: model=softmax max_steps=4 optimizer.lr=0.02 has none" in text
    both = shown(capsys, "model=softmax description='a b'", "model=softmax 'description=\"c d\"'")[1]
    assert "same configuration" in both


def test_a_trial_yaml_alone_is_compared_by_its_configuration(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(runs / "bbbbbbbbbb" / "trial.yaml", runs.parent.parent / "mine.yaml")
    code, text = shown(capsys, "aaaa", "mine.yaml")
    assert code == 0
    assert "not compared, as only one of the two has it: code, python, platform" in text


def test_a_run_is_found_by_its_mlflow_id(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "bbbbbbbbbb" / "sync.json").write_text(json.dumps({"run_id": "0123456789abcdef" * 2}))
    assert shown(capsys, "aaaa", "0123456789abcdef0123456789abcdef")[0] == 0
    assert shown(capsys, "aaaa", "01234567")[0] == 0
    (runs / "aaaaaaaaaa" / "sync.json").write_text(json.dumps({"run_id": "0123456789abcdee" * 2}))
    code, text = shown(capsys, "aaaa", "01234567")
    assert code == 2
    assert "MLflow's run '01234567' is not unique in runs: aaaaaaaaaa, bbbbbbbbbb; write more of it" in text


def test_the_code_of_a_trial_is_in_the_folder_of_its_sweep(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = runs.parent / "rates"
    shutil.copytree(runs / "bbbbbbbbbb", sweep / "cccccccccc")
    (sweep / "sweep.yaml").write_text("{}\n")
    shared, own = (
        yaml.safe_load((sweep / "cccccccccc" / "provenance.yaml").read_text()),
        ("trial_id", "run_key", "data"),
    )
    (sweep / "provenance.yaml").write_text(yaml.safe_dump({key: shared[key] for key in shared if key not in own}))
    (sweep / "cccccccccc" / "provenance.yaml").write_text(yaml.safe_dump({key: shared[key] for key in own}))
    assert shown(capsys, "aaaa", "cccc")[0] == 0
    from experiments.trial.record import record_trial

    assert record_trial(Trial(sweep / "cccccccccc")).code_folder == sweep / "code"


@pytest.mark.parametrize("harm", ["missing", "cut", "garbage", "empty"])
def test_a_damaged_run_is_reported(harm: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = runs / "bbbbbbbbbb" / ("provenance.yaml" if harm in ("missing", "cut") else "trial.yaml")
    content = {"cut": path.read_bytes()[:5], "garbage": b"\xff{[:", "empty": b"", "missing": b""}[harm]
    path.write_bytes(content)
    if harm == "missing":
        path.unlink()
    code, text = shown(capsys, "aaaa", "bbbb")
    assert code == 2
    assert f"{path} is damaged: " in text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("aaaa", "nope"), "there is no run 'nope' in runs"),
        (("aaaa", "model=sofmax"), "did you mean 'softmax'"),
        (("aaaa", "model=softmax description='x"), "has a quote that is not closed"),
        (("aaaa", "bad.yaml"), "bad.yaml is not a run, a shared file or a trial.yaml"),
        (("aaaa", "bomb.yaml"), "bomb.yaml is not a run, a shared file or a trial.yaml (it has more than 100,000 values)"),
        (("aaaa", "empty.yaml"), "empty.yaml is not a run, a shared file or a trial.yaml"),
        (("aaaa", "."), "there is no run '.' in runs"),
        (("aaaa", "bbbb", "--tolerance", "nan"), "--tolerance nan is not a distance"),
        (("aaaa", "bbbb", "--tolerance", "x"), "--tolerance x is not a number; write for example `--tolerance 1e-6`"),
        (("aaaa",), "B is missing; usage: lathe diff"),
    ],
)  # fmt: skip
def test_an_argument_without_a_record_is_reported(
    args: tuple[str, ...], message: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs.parent.parent / "bad.yaml").write_bytes(b"\xff\xfe{[")
    (runs.parent.parent / "empty.yaml").write_text("")
    layers = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 8))
    (runs.parent.parent / "bomb.yaml").write_text(f"data: {{}}\nhardware: {{}}\na0: &a0 [x, x]\n{layers}")
    code, text = shown(capsys, *args)
    assert code == 2
    assert message in text
