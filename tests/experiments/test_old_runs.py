"""Files that the first version wrote still open, and the old names are refused with the new ones (`old_runs/README.md`)."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml

from experiments.cli.main import main
from experiments.config.compose import compose
from experiments.core import renamed
from experiments.core.errors import InputError
from experiments.run.journal import replay
from experiments.sweep.space import Choice, Interval
from experiments.sweep.space_parser import parse
from experiments.sweep.sweep import Sweep
from experiments.trial.trial import Trial, trial_id
from tests.conftest import Lathe

RECORDED = Path(__file__).parent / "old_runs"
COMMIT = "5aefda4f2c2e5060b91fbe65a2b45c9ec7074a71"
FINISHED, INTERRUPTED, PENDING = "88fd0c5aec", "8da7c94f31", "f3794a73e5"
CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(RECORDED, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LATHE_RUNS", raising=False)
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".index.json"}


def old_code() -> bytes:
    """The packages of the first version; its commit is not in a shallow clone."""
    packages = ["conf", "experiments", "launchers", "modules", "sweeps"]
    done = subprocess.run(["git", "archive", COMMIT, *packages], cwd=CHECKOUT, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"the commit {COMMIT[:12]} is not in this clone")
    return done.stdout


def test_configuration_has_the_new_names_and_the_old_id(here: Path) -> None:
    trial = Trial(here / "runs" / "single" / FINISHED)
    assert trial.config["description"] == "what the first version wrote"
    assert trial.config["hardware"]["mfu"] == 0.2
    assert trial.config["evaluator"]["top_k_shown"] == 3
    assert {"hardware.mfu=0.2", "+evaluator.top_k_shown=3"} <= {*trial.provenance["overrides"]}
    assert trial.id == trial_id(trial.config) == FINISHED
    composed = compose([text for text in trial.provenance["overrides"] if not text.startswith("tracking")])
    assert trial_id(composed.config) == FINISHED


def test_sweep_has_the_new_names(here: Path) -> None:
    sweep = Sweep(here / "runs" / "old")
    assert (sweep.spec["num_seeds"], sweep.spec["budget"]["max_points"]) == (1, 3)
    assert sweep.spec["strategy"]["name"] == "list"
    assert sweep.spec["points"][0] == ["optimizer.lr=0.01", "evaluator.top_k_shown=2", "max_steps=20"]
    entry = sweep.ledger().read().entries[PENDING]
    assert entry.state == "pending"
    assert entry.values["evaluator.top_k_shown"] == 2


def test_intervals_of_old_sweeps_have_the_new_names(here: Path) -> None:
    path = here / "runs" / "old" / "sweep.yaml"
    spec = yaml.safe_load(path.read_text())
    interval = {"low": 1, "high": 8, "log": True, "whole": True}
    inside = {"optimizer": {"adam": {"optimizer.num": interval}, "whole": {}}}
    for keys in ({"seeds": 1}, {"num_seeds": 1}):  # before and after the other keys of a sweep were renamed
        old = {key: value for key, value in spec.items() if key != "seeds"} if "num_seeds" in keys else spec
        path.write_text(yaml.safe_dump({**old, **keys, "space": {"seed": interval, **inside}}))
        space = parse(Sweep(path.parent).spec["space"])
        assert space["seed"] == Interval(1, 8, log=True, is_integer=True)
        assert space["optimizer"] == Choice(("adam", "whole"), {"adam": {"optimizer.num": space["seed"]}})


def test_metrics_and_states_have_the_new_names(here: Path) -> None:
    events = [*replay(here / "runs" / "single" / INTERRUPTED)]
    metrics = {name for event in events if event["event"] == "metrics" for name in event["metrics"]}
    assert "perf/data_wait_fraction" in metrics
    assert not [name for name in metrics if "_share" in name]
    assert [event["state"] for event in events if event["event"] == "state"][-1] == "interrupted"
    outcome = Trial(here / "runs" / "single" / INTERRUPTED).outcome()
    assert outcome is not None
    assert outcome["status"] == "interrupted"


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (["status", "old"], "1 pending"),
        (["status"], "2/3"),
        (["logs", "old", PENDING], "pending"),
        (["logs", "old", "optimizer.lr=0.0001"], "pending"),
        (["ls", "state=interrupted"], INTERRUPTED),
        (["ls", "hardware.mfu=0.2 and perf/data_wait_fraction>=0", "--sort", "perf/data_wait_fraction"], FINISHED),
        (["diff", FINISHED, INTERRUPTED], "max_steps"),
        (["diff", FINISHED, "shared.yaml"], "same configuration"),
        (["report", "old", "-o", "page"], "page"),
        (["report", FINISHED, INTERRUPTED, "-o", "page"], "page"),
        (["plan", "--from", "shared.yaml"], ""),
        (["share", FINISHED, "-o", "again.yaml"], "again.yaml"),
        (["export", FINISHED, "-o", "model"], "model"),
    ],
)
def test_command_reads_old_files(
    here: Path, command: list[str], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(here / "runs")
    assert main(command) == (1 if command[0] == "diff" and INTERRUPTED in command else 0), capsys.readouterr().err
    captured = capsys.readouterr()
    assert shown in captured.out + captured.err
    assert contents(here / "runs").items() >= before.items()


def test_old_sweep_is_not_extended(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", "old", "sweep.num_seeds=2"]) == 2
    assert "an earlier version of Lathe began sweep 'old'" in capsys.readouterr().err


@pytest.mark.slow
def test_old_run_is_resumed(here: Path, lathe: Lathe) -> None:
    done = lathe("resume", INTERRUPTED, "num_data_workers=0")
    assert done.returncode == 0, done.stdout + done.stderr
    trial = Trial(here / "runs" / "single" / INTERRUPTED)
    assert [path.name for path in trial.attempts()] == ["1", "2"]
    states = [event for event in replay(trial.folder) if event["event"] == "state"]
    warnings = [event["reason"] for event in states if event["state"] == "running" and event["reason"]]
    assert all("an earlier version of Lathe recorded only its first examples" in warning for warning in warnings)
    changes = [event["state"] for event in states if event["reason"] not in warnings]
    assert changes == ["running", "interrupted", "running", "finished"]


@pytest.mark.slow
def test_shared_file_of_the_first_version_is_run(here: Path, lathe: Lathe) -> None:
    done = lathe("run", "--from", "shared.yaml", "tracking=off")
    assert done.returncode == 0, done.stdout + done.stderr
    assert Trial(here / "runs" / "single" / f"{FINISHED}-2").id == FINISHED
    assert "trial id" not in done.stderr


@pytest.mark.slow
def test_old_runs_are_synced(here: Path, lathe: Lathe) -> None:
    for name in (FINISHED, INTERRUPTED):
        path = here / "runs" / "single" / name / "trial.yaml"
        config = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump({**config, "tracking": {**config["tracking"], "sync": "end"}}))
    done = lathe("sync", FINISHED, INTERRUPTED)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_old_sweep_is_resumed_by_workers_of_its_own_code(here: Path, lathe: Lathe) -> None:
    with tarfile.open(fileobj=io.BytesIO(old_code())) as archive:
        archive.extractall(here / "runs" / "old" / "code" / "packages", filter="data")
    (here / "runs" / "old" / "workers").mkdir()
    done = lathe("resume", "old")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (here / "runs" / "old" / "ledger.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["state"] == "finished"
    assert sum(json.loads(line)["event"] == "trial" for line in lines) == 3


@pytest.mark.slow
def test_old_run_is_reproduced_with_its_own_code(here: Path, lathe: Lathe) -> None:
    old_code()
    done = lathe("reproduce", FINISHED, "--runs-dir", str(here / "runs"), cwd=CHECKOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    repetition = here / "runs" / "single" / f"{FINISHED}-2"
    assert yaml.safe_load((repetition / "verdict.yaml").read_text())["verdict"] in ("identical", "within tolerance")


GROUPS = {
    "launchers": ["launcher=slurm", "hardware=h100_8"], "parallel": ["parallel=async"], "skip_grams": ["data=text8"],
    "image_folder": ["data=imagenet"], "image_shards": ["data=imagenet_shards"],
    "noise_contrastive": ["objective=noise_contrastive"], "translation": ["evaluator=translation"],
    "accuracy": ["evaluator=accuracy"],
}  # fmt: skip
OLD_KEYS = [
    ([f"{key}=1"], old, new)
    for section, names in renamed.SECTIONS.items()
    for old, new in names.items()
    for key in [f"{section}.{old}".lstrip(".")]
] + [
    ([*next(words for part, words in GROUPS.items() if part in target), f"{group}.{old}=1"], old, new)
    for target, names in renamed.ARGUMENTS.items()
    for group in ["launcher" if target.startswith("launchers") else target.split(".")[1]]
    for old, new in names.items()
]


@pytest.mark.parametrize(("overrides", "old", "new"), OLD_KEYS, ids=lambda value: str(value))
@pytest.mark.parametrize("place", ["override", "experiment"])
def test_old_key_is_refused_with_the_new_one(
    overrides: list[str], old: str, new: str, place: str, tmp_path: Path
) -> None:
    *choices, setting = overrides
    if setting.startswith("hardware.slurm"):
        choices = ["hardware=h100_8"]
    if place == "experiment":
        (tmp_path / "experiment").mkdir()
        node: object = 1
        for name in reversed(setting.removesuffix("=1").split(".")):
            node = {name: node}
        text = yaml.safe_dump(node)
        (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}")
        choices, setting = [*choices, "experiment=mine"], ""
    with pytest.raises(InputError) as err:
        compose([*choices, *filter(None, [setting])], config_dirs=[tmp_path])
    found = [problem for problem in err.value.problems if f"{old!r}; it is now called {new!r}" in problem]
    assert found, err.value.problems
    assert not [problem for problem in err.value.problems if f".{new} is missing" in problem]
    assert place == "override" or "mine.yaml:" in found[0]


OLD_OPTIONS = [(group, old, new) for group, names in renamed.OPTIONS.items() for old, new in names.items()]


@pytest.mark.parametrize(("group", "old", "new"), OLD_OPTIONS)
def test_old_option_is_refused_with_the_new_one(group: str, old: str, new: str, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        f"# @package _global_\ndefaults:\n  - override /{group}: {old}\n  - _self_\n"
    )
    for override in (f"{group}={old}", "experiment=mine"):
        with pytest.raises(InputError, match=f"it is now called '{new}'"):
            compose([override], config_dirs=[tmp_path])


@pytest.mark.parametrize(("group", "old", "new"), OLD_OPTIONS)
def test_reproduce_refuses_an_old_option_with_the_new_one(
    here: Path, group: str, old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", FINISHED, f"{group}={old}"]) == 2
    assert f"{group}={old}: there is no such option; it is now called {new!r}" in capsys.readouterr().err


@pytest.mark.parametrize(("group", "old", "new"), OLD_OPTIONS)
def test_overrides_of_old_runs_name_the_new_option(group: str, old: str, new: str) -> None:
    overrides = [f"{group}={new}", "seed=3"]
    before = renamed.original_overrides(overrides, {})
    assert before == [f"{group}={old}", "seed=3"]
    assert renamed.upgrade_overrides(before, renamed.renames({})) == overrides


@pytest.mark.parametrize(
    ("old", "new"),
    [*renamed.experiment_options(), *((f"{old}=1", f"{new}=1") for old, new in renamed.experiment_keys())],
)
def test_overrides_of_an_unknown_configuration_get_the_first_names(old: str, new: str) -> None:
    assert renamed.original_overrides([new, "seed=3"]) == [old, "seed=3"]


@pytest.mark.parametrize(("old", "new"), list(renamed.sweep_keys()))
def test_old_sweep_key_is_refused_with_the_new_one(
    old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "lr_batch", f"{old}=3"]) == 2
    assert f"{old} is now called {new}" in capsys.readouterr().err
    node: object = 3
    for name in reversed(old.removeprefix("sweep.").split(".")):
        node = {name: node}
    Path("mine.yaml").write_text(yaml.safe_dump({"space": {"optimizer.lr": [0.1, 0.2]}, **dict(node)}))  # type: ignore[call-overload]
    assert main(["sweep", "mine.yaml"]) == 2
    assert f"it is now called {new.rpartition('.')[2]!r}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("condition", "new"),
    [
        *((f"state={old}", new) for old, new in renamed.STATES.items()),
        ("verdict=stopped", "interrupted"),
        *((f"{old}>0", new) for old, new in renamed.METRICS.items()),
        *((f"min:{old}>0", new) for old, new in renamed.METRICS.items()),
        *((f"{old}0>0", f"{new}0") for old, new in renamed.METRIC_PREFIXES.items()),
        # `note` is now what `lathe note` writes.
        *((f"{old}>0", new) for old, new in dict(renamed.experiment_keys()).items() if old != "note"),
    ],
)
def test_old_name_in_a_condition_is_refused_with_the_new_one(
    here: Path, condition: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ls", condition]) == 2
    assert f"{new}'" in capsys.readouterr().err
    if not condition.startswith(("state", "verdict")):
        assert main(["ls", "--sort", f"-{condition.removesuffix('>0')}"]) == 2
        assert f"{new}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("selector", "new"),
    [
        ("waiting", "pending"),
        ("evaluator.num_shown=2", "evaluator.top_k_shown"),
        ("num_shown=2", "evaluator.top_k_shown"),
    ],
)
def test_old_name_of_a_trial_is_refused_with_the_new_one(
    here: Path, selector: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cancel", "old", selector]) == 2
    assert (
        f"it is now called '{'' if '.' in new or new == 'pending' else 'evaluator.'}{new}'" in capsys.readouterr().err
    )


def test_rehearse_is_an_alias_of_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rehearse", "status", "--dir", str(tmp_path / "none")]) == main(
        ["cluster", "status", "--dir", str(tmp_path / "none")]
    )
    assert capsys.readouterr().err.count("`lathe rehearse` is now called `lathe cluster`") == 1
