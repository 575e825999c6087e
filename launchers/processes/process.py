"""One process of `experiments.launch.training_process` on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys

from launchers.base import AttemptSpec, LaunchError

# Waiting OpenMP threads that spin starve each other on a busy machine: a step was seen to take 57 times as long.
# Where a connection is lost, torch's C++ warns with its frames; what was lost is told by us.
ENVIRONMENT = {"OMP_WAIT_POLICY": "passive", "TORCH_CPP_LOG_LEVEL": "ERROR"}
if sys.platform == "linux":  # ranks of one machine talk inside it, whatever its host name resolves to
    ENVIRONMENT["GLOO_SOCKET_IFNAME"] = "lo"


class Job:
    """One process of `experiments.launch.training_process`: it imports what a training needs, then waits to be told which.

    Its standard input stays open as long as the launching process lives; when that ends, the job saves and stops.
    """

    def __init__(self) -> None:
        command = [sys.executable, "-P", "-m", "experiments.launch.training_process"]
        # Blocked until it can answer them: a signal in its first 0.1 s would end it without a word.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            # A session of its own: Ctrl-C reaches the launching side alone, which passes it on once.
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, start_new_session=True, env=ENVIRONMENT | os.environ
            )
        except OSError as err:
            raise LaunchError(
                f"{' '.join(command)} could not be started: {err.strerror}; free memory or processes"
            ) from err
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def assign(self, assignment: AttemptSpec, rank: int = 0, meeting: str = "") -> None:
        """Tell it what to run.

        Args:
            assignment: the same for all ranks.
            rank: which of them it is.
            meeting: where the ranks meet, a URL; "" where there is only one.

        Raises:
            LaunchError: it has already ended, which means that an import failed.
        """
        order = {
            "folder": str(assignment.folder),
            "attempt": assignment.attempt,
            "trust": list(assignment.trust),
            "rank": {
                "number": rank,
                "on_node": rank,
                "per_node": assignment.ranks_per_node,
                "meeting": meeting,
            },
        }
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((json.dumps(order) + "\n").encode())
            self._process.stdin.flush()
        except BrokenPipeError as err:
            raise LaunchError(
                f"the job ended with code {self._process.wait()} before it began; what it printed stands above"
            ) from err

    def dismiss(self) -> None:
        """End it without a word."""
        self._process.kill()
        self._process.wait()
        self._close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        code = self._process.poll()
        if code is not None:
            self._close()
        return code

    def _close(self) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # what was left in the buffer
                self._process.stdin.close()

    def signal(self, number: int) -> None:
        if self._process.poll() is None:
            os.kill(self._process.pid, number)

    @property
    def failed_rank(self) -> int | None:
        return None
