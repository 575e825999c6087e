"""Runs git on a checkout, independent of the environment and of the user's settings."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

TIMEOUT_S = 300
# No hook of the checkout runs.
SETTINGS = ("-c", "core.hooksPath=/dev/null", "-c", "advice.detachedHead=false", "-c", "core.fsmonitor=false")


class GitError(Exception):
    """A git command failed; the message is git's last line."""


def git(root: Path, *args: str, env: Mapping[str, str] | None = None, stdin: bytes = b"") -> bytes:
    """Run a git command in a folder and return its output.

    Raises:
        GitError: the command fails or times out, or git is not installed.
    """
    outer = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # hooks set them
    command = ["git", *SETTINGS, "--literal-pathspecs", "-C", str(root), *args]
    try:
        # In its own session, because Ctrl-C must not interrupt it.
        done = subprocess.run(
            command, env={**outer, **(env or {})}, input=stdin, capture_output=True, timeout=TIMEOUT_S, check=False,
            start_new_session=True,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as err:
        raise GitError(f"`git {args[0]}` could not be run: {err}") from err
    if done.returncode != 0:
        messages = done.stderr.decode(errors="replace").strip().splitlines()
        raise GitError(messages[-1] if messages else f"`git {args[0]}` ended with {done.returncode}")
    return done.stdout


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
