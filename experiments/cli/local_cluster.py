"""`lathe cluster`: starts, ends and shows a local SLURM cluster."""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from experiments.core.console import make_console
from experiments.core.errors import InputError
from experiments.core.files.paths import user_path
from launchers.local_cluster.cluster import ClusterStatus, LocalCluster, ShapeError
from launchers.local_cluster.settings import check_flags, choose_default_folder, flag_name, is_cluster_folder
from launchers.local_cluster.slurm_conf import ACCOUNT, QOS, ClusterSpec

MOST_JOBS = 20
_SUBJECT = "`lathe cluster`"


def cluster(args: argparse.Namespace) -> int:
    """Run the action of the command line.

    Raises:
        InputError: a flag is wrong, or belongs to another action.
        LaunchError: the cluster cannot be started or ended.
    """
    folder = choose_default_folder() if args.dir is None else Path(os.path.abspath(user_path(args.dir, "--dir")))
    flags = {field.name: value for field in fields(ClusterSpec) if (value := getattr(args, field.name)) is not None}
    if args.action == "up":
        return _up(LocalCluster(folder), flags)
    if flags:
        lines = [
            f"{flag_name(name)} is for `lathe cluster up`, not for `{args.action}`; leave it out" for name in flags
        ]
        raise InputError(lines, _SUBJECT)
    if args.dir is not None and os.path.exists(folder) and not is_cluster_folder(folder):
        raise InputError(
            [f"--dir {folder} is not the folder of a local cluster; use the folder that `lathe cluster up` printed"],
            _SUBJECT,
        )
    return {"down": _down, "status": _status}[args.action](LocalCluster(folder))


def _up(cluster: LocalCluster, flags: dict[str, Any]) -> int:
    running = cluster.spec()
    spec = replace(running or ClusterSpec(), **flags)
    problems = check_flags(cluster.folder, spec)
    if problems:
        raise InputError(problems, _SUBJECT)
    try:
        with make_console().status("starting SLURM"):
            started = cluster.up(spec)
    except ShapeError as err:
        raise InputError(err.problems, _SUBJECT) from err
    if running is not None:
        _say(f"restarted: {', '.join(started)}" if started else "the cluster is already running")
    _say(f"local cluster in {cluster.folder}: {spec}")
    for line in _list_instructions(cluster.folder, spec):
        _say(line)
    return 0


def _list_instructions(folder: Path, spec: ClusterSpec) -> list[str]:
    """Return how to use the cluster."""
    lines = [
        f"  . {folder}/env.sh",
        "Run this line in your shell. SLURM's commands and `lathe run launcher=slurm hardware=local_cluster` then use it.",
        "partitions: main (the default) and high. Jobs of high preempt jobs of main, 10 s after a signal.",
    ]
    if spec.gpus:
        lines.append("GPUs are simulated: jobs see them as CUDA_VISIBLE_DEVICES, and trials run on the CPU.")
    if spec.accounting:
        lines.append(f"account: {ACCOUNT}; QOS: normal, {QOS}; SLURM refuses other names.")
    return [*lines, f"`lathe cluster down{_dir_flag(folder)}` ends the cluster and all its jobs."]


def _down(cluster: LocalCluster) -> int:
    if cluster.down():
        _say(f"ended the local cluster in {cluster.folder} and removed its files")
    else:
        _say(f"no local cluster runs in {cluster.folder}; nothing to end")
    return 0


def _status(cluster: LocalCluster) -> int:
    folder = cluster.folder
    status = cluster.status()
    if status is None:
        _say(f"no local cluster runs in {folder}; run `lathe cluster up{_dir_flag(folder)}` to start one")
        return 1
    _say(f"local cluster in {folder}: {status.record.spec}")
    _say(f"started {_format_age(time.time() - status.record.started_at)} ago; . {folder}/env.sh")
    if status.nodes is not None:
        for state, nodes in sorted(status.nodes.items()):
            _say(f"  {state:<10} {nodes}")
        _say_jobs(status)
    problem = _find_problem(status)
    if problem is None:
        return 0
    _say(
        f"{problem}; `lathe cluster up{_dir_flag(folder)}` starts the missing daemons, `lathe cluster down` ends the others"
    )
    return 1


def _find_problem(status: ClusterStatus) -> str | None:
    """Return why the cluster cannot be used; None if it can."""
    if not status.is_booted:
        return "the cluster is starting, or its start was interrupted"
    if status.missing:
        return f"daemons that have ended: {', '.join(status.missing)}"
    return "the controller does not answer" if status.nodes is None else None


def _say_jobs(status: ClusterStatus) -> None:
    rows = [dict(zip(("id", "partition", "state", "time", "where", "name"), job, strict=True)) for job in status.jobs]
    running = sum(row["state"] == "RUNNING" for row in rows)
    waiting = sum(row["state"] == "PENDING" for row in rows)
    _say(f"jobs: {running} running, {waiting} waiting")
    for row in rows[:MOST_JOBS]:
        line = (
            f"{row['id']:<14} {row['partition']:<5} {row['state']:<10} {row['time']:>8}  {row['name']}  {row['where']}"
        )
        _say(f"  {line}")
    if len(rows) > MOST_JOBS:
        _say(f"  and {len(rows) - MOST_JOBS} more; `squeue` lists them")


def _dir_flag(folder: Path) -> str:
    """Return the flag that a command needs for a folder other than the default."""
    return "" if folder == choose_default_folder() else f" --dir {folder}"


def _format_age(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _say(line: str) -> None:
    make_console().print(line, highlight=False, markup=False, soft_wrap=True)
