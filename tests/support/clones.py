"""Clones of this repository with the files of the working tree, which tests may edit, commit to and run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]
IDENTITY = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main")


def git(folder: Path, *args: str) -> str:
    """The output of a git command."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", *IDENTITY, "-C", str(folder), *args]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


@dataclass
class Clone:
    """A clone, its Python interpreter, and the folder where its commands run."""

    root: Path
    home: Path
    python: str = sys.executable
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(self, *args: str) -> list[str]:
        return [self.python, "-P", "-m", "experiments.cli", *args]

    def environment_variables(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.root), "LATHE_RUNS": "runs", **self.environment}

    def lathe(self, *args: str, code: int | None = 0, timeout_s: float = PATIENCE_S) -> str:
        """The output of a command of this clone, which must end with this exit code."""
        done = subprocess.run(
            self.command(*args), cwd=self.home, env=self.environment_variables(), stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout_s, check=False,
        )  # fmt: skip
        assert code is None or done.returncode == code, f"{args}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def runs(self) -> list[Path]:
        """Its run folders, oldest first."""
        return sorted(
            (path.parent for path in self.home.glob("runs/*/*/trial.yaml")), key=lambda path: path.stat().st_ctime
        )

    def worktrees(self) -> list[str]:
        return git(self.root, "worktree", "list").splitlines()


def clone(into: Path) -> Clone:
    """A new repository: the history of this one, and a commit with the files of the working tree."""
    root, home = into / "checkout", into / "home"
    home.mkdir(parents=True)
    git(into, "clone", "-q", "--shared", "--no-checkout", str(ROOT), str(root))
    names = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    commit(root, "the working tree")
    return Clone(root, home)


def commit(root: Path, message: str) -> str:
    """Commit all files of a checkout; returns the SHA."""
    git(root, "add", "--all")
    git(root, "commit", "-q", "--allow-empty", "--no-verify", "-m", message)
    return git(root, "rev-parse", "HEAD").strip()
