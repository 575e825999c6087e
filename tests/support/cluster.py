"""Real SLURM clusters of this machine, for tests that submit to them, and take parts of them away."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from launchers.base import LaunchError
from launchers.local_cluster import daemons
from launchers.local_cluster.cluster import CONTROLLER, LocalCluster
from launchers.local_cluster.settings import default_folder, find_programs
from launchers.local_cluster.slurm_conf import Spec

T = TypeVar("T")
PATIENCE_S = 60.0


class Cluster(LocalCluster):
    """A rehearsal that can be hurt."""

    def __init__(self, folder: Path, spec: Spec) -> None:
        super().__init__(folder)
        self.shape = spec

    def boot(self) -> list[str]:
        """Start it, or what of it is missing."""
        return self.up(self.shape)

    def run(self, *command: str) -> str:
        """What one of SLURM's commands prints; it has to succeed."""
        done = subprocess.run(
            command, cwd=self.folder, env={**os.environ, **self.environment()}, stdin=subprocess.DEVNULL, text=True,
            capture_output=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def kill_controller(self) -> None:
        """As a crash would: SIGKILL, and nothing is saved."""
        self._kill(CONTROLLER)

    def start_controller(self) -> None:
        self.boot()

    def kill_node(self, name: str) -> None:
        """As a power cut would: the daemon, what keeps its jobs, and the jobs."""
        self._kill(f"slurmd-{name}")
        tasks, keepers = self.jobs(name)
        daemons.end([*keepers, *tasks], 0)

    def _kill(self, name: str) -> None:
        process = daemons.find(self.folder, name)
        assert process is not None, f"{name} is not alive"
        os.kill(process.pid, signal.SIGKILL)
        until(lambda: not process.is_alive())

    def processes(self) -> list[daemons.Process]:
        """Every process that belongs to it now: daemons, what they have started, and jobs."""
        alive = [process for process in daemons.recorded(self.folder).values() if process is not None]
        tasks, keepers = self.jobs()
        return [*{*alive, *daemons.offspring(alive, daemons.everything()), *tasks, *keepers}]


def until(look: Callable[[], T], why_not: Callable[[], object] = lambda: "") -> T:
    """Wait, within a bound that a machine under load keeps too, until something is so; what it is."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < deadline, f"nothing came in {PATIENCE_S} s: {why_not()}"
        time.sleep(0.05)
    return found


@contextmanager
def booted(spec: Spec) -> Iterator[Cluster]:
    """A cluster for as long as the context is open; the test is skipped where SLURM is not installed."""
    skip_without_slurm(accounting=spec.accounting)
    with short_folder() as folder:
        cluster = Cluster(folder, spec)
        try:
            cluster.boot()
            yield cluster
        finally:
            cluster.down()


@contextmanager
def short_folder() -> Iterator[Path]:
    """An empty folder for a cluster: pytest's own have names too long for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="lathe-test-", dir=default_folder().parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def skip_without_slurm(*, accounting: bool = False) -> None:
    try:
        find_programs(accounting)
    except LaunchError as err:
        pytest.skip(f"SLURM is not installed: {err}")
