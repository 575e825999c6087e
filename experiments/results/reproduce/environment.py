"""Compares this machine with that of a run: packages, processor, threads, data."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.core.data_files import find_data_folder
from experiments.core.errors import InputError
from experiments.results.compare.differences import ABSENT, differences
from experiments.trial.record import RunRecord, describe_environment
from experiments.trial.trial import fingerprint_data

CAPABILITIES = ("default", "avx2", "avx512")
"""Instruction sets for which torch has kernels, with the names of ATEN_CPU_CAPABILITY."""
NEEDED = {"avx2": {"avx2", "fma"}, "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "fma"}}
MAX_HASHED_BYTES = 4 << 30


def find_environment_changes(record: RunRecord) -> list[str]:
    """One line per difference between this environment and that of the run; additional packages do not count."""
    differing = differences(record, replace(record, environment=describe_environment(), streams={}))
    return [
        f"environment: {one.key} is not installed; the run had {one.one}"
        if one.other == ABSENT
        else f"environment: {one.key} is {one.other}; the run had {one.one}"
        for one in differing.groups["environment"]
        if one.one != ABSENT
    ]


def reproducing_variables(record: RunRecord, ranks: int) -> tuple[dict[str, str], list[str]]:
    """Environment variables that make a process compute as the run did, and a line for each thing they cannot restore.

    Args:
        record: the run.
        ranks: number of processes that share the cores of this machine.
    """
    threads, capability = record.environment.get("cpu_threads"), _capability(record)
    problems: list[str] = []
    variables: dict[str, str] = {}
    if isinstance(threads, int):
        # The ranks of a machine share the threads of one process. MKL_NUM_THREADS overrides OMP_NUM_THREADS.
        num_threads = threads * (1 if record.config["hardware"].get("cpu_threads") else ranks)
        variables |= {"OMP_NUM_THREADS": str(num_threads), "MKL_NUM_THREADS": str(num_threads)}
        cores = os.cpu_count() or 1
        if num_threads > cores:
            problems.append(
                f"hardware: the run used {num_threads} threads, and this machine has {cores} cores; it takes longer here"
            )
    if capability is not None:
        best = best_capability()
        if best is None or CAPABILITIES.index(capability) <= CAPABILITIES.index(best):
            variables["ATEN_CPU_CAPABILITY"] = capability
        else:
            problems.append(
                f"hardware: the run used {capability.upper()} instructions, and this processor has only {best.upper()}"
            )
    return variables, problems


def _capability(record: RunRecord) -> str | None:
    """The instruction set of the run, if ATEN_CPU_CAPABILITY can select it."""
    name = str(record.environment.get("cpu_capability") or "").lower().replace("no avx", "default")
    return name if name in CAPABILITIES else None


def best_capability(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """The largest instruction set of this processor; None if it cannot be read, or on another architecture."""
    try:
        flags = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    if flags is None:
        return None
    known = set(flags.group(1).split())
    return next((name for name in reversed(CAPABILITIES) if NEEDED.get(name, set()) <= known), None)


def find_data_changes(config: Mapping[str, Any], recorded: Mapping[str, Any]) -> list[str]:
    """One line per difference between the data on this machine and that of the run.

    Raises:
        InputError: files are missing or have wrong checksums, so that no training can start.
    """
    files = config["data"].get("files")
    if isinstance(files, Mapping) and files:
        return _files(config["data"], files)
    try:
        now = fingerprint_data(dict(config["data"]))
    except KeyError as err:
        raise InputError(
            [f"data.root needs the environment variable {err.args[0]}, which is not set; export it"]
        ) from err
    before = recorded.get("names_and_sizes_sha256")
    if before is None or now == {key: value for key, value in recorded.items() if key in now}:
        return []
    if not now.get("num_files"):
        raise InputError([f"data: {_folder(config['data'])} holds no files; copy the data there, or set LATHE_DATA"])
    subject, count = f"data: {_folder(config['data'])} has changed", recorded.get("num_files")
    if now["num_files"] == count:
        return [f"{subject}: names or sizes of its files differ"]
    return [f"{subject}: {now['num_files']:,} files, and the run had {count}"]


def _folder(node: Mapping[str, Any]) -> Path:
    try:
        return find_data_folder(node)
    except KeyError as err:
        raise InputError(
            [f"data.root needs the environment variable {err.args[0]}, which is not set; export it"]
        ) from err


def _files(node: Mapping[str, Any], files: Mapping[str, str | None]) -> list[str]:
    """Compare every file with its checksum. If they are very large, leave that to the training."""
    folder = _folder(node)
    problems = [
        f"data: {folder / name} is missing; `lathe data` shows its source; LATHE_DATA sets the folder"
        for name in files
        if not (folder / name).is_file()
    ]
    if not problems:
        if sum((folder / name).stat().st_size for name in files) > MAX_HASHED_BYTES:
            return ["data: the files are too large to read twice; the training checks their checksums"]
        problems = list(_changed(folder, files))
    if problems:
        raise InputError(problems, "the data of this run")
    return []


def _changed(folder: Path, files: Mapping[str, str | None]) -> Iterator[str]:
    for name, sha256 in files.items():
        with (folder / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if sha256 is not None and digest != sha256:
            yield (
                f"data: {folder / name} has changed: its SHA-256 is {digest[:12]}, and the run read {sha256[:12]}; restore "
                "the file, or set LATHE_DATA to a folder with a good copy"
            )
