"""Real SLURM clusters on this machine, for tests that submit jobs and end daemons and nodes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from launchers.base import LaunchError
from launchers.local_cluster import daemons
from launchers.local_cluster.cluster import CONTROLLER, LocalCluster
from launchers.local_cluster.settings import choose_default_folder, find_programs
from launchers.local_cluster.slurm_conf import ClusterSpec
from tests.support.waiting import PATIENCE_S, wait_until


class Cluster(LocalCluster):
    """A local cluster whose daemons and nodes a test can end."""

    def __init__(self, folder: Path, spec: ClusterSpec) -> None:
        super().__init__(folder)
        self.shape = spec

    def boot(self) -> list[str]:
        """Start the daemons that do not run."""
        return self.up(self.shape)

    def run(self, *command: str) -> str:
        """Return the output of one of SLURM's commands, which must succeed."""
        done = subprocess.run(
            command, cwd=self.folder, env={**os.environ, **self.environment()}, stdin=subprocess.DEVNULL, text=True,
            capture_output=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def kill_controller(self) -> None:
        """End the controller as a crash would: with SIGKILL, so it saves nothing."""
        self._kill(CONTROLLER)

    def start_controller(self) -> None:
        self.boot()

    def kill_node(self, name: str) -> None:
        """End a node as a power cut would: its daemon, the step daemons and the jobs."""
        self._kill(f"slurmd-{name}")
        tasks, step_daemons = self.jobs(name)
        daemons.terminate([*step_daemons, *tasks], 0)

    def _kill(self, name: str) -> None:
        process = daemons.find(self.folder, name)
        assert process is not None, f"{name} is not alive"
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: not process.is_alive())

    def processes(self) -> list[daemons.ProcessId]:
        """Return every process of the cluster: daemons, their children, and jobs."""
        alive = [process for process in daemons.find_all(self.folder).values() if process is not None]
        tasks, step_daemons = self.jobs()
        return [*{*alive, *daemons.find_descendants(alive, daemons.list_processes()), *tasks, *step_daemons}]


@contextmanager
def booted(spec: ClusterSpec) -> Iterator[Cluster]:
    """Boot a cluster for the time of the context; skip the test if SLURM is not installed."""
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
    """Create an empty folder for a cluster: the paths of pytest's folders are too long for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="lathe-test-", dir=choose_default_folder().parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def skip_without_slurm(*, accounting: bool = False) -> None:
    try:
        find_programs(accounting)
    except LaunchError as err:
        pytest.skip(f"SLURM is not installed: {err}")


def write_commands(folder: Path, **outputs: str) -> None:
    """Write stand-ins for SLURM's commands: shell lines by name."""
    for name, lines in outputs.items():
        (folder / name).write_text(f"#!/bin/sh\n{lines}\n")
        (folder / name).chmod(0o755)
