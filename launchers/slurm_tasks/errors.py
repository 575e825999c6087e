"""Explains why SLURM refuses a job, naming the configuration keys at fault."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from launchers.base import WorkerPool

EXPLANATIONS: tuple[tuple[str, str], ...] = (
    (
        r"invalid partition",
        "unknown partition {partition} (hardware.slurm.partition); `sinfo -s` lists the partitions",
    ),
    (
        r"invalid account",
        "account {account} is unknown, or may not use partition {partition} (hardware.slurm.account); "
        "`sacctmgr show associations user=$USER format=account,partition,qos` lists yours",
    ),
    (
        r"invalid qos",
        "QOS {qos} is unknown, or you may not use it (hardware.slurm.qos); "
        "`sacctmgr show associations user=$USER format=account,partition,qos` lists yours",
    ),
    (
        r"invalid feature",
        "no node has the features {constraint} (hardware.slurm.constraint); `sinfo -o '%P %f'` lists the features of the nodes",
    ),
    (
        r"generic resource|gres",
        "unknown generic resource {gres} (hardware.slurm.gpu_type or gres); `sinfo -o '%P %G'` lists the resources of the nodes",
    ),
    (
        r"time limit is invalid|--time",
        "time {time} is more than partition {partition} allows (hardware.slurm.time); `sinfo -o '%P %l'` lists the limits",
    ),
    (
        r"job array",
        "an array of {workers} workers is larger than this site allows (launcher.workers); "
        "`scontrol show config | grep MaxArraySize` shows the limit",
    ),
    (
        r"node count|nodes required",
        "{nodes} nodes per worker are more than partition {partition} has (hardware.nodes); `sinfo -s` lists its nodes",
    ),
    (
        r"more processors|cpu count",
        "{nodes} nodes of {cpus} cores are more than partition {partition} has (hardware.nodes, "
        "hardware.slurm.cpus_per_device); `sinfo -o '%P %D %c'` lists its nodes and their cores",
    ),
    (
        r"memory|--mem",
        "{mem_gb:g} GB per node is more than partition {partition} has (hardware.slurm.mem_gb_per_device); "
        "`sinfo -o '%P %m'` lists the memory of the nodes in MB",
    ),
    (
        r"node configuration is not available",
        "no node of partition {partition} has {cpus} cores, {mem_gb:g} GB{and_gres}{and_constraint} at once "
        "(hardware.slurm, hardware.devices_per_node); `sinfo -o '%P %D %c %m %G %f'` lists the nodes",
    ),
    (
        r"qos.*(violat|limit)|violates accounting|association|policy",
        "the job is over a limit of account {account} or QOS {qos} (hardware.slurm.account, qos, time, launcher.workers); "
        "`sacctmgr show qos` and `sacctmgr show associations user=$USER` list them",
    ),
    (
        r"not permitted|access.*denied|permission denied",
        "you may not use partition {partition} with account {account} (hardware.slurm.partition, account); "
        "`scontrol show partition` lists who may",
    ),
    (
        r"unrecognized option|ambiguous|unknown option",
        "{output} (hardware.slurm.sbatch); `sbatch --help` lists the options",
    ),
)
"""Pattern in sbatch's output -> the message for the user; the first match counts."""
NO_ANSWER = re.compile(
    r"unable to contact|configuration source|process configuration|cannot stat file|timed out|has not answered"
    r"|connection (refused|failure)|zero bytes|communication",
    re.IGNORECASE,
)
PREFIX = re.compile(
    r"^(?:(?:sbatch|scancel): |error: |fatal: |allocation failure: |Batch job submission failed: )+", re.IGNORECASE
)


def find_errors(output: str) -> list[str]:
    """Return the lines in which one of SLURM's commands reports an error, without those that a site's wrapper adds."""
    return [line.strip() for line in output.splitlines() if PREFIX.match(line.strip())]


def explain(pool: WorkerPool, num_workers: int, output: str) -> str:
    """Return the error line for the user.

    Args:
        pool: was submitted.
        num_workers: number of array tasks.
        output: of sbatch on standard error.
    """
    assert pool.slurm is not None
    reported = find_errors(output) or [line.strip() for line in output.splitlines() if line.strip()]
    lines = [PREFIX.sub("", line) for line in reported] or ["no reason"]
    text, last = " ".join(lines), lines[-1]
    if NO_ANSWER.search(text):
        hint = (
            f"`scontrol ping` shows whether slurm is up, and `squeue --me -n '{pool.name}'` whether the job is queued"
        )
        return f"slurm does not answer, so '{pool.name}' may not be submitted: {lines[0]}; {hint}"
    for pattern, message in EXPLANATIONS:
        if re.search(pattern, text, re.IGNORECASE):
            return f"slurm refused '{pool.name}': {message.format(**_values(pool, pool.slurm, num_workers), output=lines[0])}"
    return f"slurm refused '{pool.name}': {last} (hardware.slurm); `launcher.dry_run=true` shows the batch script"


def _values(pool: WorkerPool, settings: Mapping[str, Any], num_workers: int) -> dict[str, Any]:
    """Return the values for the fields of the messages."""
    names = {
        key: "(the default)" if settings[key] is None else f"'{settings[key]}'"
        for key in ("partition", "account", "qos")
    }
    gres = settings["gres"] or ":".join(filter(None, ("gpu", settings["gpu_type"], str(pool.devices_per_node))))
    has_gres = settings["gres"] or settings["gpu_type"] or pool.device != "cpu"
    return {
        **names,
        "constraint": f"'{settings['constraint']}'",
        "gres": f"'{gres}'",
        "time": settings["time"],
        "workers": num_workers,
        "nodes": pool.nodes,
        "cpus": settings["cpus_per_device"] * pool.devices_per_node,
        "mem_gb": settings["mem_gb_per_device"] * pool.devices_per_node,
        "and_gres": f", {gres}" if has_gres else "",
        "and_constraint": f", {settings['constraint']}" if settings["constraint"] else "",
    }
