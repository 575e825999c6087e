"""One rank of a worker under SLURM: `srun ... python -P -m launchers.slurm_tasks.task ... SWEEP_FOLDER`.

It computes its placement from the variables that srun sets, then runs the worker in the same process. It imports only the
standard library, so the worker starts soon.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import runpy
import socket
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from launchers.base import PLACEMENT_VARIABLE, PREFIX, WORKER_MODULE, WRONG_INPUT, RankPlacement

LOOPBACK = "127.0.0.1"


class PlacementError(Exception):
    """The process is not a task of srun, or SLURM gave it less than the configuration asks for."""


@dataclass(frozen=True)
class TaskOptions:
    """The command line; the same for every rank of a worker."""

    folder: str
    """The sweep's."""
    per_node: int
    """Ranks of one trial on a node, one per device."""
    devices: int
    """Of a node."""
    device: str
    """auto, cpu or cuda."""
    lead_s: float
    """How long before the end of the job SLURM sends its signal."""
    ends: str = ""
    """When the job ends, as SLURM prints it: seconds since 1970, or local date and time. Other text means unknown."""
    threads: int | None = None
    module: str = WORKER_MODULE
    """The module to run."""
    trust: Sequence[str] = ()
    """Packages whose classes the trials may name."""

    @property
    def spans_nodes(self) -> bool:
        """Whether a rank group uses all nodes; a trial that uses only some devices of a node stays on one node."""
        return self.per_node == self.devices


@dataclass(frozen=True)
class SlurmTask:
    """Where SLURM put a process."""

    job: str
    """As squeue prints it: ``1234_5`` in an array."""
    restart: int
    node: int
    """Index of the node in the job."""
    local_id: int
    """Index of the process on its node."""
    num_local: int
    """Processes of this job on the node."""
    nodes: tuple[str, ...]
    """Their names."""
    cpus_per_task: int | None
    cpus_on_node: int | None
    """Of this job."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> SlurmTask:
        """
        Raises:
            PlacementError: srun did not start this process.
        """
        try:
            array, job = environ.get("SLURM_ARRAY_JOB_ID"), environ["SLURM_JOB_ID"]
            return cls(
                job=f"{array}_{environ['SLURM_ARRAY_TASK_ID']}" if array else job,
                restart=int(environ.get("SLURM_RESTART_COUNT") or 0),
                node=int(environ["SLURM_NODEID"]),
                local_id=int(environ["SLURM_LOCALID"]),
                num_local=_expand_counts(environ["SLURM_STEP_TASKS_PER_NODE"])[int(environ["SLURM_NODEID"])],
                nodes=tuple(expand_nodes(environ["SLURM_STEP_NODELIST"])),
                cpus_per_task=_parse_number(environ.get("SLURM_CPUS_PER_TASK")),
                cpus_on_node=_parse_number(environ.get("SLURM_CPUS_ON_NODE")),
            )
        except (KeyError, ValueError, IndexError) as err:
            why = f"{err} is missing" if isinstance(err, KeyError) else f"invalid value: {err}"
            raise PlacementError(
                f"the variables SLURM_* do not describe a task of srun: {why}; start this process with srun"
            ) from err


def find_placement(
    options: TaskOptions, environ: Mapping[str, str], cpus: Collection[int]
) -> tuple[RankPlacement, dict[str, str]]:
    """Return the placement of this process, and the environment variables to set.

    Args:
        options: from the batch script.
        environ: of a task of srun.
        cpus: the cores that this process may use now.

    Raises:
        PlacementError: srun did not start this process, or SLURM gave it fewer GPUs than it needs.
    """
    task, size = SlurmTask.from_environment(environ), options.per_node
    group, rank = task.local_id // size, task.local_id % size
    if options.spans_nodes:
        rank += task.node * size
    else:
        group += task.node * (task.num_local // size)
    is_on_one_node = len(task.nodes) == 1 or not options.spans_nodes
    cores = select_cores(task, cpus)
    placement = RankPlacement(
        worker=f"{task.job}.{task.restart}",
        group=group,
        rank=rank,
        local_rank=task.local_id % size,
        local_world_size=size,
        world_size=size if is_on_one_node else size * len(task.nodes),
        leader_address=LOOPBACK if is_on_one_node else task.nodes[0],
        cpus=cores,
        threads=options.threads or (len(cores) if cores else task.cpus_per_task),
        job=task.job,
        ends_at=parse_time(options.ends),
        signal_delay_s=options.lead_s,
    )
    log_level = environ.get("TORCH_CPP_LOG_LEVEL", "ERROR")
    changes = {"OMP_WAIT_POLICY": "passive", "TORCH_CPP_LOG_LEVEL": log_level}  # see `launchers.processes.process`
    if placement.threads is not None:
        changes["OMP_NUM_THREADS"] = str(placement.threads)
    if is_on_one_node:  # ranks of one machine use its loopback, whatever its host name resolves to
        changes |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    gpu = _select_gpu(options, task, environ)
    return placement, changes if gpu is None else {**changes, "CUDA_VISIBLE_DEVICES": gpu}


def _select_gpu(options: TaskOptions, task: SlurmTask, environ: Mapping[str, str]) -> str | None:
    """Return this rank's GPU among those that the job has on this node; with more groups than devices, groups share them."""
    allocated = [gpu for gpu in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu and gpu != "NoDevFiles"]
    index = task.local_id // options.per_node % (options.devices // options.per_node) * options.per_node
    index += task.local_id % options.per_node
    if index < len(allocated):
        return allocated[index]
    if options.device == "cuda":
        raise PlacementError(
            f"hardware.devices_per_node={options.devices}, but slurm gave this node {len(allocated)} GPUs "
            f"(CUDA_VISIBLE_DEVICES={','.join(allocated) or 'is empty'}); see hardware.slurm.gpu_type and gres"
        )
    return None


def select_cores(task: SlurmTask, cpus: Collection[int]) -> tuple[int, ...] | None:
    """Return this process's own cores; None if it is already bound to them, or if the cores of the job are not known.

    If SLURM confines the job to its cores, but not each task to its own, the tasks split the cores.
    """
    num_cores = len(cpus) // task.num_local
    allocated = task.cpus_on_node or 0
    if task.num_local == 1 or num_cores == 0 or not num_cores < len(cpus) <= allocated:
        return None
    if task.cpus_per_task is not None and len(cpus) <= task.cpus_per_task < allocated:
        return None  # SLURM has bound the task
    return tuple(sorted(cpus)[task.local_id * num_cores : (task.local_id + 1) * num_cores])


def expand_nodes(text: str) -> list[str]:
    """Expand SLURM's list of node names, such as ``gpu-a[01-03,07],login``.

    Raises:
        ValueError: the list is empty or malformed.
    """
    names: list[str] = []
    for part in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", text):
        expanded = [""]
        for literal, numbers in re.findall(r"([^\[\]]+)|\[([^\]]*)\]", part):
            endings = _expand_numbers(numbers) if numbers else [literal]
            expanded = [f"{start}{ending}" for start in expanded for ending in endings]
        names += expanded
    if text.count("[") != text.count("]") or not names:
        raise ValueError(f"the list of nodes {text!r}")
    return names


def _expand_numbers(text: str) -> list[str]:
    """Expand ``01-03,07``; leading zeros are preserved."""
    numbers: list[str] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers += [f"{number:0{len(first)}d}" for number in range(int(first), int(last or first) + 1)]
    return numbers


def _expand_counts(text: str) -> list[int]:
    """Expand ``2(x3),1`` to 2, 2, 2, 1."""
    pairs = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(count) for count, times in pairs for _ in range(int(times or 1))]


def _parse_number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def parse_time(text: str) -> float | None:
    """Return the Unix time of SLURM's text for the end of a job, its last line; None if the job has no end."""
    text = (text.strip().splitlines() or [""])[-1].strip()
    if text.isdecimal():
        return float(text)
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:  # NONE, N/A, Unknown, or nothing because squeue did not answer
        return None


def resolve_address(address: str, environ: Mapping[str, str]) -> str:
    """Return the address; if its name does not resolve here, the IP address of the node that started the step."""
    with contextlib.suppress(OSError):
        socket.getaddrinfo(address, None)
        return address
    return environ.get("SLURM_LAUNCH_NODE_IPADDR", address)


def parse_options(arguments: Sequence[str]) -> TaskOptions:
    # A new batch script may start a task of an older sweep, which runs its own copy of this code: keep the options.
    parser = argparse.ArgumentParser(prog="launchers.slurm_tasks.task")
    parser.add_argument("folder")
    parser.add_argument("--per-node", type=int, required=True)
    parser.add_argument("--devices", type=int, required=True)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), required=True)
    parser.add_argument("--lead-s", type=float, required=True)
    parser.add_argument("--ends", default="")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--module", default=WORKER_MODULE)
    parser.add_argument("--trust", action="append", default=[])
    options = vars(parser.parse_args(arguments))
    return TaskOptions(**{**options, "trust": tuple(options["trust"])})


def main() -> int:
    """Find the placement of this process, then run the worker."""
    options = parse_options(sys.argv[1:])
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else frozenset(range(os.cpu_count() or 1))
    try:
        placement, changes = find_placement(options, os.environ, cpus)
    except PlacementError as err:
        print(f"PlacementError: {err}", file=sys.stderr)
        return WRONG_INPUT
    placement = replace(placement, leader_address=resolve_address(placement.leader_address, os.environ))
    os.environ.update(changes, **{PLACEMENT_VARIABLE: placement.to_json()})
    sys.argv = [options.module, options.folder, *(f"--trust={package}" for package in options.trust)]
    runpy.run_module(f"{PREFIX}{options.module}", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
