"""Two days of a new user: from `lathe new` to a run that a colleague reproduces, each step in one command that works."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import Lathe
from tests.support.clones import commit, git
from tests.support.own_data import LANGUAGE, REGRESSION, write_photos, write_table, write_text

pytestmark = pytest.mark.slow

SHORT = ("max_steps=4", "batch_size_global=4", "tracking=off")
MOST_COMMANDS = 60


class User:
    """A person with an own home folder, who runs commands of Lathe in a checkout of the project."""

    def __init__(self, home: Path, lathe: Lathe, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self.command, self.monkeypatch, self.num_commands = home, lathe, monkeypatch, 0
        home.mkdir()

    def lathe(self, *words: str, cwd: Path | None = None, code: int = 0) -> str:
        """The output of one command, which must end with this exit code."""
        for name, value in {"HOME": "", "XDG_CONFIG_HOME": "config", "XDG_STATE_HOME": "state"}.items():
            self.monkeypatch.setenv(name, str(self.home / value))
        for name in ("LATHE_RUNS", "LATHE_DATA", "LATHE_SWEEPS", "PYTHONPATH"):
            self.monkeypatch.delenv(name, raising=False)
        self.num_commands += 1
        done = self.command(*words, cwd=cwd or self.home / "lab")
        assert done.returncode == code, f"lathe {' '.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def run(self, *words: str) -> str:
        """Train; returns the id of the run."""
        named = re.search(r"^run (\S+) of", self.lathe("run", *words), re.MULTILINE)
        assert named is not None
        return named.group(1)


def test_from_a_new_project_to_a_reproduced_run(
    tmp_path: Path, lathe: Lathe, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add_store(runs_dir: Path) -> None:
        runs_dir.mkdir()
        shutil.copy(empty_store, runs_dir / "mlflow.db")  # creating it takes seconds

    she, he = (User(tmp_path / name, lathe, monkeypatch) for name in ("she", "he"))
    she.lathe("new", "lab", cwd=she.home)
    lab = she.home / "lab"
    git(lab, "init", "-q")
    commit(lab, "New project")
    she.lathe("trust", ".")
    assert "2 ok" in she.lathe("check")
    add_store(lab / "runs")

    assert "whole number" in she.lathe("options", "model.width")
    she.lathe("plan", "experiment=spirals")
    assert "model.width=8  (the command line)" in she.lathe(
        "plan", "--cfg", "origins", "experiment=spirals", "model.width=8"
    )
    first = she.run("experiment=spirals", "max_steps=20")
    second = she.run("experiment=spirals", "max_steps=20", "model.width=8", "tracking=off")
    assert {first, second} <= {*she.lathe("ls").split()}
    assert "spirals" in she.lathe("show", first)
    assert "model.width" in she.lathe("diff", first, second, code=1)  # they differ
    she.lathe("logs", first)
    she.lathe("evaluate", first, "data.noise_std=0.1", "--name", "noisy", "--here")

    (lab / "data").mkdir()
    write_table(lab / "data", 40), write_text(lab / "data"), write_photos(lab / "data", 5)
    photos = ("data=image_folder", "data.folder=pets", "data.image_size=8", "data.resize_size=9")
    she.lathe("data", "check", *photos)
    she.run(*photos, *SHORT)
    rents = ("data=csv", "data.path=houses.csv", "data.target=price", *REGRESSION)
    table = she.run(*rents, *SHORT)
    she.run("data=text", "data.path=book.txt", *LANGUAGE, *SHORT)
    assert "area" in she.lathe("predict", table, "data/houses.csv")

    assert "2/2 done" in she.lathe(
        "sweep", "width", "model.width=4,8", "sweep.num_seeds=1", *SHORT, "launcher.workers=1"
    )
    she.lathe("status", "width")
    she.lathe("report", "width")

    (lab / "lab" / "deep.py").write_text((lab / "lab" / "net.py").read_text().replace("class Net", "class Deep"))
    (lab / "conf/model/deep.yaml").write_text((lab / "conf/model/net.yaml").read_text().replace("net.Net", "deep.Deep"))
    assert "2 ok" in she.lathe("check", "model=deep")
    commit(lab, "A model of her own")
    mine = she.run("experiment=spirals", "model=deep", *SHORT)
    she.lathe("share", mine, "-o", "../mine.yaml")

    git(tmp_path, "clone", "-q", str(lab), str(he.home / "her_lab"))
    add_store(he.home / "her_lab" / "runs")
    he.lathe("trust", "her_lab", cwd=he.home)
    assert "bit for bit" in he.lathe("reproduce", str(she.home / "mine.yaml"), cwd=he.home / "her_lab")
    assert mine in he.lathe("ls", cwd=he.home / "her_lab")
    assert she.num_commands + he.num_commands < MOST_COMMANDS
