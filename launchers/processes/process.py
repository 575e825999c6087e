"""One training process on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys

from launchers.base import AttemptSpec, LaunchError, module_command
from launchers.processes.cleanup import clean_up, kill_tree

# Waiting OpenMP threads that spin starve each other on a busy machine: a step was seen to take 57 times as long.
# When a connection is lost, torch's C++ prints its stack; Lathe reports the lost rank itself.
DEFAULT_ENVIRONMENT = {"OMP_WAIT_POLICY": "passive", "TORCH_CPP_LOG_LEVEL": "ERROR"}
# Ranks of one machine use its loopback, whatever its host name resolves to and whatever the shell sets for other machines.
OWN_ENVIRONMENT = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}


def make_rank_environment() -> dict[str, str]:
    """Make the environment of a process that trains on this machine only."""
    return {**DEFAULT_ENVIRONMENT, **os.environ, **OWN_ENVIRONMENT}


class TrainingProcess:
    """One process of `experiments.launch.training_process`: it imports what a training needs, then waits for its assignment.

    Its standard input stays open as long as the launching process lives. When that ends, the training saves and stops.
    """

    def __init__(self) -> None:
        command = [sys.executable, "-P", *module_command("experiments.launch.training_process")]
        # Blocked until the process has its handlers: a signal in its first 0.1 s would end it without a report.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            # In its own session: Ctrl-C reaches only the launching side, which sends it on once.
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, start_new_session=True, env=make_rank_environment()
            )
        except OSError as err:
            raise LaunchError(
                f"{' '.join(command)} could not be started: {err.strerror}; free memory or processes"
            ) from err
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def assign(self, spec: AttemptSpec, rank: int = 0, rendezvous: str = "") -> None:
        """Send the process its attempt and rank.

        Args:
            spec: the same for all ranks.
            rank: number of this rank.
            rendezvous: rendezvous URL of the ranks; "" for a single rank.

        Raises:
            LaunchError: the process has already ended; an import failed.
        """
        assignment = {
            "folder": str(spec.folder),
            "attempt": spec.attempt,
            "trust": list(spec.trust),
            "rank": {
                "number": rank,
                "local_rank": rank,
                "local_world_size": spec.ranks_per_node,
                "rendezvous": rendezvous,
            },
        }
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((json.dumps(assignment) + "\n").encode())
            self._process.stdin.flush()
        except BrokenPipeError as err:
            raise LaunchError(
                f"the training process ended with code {self._process.wait()} before it started to train; see its output above"
            ) from err

    def discard(self) -> None:
        """Kill the process, which has no assignment yet."""
        self._process.kill()
        self._process.wait()
        self._close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        code = self._process.poll()
        if code is not None and self._process.stdin is not None and not self._process.stdin.closed:  # once
            self._close()
            clean_up(self._process.pid)
        return code

    def _close(self) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # raised for a line that is still in the buffer
                self._process.stdin.close()

    def signal(self, number: int) -> None:
        if self._process.poll() is not None:
            return
        if number == signal.SIGKILL:
            kill_tree(self._process.pid)
        else:
            os.kill(self._process.pid, number)

    @property
    def failed_rank(self) -> int | None:
        return None
