"""Runs of other users are used only with `--trust-code`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from experiments.cli.main import main
from experiments.trial.own_runs import check_own, describe_foreign, remember_runs_dir
from tests.support.stores import make_run, start_attempt


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was unpacked next to the user's folder of runs."""
    monkeypatch.setenv("LATHE_RUNS", str(tmp_path / "runs"))
    trial = make_run(tmp_path / "unpacked", hardware={"nodes": 1, "devices_per_node": 1})
    (trial.folder / "provenance.yaml").write_text("{trial_id: a1b2c3, code: [], overrides: []}\n")
    with start_attempt(trial):
        pass
    (tmp_path / "runs" / "single").mkdir(parents=True)
    return trial.folder


@pytest.mark.parametrize(
    "command", ["resume RUN", "reproduce RUN", "reproduce RUN/trial.yaml", "export RUN -o x", "sync RUN"]
)
def test_a_run_outside_of_the_folders_of_runs_needs_trust(
    command: str, foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command.replace("RUN", str(foreign)).split()) in (1, 2)
    assert "is not in one of your folders of runs" in capsys.readouterr().err
    check_own(foreign, Path("runs"), trust_code=True)


def test_own_runs_are_those_in_the_folders_that_the_user_names_or_used(foreign: Path, tmp_path: Path) -> None:
    runs_dir, unpacked = tmp_path / "runs", tmp_path / "unpacked"
    copied = Path(shutil.copytree(foreign, runs_dir / "single" / "a"))
    assert describe_foreign(copied, runs_dir) is None
    (runs_dir / "single" / "b").symlink_to(foreign)
    assert describe_foreign(runs_dir / "single" / "b", runs_dir) is not None
    assert describe_foreign(foreign, unpacked) is None
    remember_runs_dir(unpacked)
    remember_runs_dir(unpacked)
    assert describe_foreign(foreign, runs_dir) is None


@pytest.mark.parametrize("name", [".", "trial.yaml", "code", "code/deep/a.patch", "../sweep.yaml"])
def test_a_run_with_a_file_that_others_can_write_needs_trust(name: str, foreign: Path, tmp_path: Path) -> None:
    path = foreign / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix:
        path.touch()
    assert describe_foreign(foreign, tmp_path / "unpacked") is None
    path.chmod(0o777)  # as if it belonged to another user, which only root can arrange
    assert "may be written by every user" in str(describe_foreign(foreign, tmp_path / "unpacked"))
