"""Why SLURM does not take a job, in the words of the configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from launchers.base import WorkerPool

KNOWN: tuple[tuple[str, str], ...] = (
    (
        r"invalid partition",
        "unknown partition {partition} (hardware.slurm.partition); `sinfo -s` lists the known ones",
    ),
    (
        r"invalid account",
        "account {account} is unknown, or may not use partition {partition} (hardware.slurm.account); "
        "`sacctmgr show associations user=$USER format=account,partition,qos` lists what you have",
    ),
    (
        r"invalid qos",
        "QOS {qos} is unknown, or not yours (hardware.slurm.qos); "
        "`sacctmgr show associations user=$USER format=account,partition,qos` lists what you have",
    ),
    (
        r"invalid feature",
        "no node has the features {constraint} (hardware.slurm.constraint); `sinfo -o '%P %f'` lists what nodes have",
    ),
    (
        r"generic resource|gres",
        "unknown generic resource {gres} (hardware.slurm.gpu_type or gres); `sinfo -o '%P %G'` lists what nodes have",
    ),
    (
        r"time limit is invalid|--time",
        "time {time} is more than partition {partition} allows (hardware.slurm.time); `sinfo -o '%P %l'` lists the limits",
    ),
    (
        r"job array",
        "an array of {workers} workers is larger than this site takes (launcher.workers); "
        "`scontrol show config | grep MaxArraySize` tells its limit",
    ),
    (
        r"node count|nodes required",
        "{nodes} nodes a worker are more than partition {partition} has (hardware.nodes); `sinfo -s` lists what it has",
    ),
    (
        r"more processors|cpu count",
        "{nodes} nodes of {cpus} cores are more than partition {partition} has (hardware.nodes, "
        "hardware.slurm.cpus_per_device); `sinfo -o '%P %D %c'` lists what it has",
    ),
    (
        r"memory|--mem",
        "{mem_gb:g} GB on a node are more than partition {partition} has (hardware.slurm.mem_gb_per_device); "
        "`sinfo -o '%P %m'` lists what nodes have, in MB",
    ),
    (
        r"node configuration is not available",
        "no node of partition {partition} has {cpus} cores, {mem_gb:g} GB{and_gres}{and_constraint} at once "
        "(hardware.slurm, hardware.devices_per_node); `sinfo -o '%P %D %c %m %G %f'` lists what nodes have",
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
        "{said} (hardware.slurm.sbatch); `sbatch --help` lists the options",
    ),
)
"""What is looked for in the words of sbatch, and what is said instead; the first that fits counts."""
UNREACHED = re.compile(
    r"unable to contact|configuration source|process configuration|cannot stat file|timed out|has not answered"
    r"|connection (refused|failure)|zero bytes|communication",
    re.IGNORECASE,
)


def explain(pool: WorkerPool, workers: int, said: str) -> str:
    """The line for a user.

    Args:
        pool: what was asked for.
        workers: in how many tasks.
        said: what sbatch wrote.
    """
    assert pool.slurm is not None
    lines = [re.sub(r"^(sbatch: )?(error: |fatal: )?", "", line.strip()) for line in said.splitlines() if line.strip()]
    whole = " ".join(lines)
    last = re.sub(r"^(allocation failure|Batch job submission failed): ", "", lines[-1]) if lines else "no reason"
    if UNREACHED.search(whole):
        way_out = f"`scontrol ping` tells whether it is there, and `squeue --me -n '{pool.name}'` whether the job is"
        return f"slurm does not answer, so '{pool.name}' may not be submitted: {lines[0]}; {way_out}"
    for pattern, told in KNOWN:
        if re.search(pattern, whole, re.IGNORECASE):
            return f"slurm refused '{pool.name}': {told.format(**_names(pool, pool.slurm, workers), said=lines[0])}"
    return f"slurm refused '{pool.name}': {last} (hardware.slurm); `launcher.dry=true` shows what is asked for"


def _names(pool: WorkerPool, words: Mapping[str, Any], workers: int) -> dict[str, Any]:
    """What the lines name."""
    shown = {key: "by default" if words[key] is None else f"'{words[key]}'" for key in ("partition", "account", "qos")}
    gres = words["gres"] or ":".join(filter(None, ("gpu", words["gpu_type"], str(pool.devices_per_node))))
    has_gres = words["gres"] or words["gpu_type"] or pool.device != "cpu"
    return {
        **shown,
        "constraint": f"'{words['constraint']}'",
        "gres": f"'{gres}'",
        "time": words["time"],
        "workers": workers,
        "nodes": pool.nodes,
        "cpus": words["cpus_per_device"] * pool.devices_per_node,
        "mem_gb": words["mem_gb_per_device"] * pool.devices_per_node,
        "and_gres": f", {gres}" if has_gres else "",
        "and_constraint": f", {words['constraint']}" if words["constraint"] else "",
    }
