"""A throw-away SLURM cluster on this machine: what `lathe cluster` starts, ends and says of it."""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from experiments.core.console import make_console
from experiments.core.errors import InputError
from launchers.local_cluster.cluster import ClusterStatus, LocalCluster, ShapeError
from launchers.local_cluster.settings import check_flags, choose_default_folder, flag_name, is_cluster_folder
from launchers.local_cluster.slurm_conf import ACCOUNT, QOS, ClusterSpec

MOST_JOBS = 20
_SUBJECT = "`lathe cluster`"


def cluster(asked: argparse.Namespace) -> int:
    """Do what was asked.

    Raises:
        InputError: a flag is wrong, or one of another action.
        LaunchError: the cluster does not start, or does not end.
    """
    folder = choose_default_folder() if asked.dir is None else Path(os.path.abspath(os.path.expanduser(asked.dir)))
    given = {field.name: value for field in fields(ClusterSpec) if (value := getattr(asked, field.name)) is not None}
    if asked.action == "up":
        return _up(LocalCluster(folder), given)
    if given:
        lines = [
            f"{flag_name(name)} is for `lathe cluster up`, not for `{asked.action}`; leave it out" for name in given
        ]
        raise InputError(lines, _SUBJECT)
    if asked.dir is not None and os.path.exists(folder) and not is_cluster_folder(folder):
        raise InputError([f"--dir {folder} holds no rehearsal; name the folder that `lathe cluster up` told"], _SUBJECT)
    return {"down": _down, "status": _status}[asked.action](LocalCluster(folder))


def _up(rehearsal: LocalCluster, given: dict[str, Any]) -> int:
    there = rehearsal.spec()
    spec = replace(there or ClusterSpec(), **given)
    found = check_flags(rehearsal.folder, spec)
    if found:
        raise InputError(found, _SUBJECT)
    try:
        with make_console().status("starting SLURM"):
            started = rehearsal.up(spec)
    except ShapeError as err:
        raise InputError(err.problems, _SUBJECT) from err
    if there is not None:
        _say(f"started again: {', '.join(started)}" if started else "it was up already")
    _say(f"rehearsal in {rehearsal.folder}: {spec}")
    for line in _use(rehearsal.folder, spec):
        _say(line)
    return 0


def _use(folder: Path, spec: ClusterSpec) -> list[str]:
    """How to work with it."""
    lines = [
        f"  . {folder}/env.sh",
        "makes SLURM's commands of a shell, and `lathe ... launcher=slurm hardware=rehearsal`, use it.",
        "partitions: main, the default, whose jobs make room for those of high: told 10 s before, then requeued.",
    ]
    if spec.gpus:
        lines.append("GPUs are simulated: jobs see them as CUDA_VISIBLE_DEVICES, and trials run on the CPU.")
    if spec.accounting:
        lines.append(f"account: {ACCOUNT}; QOS: normal, {QOS}; others are refused.")
    return [*lines, f"`lathe cluster down{_dir(folder)}` ends it and all its jobs."]


def _down(rehearsal: LocalCluster) -> int:
    if rehearsal.down():
        _say(f"the rehearsal in {rehearsal.folder} is ended, and its files are removed")
    else:
        _say(f"no rehearsal is up in {rehearsal.folder}; nothing is left to end")
    return 0


def _status(rehearsal: LocalCluster) -> int:
    folder = rehearsal.folder
    found = rehearsal.status()
    if found is None:
        _say(f"no rehearsal is up in {folder}; `lathe cluster up{_dir(folder)}` starts one")
        return 1
    _say(f"rehearsal in {folder}: {found.record.spec}")
    _say(f"started {_ago(time.time() - found.record.started_at)} ago; . {folder}/env.sh")
    if found.nodes is not None:
        for state, nodes in sorted(found.nodes.items()):
            _say(f"  {state:<10} {nodes}")
        _say_jobs(found)
    fault = _fault(found)
    if fault is None:
        return 0
    _say(f"{fault}; `lathe cluster up{_dir(folder)}` starts what is missing, `down` ends the rest")
    return 1


def _fault(found: ClusterStatus) -> str | None:
    """What keeps it from being used."""
    if not found.is_booted:
        return "it is being started, or that was cut off"
    if found.missing:
        return f"these have ended: {', '.join(found.missing)}"
    return "the controller does not answer" if found.nodes is None else None


def _say_jobs(found: ClusterStatus) -> None:
    rows = [dict(zip(("id", "partition", "state", "time", "where", "name"), job, strict=True)) for job in found.jobs]
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


def _dir(folder: Path) -> str:
    """The flag that a command needs to find a folder which is not the one it takes by itself."""
    return "" if folder == choose_default_folder() else f" --dir {folder}"


def _ago(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _say(line: str) -> None:
    make_console().print(line, highlight=False, markup=False, soft_wrap=True)
