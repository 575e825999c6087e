"""Which files two states of the code differ by, uncommitted ones included; the checkout is left as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.results.compare.code_changes import changed_files
from experiments.trial.code_snapshot import take_snapshot
from experiments.trial.record import RunRecord
from tests.support.clones import commit, git

HOUSE = {"name": "lathe", "sha256": "0" * 64, "git_sha": None}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a package that is trusted by name."""
    root = tmp_path / "project"
    (root / "minepkg").mkdir(parents=True)
    git(root, "init", "-q")
    (root / "minepkg" / "__init__.py").write_text("")
    (root / "minepkg" / "net.py").write_text("a = 1\nb = 2\n")
    commit(root, "first")
    monkeypatch.syspath_prepend(str(root))
    return root


def record(project: Path, folder: Path) -> RunRecord:
    code: list[dict[str, Any]] = [HOUSE, take_snapshot(project, folder, [])]
    return RunRecord("r", "id", {}, code, {}, {}, code_folder=folder)


def test_files_of_commits_patches_and_archives_are_listed(project: Path, tmp_path: Path) -> None:
    one = record(project, tmp_path / "one")
    (project / "minepkg" / "net.py").write_text("a = 1\nb = 3\n")
    (project / "untracked.py").write_text("x\ny\n")
    (project / "run.sh").write_text("#!/bin/sh\n")
    (project / "run.sh").chmod(0o755)
    (project / "link").symlink_to("run.sh")
    other = record(project, tmp_path / "other")
    objects, before = git(project, "count-objects"), git(project, "status", "--porcelain")
    assert changed_files(one, other, ["minepkg"]) == [
        "4 files changed, 5 insertions(+), 1 deletion(-)",
        "link           | 1 +",
        "minepkg/net.py | 2 +-",
        "run.sh         | 1 +",
        "untracked.py   | 2 ++",
    ]
    assert (git(project, "count-objects"), git(project, "status", "--porcelain")) == (objects, before)
    commit(project, "second")
    # The same files in a commit: only the commit is another.
    assert changed_files(other, record(project, tmp_path / "third"), ["minepkg"]) == []
    assert changed_files(one, one, ["minepkg"]) == []


def test_a_checkout_with_a_missing_commit_is_left_out(project: Path, tmp_path: Path) -> None:
    one = record(project, tmp_path / "one")
    (project / "minepkg" / "net.py").write_text("a = 1\nb = 3\n")
    other = record(project, tmp_path / "other")
    (tmp_path / "other" / "project.patch").write_text("no patch\n")
    assert changed_files(one, other, ["minepkg"]) == []
    gone: list[dict[str, Any]] = [HOUSE, {"name": "project", "sha256": "1" * 64, "git_sha": "0123456789" * 4}]
    assert changed_files(one, RunRecord("r", "id", {}, gone, {}, {}), ["minepkg"]) == []
