"""Runs git on a checkout of the user's own, whatever the environment and the user's settings say."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

TIMEOUT_S = 300
# No hook of the checkout's runs, and no setting of its owner's changes a file on the way.
SETTINGS = ("-c", "core.hooksPath=/dev/null", "-c", "advice.detachedHead=false", "-c", "core.fsmonitor=false")


class GitError(Exception):
    """Git says no; the message is its last line."""


def git(root: Path, *args: str, env: Mapping[str, str] | None = None, stdin: bytes = b"") -> bytes:
    """The output of a git command in a folder.

    Raises:
        GitError: it fails, does not end, or there is no git.
    """
    outer = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # as hooks set them
    command = ["git", *SETTINGS, "--literal-pathspecs", "-C", str(root), *args]
    try:
        # A session of its own: Ctrl-C shall not end it half way through.
        done = subprocess.run(
            command, env={**outer, **(env or {})}, input=stdin, capture_output=True, timeout=TIMEOUT_S, check=False,
            start_new_session=True,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as err:
        raise GitError(f"`git {args[0]}` could not be run: {err}") from err
    if done.returncode != 0:
        told = done.stderr.decode(errors="replace").strip().splitlines()
        raise GitError(told[-1] if told else f"`git {args[0]}` ended with {done.returncode}")
    return done.stdout


def has_commit(root: Path, sha: str) -> bool:
    return _is_so(root, "cat-file", "-e", f"{sha}^{{commit}}")


def is_merged(root: Path, sha: str) -> bool:
    """Whether a commit is the one that is checked out, or one that it comes from."""
    return _is_so(root, "merge-base", "--is-ancestor", sha, "HEAD")


def _is_so(root: Path, *args: str) -> bool:
    try:
        git(root, *args)
    except GitError:
        return False
    return True
