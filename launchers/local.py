"""Trials as processes of this machine."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path

import psutil

from launchers.base import (
    PLACEMENT_VARIABLE,
    WORKER_MODULE,
    AttemptSpec,
    Handle,
    LaunchError,
    RankPlacement,
    WorkerPool,
    module_command,
)
from launchers.processes.process import TrainingProcess, make_rank_environment
from launchers.processes.process_group import LocalRanks

FIRST_MODULE = "experiments.worker"
"""The worker of the first version."""

NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")


class Local:
    """Runs one attempt, one process per rank; or the workers of a sweep, which share the cores and GPUs of this machine."""

    is_component = True

    def __init__(
        self, workers: int | None = None, devices_per_trial: int | None = None, trials_per_device: int = 1
    ) -> None:
        """
        Args:
            workers: trials of a sweep that run side by side; null: as many as there are devices or cores for.
            devices_per_trial: devices that one trial of a sweep uses; null: all that the hardware option states.
            trials_per_device: trials of a sweep that share one device.
        """
        self.workers, self.devices_per_trial, self.trials_per_device = workers, devices_per_trial, trials_per_device
        self._prestarted: TrainingProcess | None = None

    def prestart(self) -> None:
        """Start a process that imports torch while the configuration is still being composed."""
        self._prestarted = TrainingProcess()

    def discard(self) -> None:
        if self._prestarted is not None:
            self._prestarted.discard()
            self._prestarted = None

    def launch(self, spec: AttemptSpec) -> Handle:
        _refuse_nodes(spec.nodes)
        process, self._prestarted = self._prestarted or TrainingProcess(), None
        if spec.world_size == 1:
            process.assign(spec)
            return process
        return LocalRanks(process, spec)

    def submit(self, pool: WorkerPool) -> str:
        """Start each worker in its own session; the job name holds the process ids."""
        pids: list[int] = []
        folder = pool.folder / "workers"
        folder.mkdir(exist_ok=True)
        for placement, devices in self._place_ranks(pool):
            environment = {**make_rank_environment(), PLACEMENT_VARIABLE: placement.to_json()}
            environment["PYTHONPATH"] = os.pathsep.join(
                filter(None, [*map(str, pool.import_path), os.environ.get("PYTHONPATH")])
            )
            if devices is not None:
                environment["CUDA_VISIBLE_DEVICES"] = devices
            if placement.threads is not None:
                environment["OMP_NUM_THREADS"] = str(placement.threads)
            with (folder / f"{placement.worker}.txt").open("a", encoding="utf-8") as log:
                pids.append(_start(pool, environment, log.fileno()))
        return f"{socket.gethostname()}:{','.join(map(str, pids))}"

    def find_jobs(self, pool: WorkerPool) -> list[str]:
        """Return nothing: without a scheduler no worker waits, and a running one is in the ledger."""
        return []

    def count_workers(self, pool: WorkerPool) -> int:
        return len({placement.worker for placement, _ in self._place_ranks(pool)})

    def describe(self, pool: WorkerPool) -> str:
        lines = [
            f"worker {placement.worker.rpartition('-')[2]}: rank {placement.rank} of {placement.world_size}"
            + (f", cores {','.join(map(str, placement.cpus))}" if placement.cpus else "")
            + (f", {placement.threads} threads" if placement.threads else "")
            + (f", devices {devices}" if devices is not None else "")
            for placement, devices in self._place_ranks(pool)
        ]
        return "\n".join(lines)

    def _place_ranks(self, pool: WorkerPool) -> Iterator[tuple[RankPlacement, str | None]]:
        """Yield the placement of every process and the devices that it sees; None: it sees what this process sees."""
        _refuse_nodes(pool.nodes)
        nonce, host = secrets.token_hex(3), socket.gethostname()
        cores = (
            sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
        )
        world_size = pool.ranks_per_trial
        visible = _find_gpus(pool)
        on_gpus = bool(visible)
        threads = pool.threads_per_rank or 1
        most = self.workers or (pool.trials_per_worker if on_gpus else max(1, len(cores) // (threads * world_size)))
        num_groups = min(most, pool.max_workers * pool.trials_per_worker)
        num_cores = max(1, len(cores) // (num_groups * world_size))
        for group in range(num_groups):
            for rank in range(world_size):
                index = group * world_size + rank
                cpus = tuple(cores[(index * num_cores + core) % len(cores)] for core in range(num_cores))
                device = visible[index % len(visible)] if on_gpus else None
                placement = RankPlacement(
                    worker=f"{host}-{nonce}-{group}", rank=rank, local_rank=rank, local_world_size=world_size,
                    world_size=world_size, cpus=cpus, threads=pool.threads_per_rank or num_cores,
                )  # fmt: skip
                yield placement, device

    def find_lost(self, workers: Sequence[str]) -> dict[str, str]:
        """Return the workers of this machine whose processes have ended."""
        host = socket.gethostname()
        own = [worker for worker in workers if worker.rpartition("-")[0].rpartition("-")[0] == host]
        if not own:
            return {}
        alive = {_read_worker_name(process) for process in psutil.process_iter()}
        return {worker: "its process has ended" for worker in own if worker not in alive}

    def count_pending(self, jobs: Sequence[str]) -> int:
        return 0

    def cancel(self, jobs: Sequence[str]) -> None:
        for job in jobs:
            host, _, pids = job.rpartition(":")
            for pid in map(int, pids.split(",")) if host == socket.gethostname() else ():
                if psutil.pid_exists(pid) and _read_worker_name(psutil.Process(pid)) is not None:
                    os.kill(pid, signal.SIGTERM)


def _refuse_nodes(nodes: int) -> None:
    if nodes > 1:
        raise LaunchError(
            f"launcher=local refused hardware.nodes={nodes}: it starts processes on this machine only; "
            "set hardware.nodes=1"
        )


def _find_gpus(pool: WorkerPool) -> list[str]:
    """Return the GPUs for the ranks, as CUDA_VISIBLE_DEVICES names them; empty: they run on the CPU.

    Raises:
        LaunchError: this process sees fewer GPUs than the ranks of one trial need.
    """
    if pool.device == "cpu" or (pool.device == "auto" and not Path("/dev/nvidiactl").exists()):
        return []
    variable = os.environ.get("CUDA_VISIBLE_DEVICES")
    if variable is None:
        num_gpus = len(list(NVIDIA_GPUS.glob("*"))) or pool.devices_per_node  # unknown, for example in some containers
        names, shown_by = list(map(str, range(min(num_gpus, pool.devices_per_node)))), "this machine"
    else:
        names, shown_by = [name.strip() for name in variable.split(",")], f"CUDA_VISIBLE_DEVICES={variable}"
    # As CUDA reads it: devices behind the first name that is no device do not count.
    visible = list(takewhile(lambda name: name not in ("", "-1", "NoDevFiles"), names))
    if len(visible) >= pool.ranks_per_trial or (pool.device == "auto" and not visible):
        return visible
    raise LaunchError(
        f"{shown_by} shows {len(visible)} GPUs, and a trial needs {pool.ranks_per_trial}, one per rank; "
        "lower hardware.devices_per_node, or set hardware.device=cpu"
    )


def _start(pool: WorkerPool, environment: dict[str, str], log: int) -> int:
    module = pool.worker_module or FIRST_MODULE
    command = [sys.executable, "-P", *module_command(module, pool.code), str(pool.folder), *pool.trust_options]
    actions = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), *((os.POSIX_SPAWN_DUP2, log, to) for to in (1, 2))]
    try:
        return os.posix_spawn(sys.executable, command, environment, file_actions=actions, setsid=True)
    except OSError as err:
        raise LaunchError(
            f"{' '.join(command)} could not be started: {err.strerror}; free memory or processes"
        ) from err


def _read_worker_name(process: psutil.Process) -> str | None:
    """Return the name of the worker that a process runs, from its environment; None if it is not a worker."""
    try:
        modules = {WORKER_MODULE, FIRST_MODULE}
        if process.status() == psutil.STATUS_ZOMBIE or not modules & {*process.cmdline()}:
            return None
        return RankPlacement.from_json(process.environ()[PLACEMENT_VARIABLE]).worker
    except (psutil.Error, KeyError, TypeError, ValueError):
        return None
