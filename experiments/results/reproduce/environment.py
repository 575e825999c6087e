"""What of this machine is not as a run had it: packages, processor, threads, data."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.core.data_files import folder_of
from experiments.core.errors import InputError
from experiments.results.compare.differences import ABSENT, differences
from experiments.trial.record import CodeRecord, here
from experiments.trial.trial import data_fingerprint

CAPABILITIES = ("default", "avx2", "avx512")
"""Of a processor, as torch tells kernels apart and ATEN_CPU_CAPABILITY names them."""
NEEDED = {"avx2": {"avx2", "fma"}, "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "fma"}}
MOST_HASHED_BYTES = 4 << 30


def environment(record: CodeRecord) -> list[str]:
    """A line for everything of the environment that is not as the run had it; packages that it had not do not count."""
    found = differences(record, replace(record, environment=here(), streams={}))
    return [
        f"environment: {one.key} is not installed; the run had {one.one}"
        if one.other == ABSENT
        else f"environment: {one.key} is {one.other}; the run had {one.one}"
        for one in found.groups["environment"]
        if one.one != ABSENT
    ]


def variables(record: CodeRecord, ranks: int) -> tuple[dict[str, str], list[str]]:
    """The environment variables that make a process compute as the run did, and what they cannot bring.

    Args:
        record: of the run.
        ranks: processes that share this machine's cores.
    """
    threads, capability = record.environment.get("cpu_threads"), _capability(record)
    told: list[str] = []
    found: dict[str, str] = {}
    if isinstance(threads, int):
        # Ranks of one machine share what one process would take; MKL's word comes before OpenMP's.
        shared = threads * (1 if record.config["hardware"].get("cpu_threads") else ranks)
        found |= {"OMP_NUM_THREADS": str(shared), "MKL_NUM_THREADS": str(shared)}
        cores = os.cpu_count() or 1
        if shared > cores:
            told.append(
                f"hardware: the run computed with {shared} threads, and this machine has {cores} cores; it is slower"
            )
    if capability is not None:
        best = best_capability()
        if best is None or CAPABILITIES.index(capability) <= CAPABILITIES.index(best):
            found["ATEN_CPU_CAPABILITY"] = capability
        else:
            told.append(
                f"hardware: the run computed with {capability.upper()}; this processor knows only {best.upper()}"
            )
    return found, told


def _capability(record: CodeRecord) -> str | None:
    """That of the run, where it is one that can be asked for."""
    told = str(record.environment.get("cpu_capability") or "").lower().replace("no avx", "default")
    return told if told in CAPABILITIES else None


def best_capability(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """The most that this processor knows; None where that cannot be read, or it is of another family."""
    try:
        flags = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        return None
    if flags is None:
        return None
    known = set(flags.group(1).split())
    return next((name for name in reversed(CAPABILITIES) if NEEDED.get(name, set()) <= known), None)


def data(config: Mapping[str, Any], recorded: Mapping[str, Any]) -> list[str]:
    """A line for everything by which the data on this machine is not what the run was frozen with.

    Raises:
        InputError: files are missing, or their checksums are wrong, so that no training could begin.
    """
    files = config["data"].get("files")
    if isinstance(files, Mapping) and files:
        return _files(config["data"], files)
    try:
        now = data_fingerprint(dict(config["data"]))
    except KeyError as err:
        raise InputError([f"data.root needs the variable {err.args[0]}, which is not set here; export it"]) from err
    before = recorded.get("names_and_sizes_sha256")
    if before is None or now == {key: value for key, value in recorded.items() if key in now}:
        return []
    if not now.get("num_files"):
        raise InputError([f"data: {_folder(config['data'])} holds no files; bring the data there, or set LATHE_DATA"])
    subject, count = f"data: {_folder(config['data'])} has changed", recorded.get("num_files")
    if now["num_files"] == count:
        return [f"{subject}: names or sizes of its files are others"]
    return [f"{subject}: {now['num_files']:,} files, and the run had {count}"]


def _folder(node: Mapping[str, Any]) -> Path:
    try:
        return folder_of(node)
    except KeyError as err:
        raise InputError([f"data.root needs the variable {err.args[0]}, which is not set here; export it"]) from err


def _files(node: Mapping[str, Any], files: Mapping[str, str | None]) -> list[str]:
    """Hold every file against its checksum, unless they are so large that the training is left to do it."""
    folder = _folder(node)
    problems = [
        f"data: {folder / name} is missing; `lathe data` says where it comes from, and LATHE_DATA where it is looked for"
        for name in files
        if not (folder / name).is_file()
    ]
    if not problems:
        if sum((folder / name).stat().st_size for name in files) > MOST_HASHED_BYTES:
            return ["data: the files are too large to be read twice; their checksums are checked as they are loaded"]
        problems = list(_changed(folder, files))
    if problems:
        raise InputError(problems, "the data of this run")
    return []


def _changed(folder: Path, files: Mapping[str, str | None]) -> Iterator[str]:
    for name, sha256 in files.items():
        with (folder / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if sha256 is not None and found != sha256:
            yield (
                f"data: {folder / name} has changed: its sha256 is {found[:12]}, and the run read {sha256[:12]}; bring that "
                "file back, or set LATHE_DATA to a folder with a good copy"
            )
