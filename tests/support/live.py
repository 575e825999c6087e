"""Trainings in the background, for tests that kill, stop or starve them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from experiments.run import journal
from tests.support.preloaded import Preloaded
from tests.support.waiting import wait_until

T = TypeVar("T")


class Live:
    """Trainings as processes that go on while the test looks

    Args:
        folder: where they start.
        server: socket of the server that runs them in forks.
    """

    def __init__(self, folder: Path, server: Path) -> None:
        self.folder = folder
        self.popen: type[subprocess.Popen[str]] = Preloaded
        """`subprocess.Popen` if a test needs new interpreters; their imports take most of the time of a small run."""
        Preloaded.address = str(server)

    def start(self, *args: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start ``lathe ARGS``, its output in `out.txt` and `err.txt`."""
        with (self.folder / "out.txt").open("w") as out, (self.folder / "err.txt").open("w") as err:
            command = [sys.executable, "-P", "-m", "experiments.cli", *args]
            surroundings = {**os.environ, **(env or {})}
            return self.popen(
                command, cwd=self.folder, env=surroundings, stdin=subprocess.DEVNULL, stdout=out, stderr=err, text=True
            )

    def printed(self) -> str:
        return "".join(path.read_text() for path in (self.folder / "out.txt", self.folder / "err.txt") if path.exists())

    def run_folder(self) -> Path:
        """The only run's, once it is frozen."""
        return self.until(lambda: next((self.folder / "runs").glob("*/*/trial.yaml"), None)).parent

    def at_step(self, step: int, attempt: int = 1) -> int:
        """Wait until an attempt has done a step; the process id of its job."""
        path = self.run_folder() / "attempts" / str(attempt) / "journal.jsonl"

        def pid() -> int | None:
            events = journal.read(path)[0]
            states = [event["pid"] for event in events if event["event"] == "state"]
            steps = [event["step"] for event in events if event["event"] == "metrics"]
            return states[-1] if states and max(steps, default=0) >= step else None

        return self.until(pid)

    def processes(self) -> list[int]:
        """Those that run in the folder, zombies left out."""
        actual = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                if (place / "cwd").resolve() == self.folder and "\nState:\tZ" not in (place / "status").read_text():
                    actual.append(int(place.name))
            except OSError:  # it has ended meanwhile
                continue
        return actual

    def until(self, look: Callable[[], T | None]) -> T:
        """Wait for something; looks are so short apart that a step of a small training is not missed."""
        return wait_until(lambda: None if (seen := look()) is None else (seen,), self.printed, pause_s=0.001)[0]

    def until_nothing_runs(self) -> None:
        """Wait until every process in the folder has ended, those in the background too."""
        # A look at all processes takes milliseconds of the core that they need to end.
        wait_until(lambda: not self.processes(), self.printed)
