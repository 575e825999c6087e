"""One rank of a worker under SLURM: `srun ... python -P -m launchers.slurm_tasks.task ... SWEEP` finds its seat.

Imports nothing beyond the standard library, so that the worker is soon there; which runs in the same process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import runpy
import socket
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from launchers.base import WRONG_INPUT, RankPlacement

LOOPBACK = "127.0.0.1"


class PlacementError(Exception):
    """What SLURM gave this process is not what was asked for."""


@dataclass(frozen=True)
class Order:
    """What every rank of a worker is told alike."""

    folder: str
    """The sweep's."""
    per_node: int
    """Ranks of one trial on a node, one a device."""
    devices: int
    """Of a node."""
    device: str
    """auto, cpu or cuda."""
    lead_s: float
    ends: str = ""
    """When the job ends, as SLURM writes it: seconds since 1970, or local date and time; "" or anything else: unknown."""
    threads: int | None = None
    module: str = "experiments.sweep.worker.worker"
    """What runs in the seat."""

    @property
    def spans(self) -> bool:
        """Whether a crew takes all nodes; a trial of part of a node's devices stays on one."""
        return self.per_node == self.devices


@dataclass(frozen=True)
class TaskPlacement:
    """Where SLURM put a process."""

    job: str
    """As squeue writes it: ``1234_5`` in an array."""
    restart: int
    node: int
    """Number of the node within the job, and of the process within the node."""
    on_node: int
    per_node: int
    """Processes of this job on the node."""
    nodes: tuple[str, ...]
    """Their names."""
    cpus_per_task: int | None
    cpus_on_node: int | None
    """Of this job."""

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> TaskPlacement:
        """
        Raises:
            SeatError: this is no task of srun.
        """
        try:
            array, job = environ.get("SLURM_ARRAY_JOB_ID"), environ["SLURM_JOB_ID"]
            return cls(
                job=f"{array}_{environ['SLURM_ARRAY_TASK_ID']}" if array else job,
                restart=int(environ.get("SLURM_RESTART_COUNT") or 0),
                node=int(environ["SLURM_NODEID"]),
                on_node=int(environ["SLURM_LOCALID"]),
                per_node=_counts(environ["SLURM_STEP_TASKS_PER_NODE"])[int(environ["SLURM_NODEID"])],
                nodes=tuple(hosts(environ["SLURM_STEP_NODELIST"])),
                cpus_per_task=_number(environ.get("SLURM_CPUS_PER_TASK")),
                cpus_on_node=_number(environ.get("SLURM_CPUS_ON_NODE")),
            )
        except (KeyError, ValueError, IndexError) as err:
            why = f"{err} is missing" if isinstance(err, KeyError) else f"they hold {err}"
            raise PlacementError(f"this is no task of srun by the variables SLURM_*: {why}; start it by srun") from err


def find_placement(
    order: Order, environ: Mapping[str, str], cpus: Collection[int]
) -> tuple[RankPlacement, dict[str, str]]:
    """The seat of this process, and what its environment needs.

    Args:
        order: what the batch script says.
        environ: of a task of srun.
        cpus: the cores that this process may use now.

    Raises:
        SeatError: it is no such task, or SLURM gave it fewer GPUs than it needs.
    """
    place, size = TaskPlacement.of(environ), order.per_node
    crew, rank = place.on_node // size, place.on_node % size
    if order.spans:
        rank += place.node * size
    else:
        crew += place.node * (place.per_node // size)
    is_alone = len(place.nodes) == 1 or not order.spans
    own = cores_of(place, cpus)
    seat = RankPlacement(
        worker=f"{place.job}.{place.restart}",
        crew=crew,
        rank=rank,
        on_node=place.on_node % size,
        per_node=size,
        ranks=size if is_alone else size * len(place.nodes),
        address=LOOPBACK if is_alone else place.nodes[0],
        cpus=own,
        threads=order.threads or (len(own) if own else place.cpus_per_task),
        job=place.job,
        ends=moment(order.ends),
        lead_s=order.lead_s,
    )
    quiet = environ.get("TORCH_CPP_LOG_LEVEL", "ERROR")
    changes = {"OMP_WAIT_POLICY": "passive", "TORCH_CPP_LOG_LEVEL": quiet}  # as `launchers.processes.process` says
    if seat.threads is not None:
        changes["OMP_NUM_THREADS"] = str(seat.threads)
    if is_alone:  # ranks of one machine talk inside it, whatever its host name resolves to
        changes["GLOO_SOCKET_IFNAME"] = environ.get("GLOO_SOCKET_IFNAME", "lo")
    gpu = _gpu_of(order, place, environ)
    return seat, changes if gpu is None else {**changes, "CUDA_VISIBLE_DEVICES": gpu}


def _gpu_of(order: Order, place: TaskPlacement, environ: Mapping[str, str]) -> str | None:
    """The one of this node's allocated GPUs that is the rank's own; crews beyond the devices share them in turn."""
    given = [gpu for gpu in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu and gpu != "NoDevFiles"]
    index = place.on_node // order.per_node % (order.devices // order.per_node) * order.per_node
    index += place.on_node % order.per_node
    if index < len(given):
        return given[index]
    if order.device == "cuda":
        raise PlacementError(
            f"hardware.devices_per_node={order.devices}, but slurm gave this node {len(given)} GPUs "
            f"(CUDA_VISIBLE_DEVICES={','.join(given) or 'is empty'}); see hardware.slurm.gpu_type and gres"
        )
    return None


def cores_of(place: TaskPlacement, cpus: Collection[int]) -> tuple[int, ...] | None:
    """This process's own cores; None where it has them already, or the scheduler does not say which are the job's.

    Where the job is confined to its cores, but not each task to its own, they are split among the tasks.
    """
    share = len(cpus) // place.per_node
    allocated = place.cpus_on_node or 0
    if place.per_node == 1 or share == 0 or not share < len(cpus) <= allocated:
        return None
    if place.cpus_per_task is not None and len(cpus) <= place.cpus_per_task < allocated:
        return None  # bound by the scheduler
    return tuple(sorted(cpus)[place.on_node * share : (place.on_node + 1) * share])


def hosts(names: str) -> list[str]:
    """Names of nodes as SLURM writes them, one by one: ``gpu-a[01-03,07],login``.

    Raises:
        ValueError: it does not end where it should.
    """
    found: list[str] = []
    for part in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", names):
        expanded = [""]
        for text, numbers in re.findall(r"([^\[\]]+)|\[([^\]]*)\]", part):
            endings = _numbers(numbers) if numbers else [text]
            expanded = [f"{start}{ending}" for start in expanded for ending in endings]
        found += expanded
    if names.count("[") != names.count("]") or not found:
        raise ValueError(f"the list of nodes {names!r}")
    return found


def _numbers(text: str) -> list[str]:
    """``01-03,07`` one by one, as wide as they are written."""
    found: list[str] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += [f"{number:0{len(first)}d}" for number in range(int(first), int(last or first) + 1)]
    return found


def _counts(text: str) -> list[int]:
    """``2(x3),1`` one by one."""
    pairs = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(count) for count, times in pairs for _ in range(int(times or 1))]


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def moment(text: str) -> float | None:
    """Unix time of what SLURM calls the end of a job; None where it has none."""
    if text.isdecimal():
        return float(text)
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:  # NONE, N/A, Unknown, or nothing as squeue had no answer
        return None


def reachable(address: str, environ: Mapping[str, str]) -> str:
    """The address, or where its name means nothing here, that of the node which started the step, the job's first."""
    with contextlib.suppress(OSError):
        socket.getaddrinfo(address, None)
        return address
    return environ.get("SLURM_LAUNCH_NODE_IPADDR", address)


def parse(arguments: Sequence[str]) -> Order:
    parser = argparse.ArgumentParser(prog="launchers.slurm_tasks.task")
    parser.add_argument("folder")
    parser.add_argument("--per-node", type=int, required=True)
    parser.add_argument("--devices", type=int, required=True)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), required=True)
    parser.add_argument("--lead-s", type=float, required=True)
    parser.add_argument("--ends", default="")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--module", default="experiments.sweep.worker.worker")
    return Order(**vars(parser.parse_args(arguments)))


def main() -> int:
    """Sit down, and become the worker."""
    order = parse(sys.argv[1:])
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else frozenset(range(os.cpu_count() or 1))
    try:
        seat, changes = find_placement(order, os.environ, cpus)
    except PlacementError as err:
        print(f"SeatError: {err}", file=sys.stderr)
        return WRONG_INPUT
    told = {**asdict(seat), "address": reachable(seat.address, os.environ)}
    os.environ.update(changes, LATHE_SEAT=json.dumps(told))
    sys.argv = [order.module, order.folder]
    runpy.run_module(order.module, run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
