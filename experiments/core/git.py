"""Runs git on a checkout, independent of the environment and of the user's settings."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

TIMEOUT_S = 300
READ_TIMEOUT_S = 60
"""For commands that only read, at the start of a run."""
# No hook of the checkout runs.
SETTINGS = ("-c", "core.hooksPath=/dev/null", "-c", "advice.detachedHead=false", "-c", "core.fsmonitor=false")


class GitError(Exception):
    """A git command failed; the message is git's last line."""

    def __init__(self, message: str, lines: Sequence[str] = ()) -> None:
        """
        Args:
            message: one line.
            lines: everything that git printed about it.
        """
        super().__init__(message)
        self.lines = list(lines) or [message]


def git(
    root: Path, *args: str, env: Mapping[str, str] | None = None, stdin: bytes = b"", timeout_s: float = TIMEOUT_S
) -> bytes:
    """Run a git command in a folder and return its output.

    Raises:
        GitError: the command fails or times out, or git is not installed.
    """
    outer = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # hooks set them
    outer |= {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    command = ["git", *SETTINGS, "--literal-pathspecs", "-C", str(root), *args]
    try:
        # In its own session, because Ctrl-C must not interrupt it.
        done = subprocess.run(
            command, env={**outer, **(env or {})}, input=stdin, capture_output=True, timeout=timeout_s, check=False,
            start_new_session=True,
        )  # fmt: skip
    except FileNotFoundError as err:
        raise GitError("git is not installed") from err
    except OSError as err:
        raise GitError(f"`git {args[0]}` could not be run: {err}") from err
    except subprocess.TimeoutExpired as err:
        raise GitError(f"`git {args[0]}` has not ended for {timeout_s:g} s") from err
    if done.returncode != 0:
        messages = done.stderr.decode(errors="replace").strip().splitlines()
        raise GitError(messages[-1] if messages else f"`git {args[0]}` ended with {done.returncode}", messages)
    return done.stdout


@lru_cache(maxsize=64)
def find_checkout(folder: Path) -> tuple[Path | None, str | None]:
    """The root of the checkout that contains a folder; or None, and why git refuses it, with the command that git suggests.

    Outside of git both are None.
    """
    try:
        top = os.fsdecode(git(folder, "rev-parse", "--show-toplevel", timeout_s=READ_TIMEOUT_S)).strip()
    except GitError as err:
        is_checkout = any(os.path.lexists(parent / ".git") for parent in (folder, *folder.parents))
        is_bare = "work tree" in str(err)
        return None, _explain(err, folder) if is_checkout or is_bare else None
    return Path(top).resolve(), None


def _explain(err: GitError, folder: Path) -> str:
    first, last = err.lines[0].removeprefix("fatal: "), err.lines[-1].strip()
    hint = f"see `git -C {shlex.quote(str(folder))} status`"
    if last.startswith("git config"):
        hint = f"if you trust that folder, run `{last}`"
    elif "not installed" in first:
        hint = "install git"
    return f"({first}); {hint}"


def has_commit(root: Path, sha: str) -> bool:
    return _succeeds(root, "cat-file", "-e", f"{sha}^{{commit}}")


def is_merged(root: Path, sha: str) -> bool:
    """Whether a commit is HEAD or an ancestor of HEAD."""
    return _succeeds(root, "merge-base", "--is-ancestor", sha, "HEAD")


def _succeeds(root: Path, *args: str) -> bool:
    try:
        git(root, *args)
    except GitError:
        return False
    return True
