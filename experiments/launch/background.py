"""Processes that outlive their command and its terminal."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TextIO

from experiments.run import journal
from experiments.trial.trial import Trial
from launchers.base import LaunchError, module_command

POLL_S = 0.1


def start_in_background(module: str, arguments: Sequence[str], log: TextIO) -> subprocess.Popen[bytes]:
    """Start a module of Lathe in a session of its own, which no closed terminal and no Ctrl-C ends.

    Args:
        module: its name in a checkout.
        arguments: of the module.
        log: gets the output.

    Raises:
        LaunchError: this machine cannot start another process.
    """
    command = [sys.executable, "-P", *module_command(module), *arguments]
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    except OSError as err:
        raise LaunchError(f"no process could be started: {err.strerror}; free memory or processes") from err


def wait_for_training(trial: Trial, process: subprocess.Popen[bytes], before: Collection[str]) -> Path | None:
    """Wait until a new attempt of a run trains, or the process that shall train it ends.

    Args:
        trial: the run.
        process: from `start_in_background`.
        before: names of the earlier attempts.

    Returns:
        The folder of the attempt that trains, or did; None if none has.
    """
    while True:
        has_ended = process.poll() is not None  # before the journal, which is complete then
        for attempt in trial.attempts():
            events = journal.read(attempt / "journal.jsonl")[0] if attempt.name not in before else ()
            if any(event["event"] == "state" and event["state"] == "running" for event in events):
                return attempt
        if has_ended:
            return None
        time.sleep(POLL_S)
