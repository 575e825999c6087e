"""The folder, ports, programs and record of a local cluster, and the checks of its flags."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import random
import re
import secrets
import shutil
import socket
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from launchers.base import LaunchError
from launchers.local_cluster.slurm_conf import (
    LONGEST_SOCKET,
    ClusterSpec,
    Installation,
    count_ports,
    find_longest_socket,
    list_nodes,
    render_files,
)
from launchers.ownership import find_foreign_owner, find_sharing

RECORD, PARTIAL, BOOTED = "lathe-cluster.json", "lathe-cluster.json.part", "booted"
CLUSTER_FILES = (
    RECORD, PARTIAL, BOOTED, "env.sh", "etc", "dev", "bin", "state", "spool", "log", "pids", "mysql", "munge.key",
    "munge.seed",
)  # fmt: skip
RUNTIME_FILES = ("*.pid", "*.sock", "*.sock.lock")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sinfo", "squeue", "scontrol", "sbatch", "srun")
ACCOUNTING_PROGRAMS = ("slurmdbd", "sacctmgr", "mariadbd", "mariadb-install-db")
PACKAGES = "slurmctld slurmd slurm-client munge"
ACCOUNTING_PACKAGES = "slurmdbd slurm-wlm-mysql-plugin mariadb-server"
ADMIN_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
"""Folders of daemons; they are often missing in a user's PATH."""
PLUGINS = ("/usr/lib/*/slurm*", "/usr/lib/slurm*", "/usr/lib64/slurm*")
LIMITS = {"nodes": (1, 64), "gpus": (0, 64), "cpus": (1, 4096), "memory_gb": (1, 65536)}
PORTS = range(10000, 30000)
"""Below the ports that the kernel hands out, so a restarted daemon finds its own port free."""
NEEDED_MB, NEEDED_MB_WITH_ACCOUNTING = 32, 256


@dataclass(frozen=True)
class ClusterRecord:
    """The cluster that was booted in a folder."""

    spec: ClusterSpec
    installation: Installation
    started_at: float
    """Unix time."""


def get_user_name() -> str:
    """
    Raises:
        LaunchError: the user has no name, and SLURM cannot run without one.
    """
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError as err:
        raise LaunchError(f"user {os.getuid()} has no name in the user database, and SLURM needs one; add it") from err


def choose_default_folder() -> Path:
    """Return the folder of an existing cluster, else one in /dev/shm, else one for temporary files."""
    try:
        user = re.sub(r"[^\w.-]", "_", get_user_name(), flags=re.ASCII)
    except LaunchError:
        user = str(os.getuid())
    in_memory, on_disk = (Path(parent) / f"lathe-cluster-{user}" for parent in ("/dev/shm", tempfile.gettempdir()))
    for folder in (in_memory, on_disk):
        if is_cluster_folder(folder):
            return folder
    return in_memory if _is_suitable(in_memory.parent) else on_disk


def _is_suitable(folder: Path) -> bool:
    if not os.access(folder, os.W_OK | os.X_OK) or _is_noexec(folder):
        return False
    return shutil.disk_usage(folder).free > NEEDED_MB_WITH_ACCOUNTING << 20


def _is_noexec(folder: Path) -> bool:
    return bool(os.statvfs(folder).f_flag & os.ST_NOEXEC)


def flag_name(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def check_flags(folder: Path, spec: ClusterSpec) -> list[str]:
    """Return one line for each wrong flag of `lathe cluster up`."""
    problems = []
    for key, (least, most) in LIMITS.items():
        value = getattr(spec, key)
        if not least <= value <= most:
            problems.append(f"{flag_name(key)} {value} is not between {least} and {most}; use a number in this range")
    if not re.fullmatch(r"\w+", spec.gpu_type, flags=re.ASCII):
        problems.append(f"--gpu-type {spec.gpu_type!r} may hold only letters, digits and _; use a name such as h100")
    return problems or _check_folder(folder, spec)


def _check_folder(folder: Path, spec: ClusterSpec) -> list[str]:
    invalid = re.search(r"[^\w/.+@-]", str(folder), flags=re.ASCII)
    if invalid:
        return [f"--dir {folder} contains {invalid[0]!r}, which slurm.conf does not allow; use a folder without it"]
    excess = len(find_longest_socket(folder, spec)) - LONGEST_SOCKET
    if excess > 0:
        return [
            f"--dir {folder} is {excess} characters too long: the paths of the sockets in it may have {LONGEST_SOCKET} "
            "characters; use a shorter one"
        ]
    existing = next(parent for parent in (folder, *folder.parents) if os.path.exists(parent))
    if not existing.is_dir():
        return [f"--dir {folder} is not a folder: {existing} is a file; use another folder"]
    if not os.access(existing, os.W_OK | os.X_OK):
        return [f"--dir {folder} cannot be created or written: you may not write to {existing}; use another folder"]
    if _is_noexec(existing):
        return [
            f"--dir {folder} is on a file system that does not allow programs (noexec), and jobs start there; use another folder"
        ]
    if existing == folder and not is_cluster_folder(folder) and any(folder.iterdir()):
        return [f"--dir {folder} contains other files; use a new or an empty folder"]
    return []


def check_owner(folder: Path) -> None:
    """Refuse the folder of another user: the daemons and SLURM's commands run programs that its files name.

    Raises:
        LaunchError: other users can read or change what is in the folder, or the folder is a link.
    """
    if not folder.is_dir() and not folder.is_symlink():
        return  # it holds no programs
    problem = find_sharing(folder) if is_cluster_folder(folder) else find_foreign_owner(folder)
    if problem is not None:
        raise LaunchError(
            f"the folder {folder} of the local cluster {problem}, and its programs would run as you; use another folder with "
            "--dir, or, if you made it yourself, `chmod 700` it"
        )


def check_space(folder: Path, spec: ClusterSpec) -> None:
    """
    Raises:
        LaunchError: the disk has too little free space.
    """
    existing = next(parent for parent in (folder, *folder.parents) if os.path.exists(parent))
    needed_mb = NEEDED_MB_WITH_ACCOUNTING if spec.accounting else NEEDED_MB
    free_mb = shutil.disk_usage(existing).free >> 20
    if free_mb < needed_mb:
        raise LaunchError(
            f"{folder} has {free_mb} MB free, and a local cluster needs {needed_mb} MB; free space there, or use another "
            "folder with --dir"
        )


def build_search_path() -> str:
    return os.pathsep.join(filter(None, (os.environ.get("PATH"), *ADMIN_FOLDERS)))


def find_programs(accounting: bool) -> dict[str, str]:
    """Return the full path of every program, by name.

    Raises:
        LaunchError: programs are missing; the message names their packages.
    """
    names = PROGRAMS + (ACCOUNTING_PROGRAMS if accounting else ())
    paths = {name: shutil.which(name, path=build_search_path()) for name in names}
    missing = [name for name, path in paths.items() if path is None]
    folders = [folder for pattern in PLUGINS for folder in Path("/").glob(pattern.lstrip("/"))]
    if accounting and folders and not any((folder / "accounting_storage_mysql.so").exists() for folder in folders):
        missing.append("accounting_storage_mysql.so")
    if missing:
        packages = f"{PACKAGES} {ACCOUNTING_PACKAGES}" if accounting else PACKAGES
        raise LaunchError(
            f"this machine lacks {', '.join(missing)}, which a local cluster needs; run `apt-get install {packages}`"
        )
    return {name: path for name, path in paths.items() if path is not None}


def build_environment(folder: Path) -> dict[str, str]:
    """Return the environment of daemons and of SLURM's commands: nothing of a surrounding job, and no secrets."""
    inherited = ("HOME", "USER", "LOGNAME", "TZ", "LD_LIBRARY_PATH")
    return {name: os.environ[name] for name in inherited if name in os.environ} | {
        "PATH": build_search_path(),
        "LC_ALL": "C",
        "SLURM_CONF": str(folder / "etc" / "slurm.conf"),
        "MYSQL_UNIX_PORT": str(folder / "mysql.sock"),
    }


def choose_installation(folder: Path, spec: ClusterSpec) -> Installation:
    """Choose ports that are free now, and the first job number.

    Raises:
        LaunchError: there are none, or the user has no name.
    """
    count = count_ports(spec)
    for _ in range(100):
        port = random.SystemRandom().randrange(PORTS.start, PORTS.stop - count)
        if all(_is_free(each) for each in range(port, port + count)):
            # Ten numbers per second, so a cluster that is booted again continues after the job numbers of the last one.
            first_job = int(time.time() * 10) % 60_000_000 + 1
            return Installation(folder, socket.gethostname().partition(".")[0], get_user_name(), port, first_job)
    raise LaunchError(
        f"no {count} ports in a row are free between {PORTS.start} and {PORTS.stop}; end the processes that use them"
    )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
        return True


def write_files(record: ClusterRecord) -> None:
    """Create folders and files, the record first."""
    folder, spec = record.installation.folder, record.spec
    (folder / PARTIAL).write_text(json.dumps(asdict(record), default=str), encoding="utf-8")
    (folder / PARTIAL).replace(folder / RECORD)
    for name in ("etc", "dev", "bin", "state", "log", "pids", "mysql", *(f"spool/{node}" for node in list_nodes(spec))):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(1024))
    for number in range(spec.gpus):
        (folder / "dev" / f"nvidia{number}").symlink_to("/dev/null")
    for name, text in render_files(spec, record.installation).items():
        path = folder / name
        path.touch(mode=0o700 if path.parent.name == "bin" else 0o600)
        path.write_text(text, encoding="utf-8")


def read_record(folder: Path) -> ClusterRecord | None:
    """Return None if there is no complete record."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        installation = Installation(**record["installation"] | {"folder": folder})
        return ClusterRecord(ClusterSpec(**record["spec"]), installation, record["started_at"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_cluster_folder(folder: Path) -> bool:
    """Return whether a cluster was ever started in the folder."""
    return any(os.path.exists(folder / name) for name in (RECORD, PARTIAL))


def was_booted(folder: Path) -> bool:
    """Return whether the boot was completed."""
    return (folder / BOOTED).exists()


def mark_booted(folder: Path) -> None:
    (folder / BOOTED).touch()


def remove_files(folder: Path) -> None:
    """Remove the cluster's own files.

    Raises:
        LaunchError: a file cannot be removed.
    """
    paths = [folder / name for name in CLUSTER_FILES] + [
        path for pattern in RUNTIME_FILES for path in folder.glob(pattern)
    ]
    try:
        for path in reversed(
            paths
        ):  # the record last, so the rest of a failed removal is still recognised as a cluster
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    except OSError as err:
        raise LaunchError(f"{err.filename} could not be removed ({err.strerror}); remove {folder} by hand") from err


def remove_folder(folder: Path) -> None:
    """Remove the cluster's own files, and the folder if it is then empty."""
    remove_files(folder)
    with contextlib.suppress(OSError):
        folder.rmdir()
