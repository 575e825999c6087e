"""The wheel, in an environment of its own, with a user's project whose packages have the names of Lathe's."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from experiments.core.files.packages import PACKAGES, PROJECT_ROOT
from tests.support.clones import commit, git
from tests.support.waiting import PATIENCE_S

backend = pytest.importorskip("hatchling.build", reason="hatchling is missing: pip install -e '.[dev]'")

NET = """
from experiments.sizes import SIZE
from lathe.modules.task.base import Loss
from modules.model.mlp import Base
from modules.task.base import Loss as TheSame
from torch import nn

assert Loss is TheSame


class Mine(Base):
    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(num_features, SIZE), nn.Linear(SIZE, num_classes))
"""
FILES = {
    "experiments/__init__.py": "",
    "experiments/sizes.py": "SIZE = 3\n",
    "launchers/__init__.py": "raise SystemExit('the launchers of the user are imported')\n",
    "modules/__init__.py": "",
    "modules/model/mlp.py": "from torch.nn import Sequential as Base\n",  # a module that Lathe has, too
    "modules/model/mine.py": NET,
    "myconf/model/mine.yaml": "_target_: modules.model.mine.Mine\n"
    "num_features: ${data.num_features}\nnum_classes: ${data.num_classes}\n",
    ".gitignore": "/runs/\n__pycache__/\n",
}
TRUST = ("--trust", "modules", "--trust", "experiments")
MINE = ("--config-dir", "myconf", *TRUST, "model=mine", "max_steps=2", "tracking=off", "launcher.workers=1")


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(PROJECT_ROOT)
    return tmp_path / str(backend.build_wheel(str(tmp_path)))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(tmp_path, "init", "-q", str(folder))
    commit(folder, "first")
    return folder


def install(wheel: Path, project: Path) -> Path:
    """Install the wheel into an environment in the project, which finds the dependencies of this one; returns `lathe`."""
    environment = project / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (packages,) = environment.glob("lib/*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    pip = [sys.executable, "-m", "pip", "-q", "--python", str(environment / "bin" / "python")]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True, timeout=PATIENCE_S)
    return environment / "bin" / "lathe"


@pytest.mark.slow
def test_the_wheel_trains_sweeps_shares_and_reproduces_beside_packages_of_the_same_names(
    wheel: Path, project: Path
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        sources = [archive.read(name).decode() for name in names if name.endswith(".py")]
    assert {re.sub(r"-.*", "", name.partition("/")[0]) for name in names} == {"lathe", "lathe_dl"}
    assert not [source for source in sources if re.search(rf"^\s*(from|import) ({'|'.join(PACKAGES)})\b", source, re.M)]

    command = install(wheel, project)

    def lathe(*args: str, cwd: Path = project) -> str:
        done = subprocess.run(
            [command, *args], cwd=cwd, text=True, timeout=PATIENCE_S, check=False, stdin=subprocess.DEVNULL,
            env={"PYTHONPATH": ".", "HOME": str(project.parent), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    assert "2/2 done" in lathe("run", "-m", *MINE, "optimizer.lr=0.1,0.01", "sweep.name=s")
    code = yaml.safe_load((project / "runs" / "s" / "provenance.yaml").read_text())["code"]
    assert [(entry["name"], entry["git_sha"] is None) for entry in code] == [("lathe", True), ("project", False)]
    (trial, _) = (project / "runs" / "s").glob("*/trial.yaml")
    lathe("share", trial.parent.name, "-o", "mine.yaml")
    assert "bit for bit" in lathe("reproduce", "mine.yaml", *TRUST)  # which trains as `lathe run` does

    lathe("new", "fresh")
    lathe("trust", "fresh")
    assert "2 ok" in lathe("check", cwd=project / "fresh")
