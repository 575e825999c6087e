"""Trials as processes of this machine."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import psutil

from launchers.base import AttemptSpec, Handle, LaunchError, RankPlacement, WorkerPool
from launchers.processes.process import ENVIRONMENT, Job
from launchers.processes.process_group import LocalRanks

MODULE = "experiments.sweep.worker.worker"


class Local:
    """Starts one attempt at once, a process a rank; or a pool of workers that share out this machine."""

    def __init__(
        self, workers: int | None = None, devices_per_trial: int | None = None, trials_per_device: int = 1
    ) -> None:
        """
        Args:
            workers: of a sweep, trials side by side; null: as many as devices, or cores, allow.
            devices_per_trial: of a sweep, devices that one trial takes; null: all that hardware states.
            trials_per_device: of a sweep, trials side by side on each device.
        """
        self.workers, self.devices_per_trial, self.trials_per_device = workers, devices_per_trial, trials_per_device
        self._warm: Job | None = None

    def warm(self) -> None:
        """Start a process that imports torch while the configuration is still being composed."""
        self._warm = Job()

    def dismiss(self) -> None:
        if self._warm is not None:
            self._warm.dismiss()
            self._warm = None

    def launch(self, assignment: AttemptSpec) -> Handle:
        if assignment.nodes > 1:
            raise LaunchError(
                f"launcher=local refused hardware.nodes={assignment.nodes}: it starts processes on this machine alone; "
                "set hardware.nodes=1"
            )
        job, self._warm = self._warm or Job(), None
        if assignment.ranks == 1:
            job.assign(assignment)
            return job
        return LocalRanks(job, assignment)

    def submit(self, pool: WorkerPool) -> str:
        """Start the workers in sessions of their own; they are known by the numbers of their processes."""
        pids: list[int] = []
        folder = pool.folder / "workers"
        folder.mkdir(exist_ok=True)
        for seat, devices in self._seats(pool):
            environment = {**ENVIRONMENT, **os.environ, "LATHE_SEAT": json.dumps(asdict(seat))}
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(pool.code), os.environ.get("PYTHONPATH")]))
            if devices is not None:
                environment["CUDA_VISIBLE_DEVICES"] = devices
            if seat.threads is not None:
                environment["OMP_NUM_THREADS"] = str(seat.threads)
            with (folder / f"{seat.worker}.txt").open("a") as log:
                pids.append(_start(pool.folder, environment, log.fileno()))
        return f"{socket.gethostname()}:{','.join(map(str, pids))}"

    def tasks(self, pool: WorkerPool) -> int:
        return len({seat.worker for seat, _ in self._seats(pool)})

    def describe(self, pool: WorkerPool) -> str:
        lines = [
            f"worker {seat.worker.rpartition('-')[2]}: rank {seat.rank} of {seat.ranks}"
            + (f", cores {','.join(map(str, seat.cpus))}" if seat.cpus else "")
            + (f", {seat.threads} threads" if seat.threads else "")
            + (f", devices {devices}" if devices is not None else "")
            for seat, devices in self._seats(pool)
        ]
        return "\n".join(lines)

    def _seats(self, pool: WorkerPool) -> Iterator[tuple[RankPlacement, str | None]]:
        """A seat for every process, and the devices that it sees; None where it has none of its own."""
        if pool.nodes > 1:
            raise LaunchError(
                f"launcher=local refused hardware.nodes={pool.nodes}: it starts processes on this machine alone; "
                "set hardware.nodes=1"
            )
        nonce, host = secrets.token_hex(3), socket.gethostname()
        cores = (
            sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
        )
        on_gpus = pool.device == "cuda" or (pool.device == "auto" and Path("/dev/nvidiactl").exists())
        # Of this process's own, where it sees not all.
        visible = (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(pool.devices_per_node)))).split(
            ","
        )
        ranks = pool.ranks_of_a_trial
        threads = pool.threads_per_rank or 1
        most = self.workers or (pool.crews if on_gpus else max(1, len(cores) // (threads * ranks)))
        crews = min(most, pool.workers * pool.crews)
        share = max(1, len(cores) // (crews * ranks))
        for crew in range(crews):
            for rank in range(ranks):
                place = crew * ranks + rank
                own = tuple(cores[(place * share + core) % len(cores)] for core in range(share))
                device = visible[place % len(visible)] if on_gpus else None
                seat = RankPlacement(
                    worker=f"{host}-{nonce}-{crew}", rank=rank, on_node=rank, per_node=ranks, ranks=ranks, cpus=own,
                    threads=pool.threads_per_rank or share,
                )  # fmt: skip
                yield seat, device

    def lost(self, workers: Sequence[str]) -> dict[str, str]:
        """Workers of this machine whose processes have gone."""
        host = socket.gethostname()
        own = [worker for worker in workers if worker.rpartition("-")[0].rpartition("-")[0] == host]
        if not own:
            return {}
        alive = {_worker_of(process) for process in psutil.process_iter()}
        return {worker: "its process has gone" for worker in own if worker not in alive}

    def waiting(self, jobs: Sequence[str]) -> int:
        return 0

    def cancel(self, jobs: Sequence[str]) -> None:
        for job in jobs:
            host, _, pids = job.rpartition(":")
            for pid in map(int, pids.split(",")) if host == socket.gethostname() else ():
                if psutil.pid_exists(pid) and _worker_of(psutil.Process(pid)) is not None:
                    os.kill(pid, signal.SIGTERM)


def _start(folder: Path, environment: dict[str, str], log: int) -> int:
    command = [sys.executable, "-P", "-m", MODULE, str(folder)]
    actions = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), *((os.POSIX_SPAWN_DUP2, log, to) for to in (1, 2))]
    try:
        return os.posix_spawn(sys.executable, command, environment, file_actions=actions, setsid=True)
    except OSError as err:
        raise LaunchError(
            f"{' '.join(command)} could not be started: {err.strerror}; free memory or processes"
        ) from err


def _worker_of(process: psutil.Process) -> str | None:
    """Name of the worker that a process is, by its environment; None where it is none."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE or MODULE not in process.cmdline():
            return None
        return str(json.loads(process.environ()["LATHE_SEAT"])["worker"])
    except (psutil.Error, KeyError, ValueError):
        return None
