"""One person shares a run from her clone; another reproduces it in his clone, in another virtual environment."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from experiments.run.metrics import read_series
from tests.experiments.results.reproduce.test_reproduce import MODEL, OPTION, SMALL, verdict
from tests.support.clones import Clone, clone, commit, git
from tests.support.stores import sql

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hers(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return clone(tmp_path_factory.mktemp("hers"))


@pytest.fixture
def his(hers: Clone, tmp_path: Path) -> Clone:
    """His clone of her commits, with a commit, an environment and a home folder of his own."""
    root, home, venv = tmp_path / "lathe", tmp_path / "home", tmp_path / "venv"
    home.mkdir()
    git(tmp_path, "clone", "-q", "--shared", str(hers.root), str(root))
    readme = root / "README.md"
    readme.write_text(readme.read_text() + "his own\n")
    commit(root, "his own")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    packages = venv / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    # The packages of this environment; Python does not follow nested .pth files, so her checkout is not on his path.
    (packages / "installed.pth").write_text(f"{sysconfig.get_path('purelib')}\n{root}\n")
    return Clone(
        root, home, str(venv / "bin/python"), {"PYTHONPATH": "", "HOME": str(home), "XDG_CONFIG_HOME": str(home)}
    )


def test_a_shared_file_reproduces_a_run_of_committed_code(hers: Clone, his: Clone) -> None:
    hers.lathe("run", "model=softmax", *SMALL, "tracking=off")
    run, file = hers.runs()[-1], his.home / "softmax.yaml"
    hers.lathe("share", run.name, "-o", str(file))
    printed = his.lathe("reproduce", str(file))
    assert "restored at commit" in printed
    assert "identical: " in printed
    assert read_series(his.runs()[-1]) == read_series(run)
    assert verdict(his.runs()[-1])["reproduces"]["file"] == "softmax.yaml"
    assert len(his.worktrees()) == 1
    tags = dict(sql(his.home / "runs" / "mlflow.db", "select key, value from tags where key like 'lathe.%'"))
    assert (tags["lathe.verdict"], tags["lathe.reproduces"]) == ("identical", "softmax.yaml")


def test_uncommitted_code_in_an_archive_runs_only_if_it_is_trusted(hers: Clone, his: Clone) -> None:
    (hers.root / "modules/model/my_model.py").write_text(MODEL)
    (hers.root / "conf/model/my_model.yaml").write_text(OPTION)
    hers.lathe("run", "model=my_model", *SMALL, "tracking=off")
    run, file = hers.runs()[-1], his.home / "mine.tar.gz"
    hers.lathe("share", run.name, "--bundle", "-o", str(file))
    refused = his.lathe("reproduce", str(file), code=2)
    assert "modules.model.my_model" in refused
    assert "the uncommitted code in mine.tar.gz is not used; add --trust-code if you trust its sender" in refused
    assert his.runs() == []
    printed = his.lathe("reproduce", str(file), "--trust-code")
    assert "with its uncommitted changes; sha256" in printed
    assert "identical: " in printed
    assert read_series(his.runs()[-1]) == read_series(run)
    assert not (his.root / "modules/model/my_model.py").exists()
