"""Where a rehearsal cluster lies: its folder, ports and programs, what may be wrong with them, and its record."""

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
    ClusterFolder,
    Spec,
    files,
    longest_socket,
    node_names,
    num_ports,
)

RECORD, PARTIAL, BOOTED = "rehearsal.json", "rehearsal.json.part", "booted"
OWN = (
    RECORD, PARTIAL, BOOTED, "env.sh", "etc", "dev", "bin", "state", "spool", "log", "pids", "mysql", "munge.key",
    "munge.seed",
)  # fmt: skip
RUNNING = ("*.pid", "*.sock", "*.sock.lock")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sinfo", "squeue", "scontrol", "sbatch", "srun")
PROGRAMS_OF_ACCOUNTS = ("slurmdbd", "sacctmgr", "mariadbd", "mariadb-install-db")
PACKAGES = "slurmctld slurmd slurm-client munge"
PACKAGES_OF_ACCOUNTS = "slurmdbd slurm-wlm-mysql-plugin mariadb-server"
ADMIN_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
"""Where daemons are, which are seldom on a user's PATH."""
PLUGINS = ("/usr/lib/*/slurm*", "/usr/lib/slurm*", "/usr/lib64/slurm*")
LIMITS = {"nodes": (1, 64), "gpus": (0, 64), "cpus": (1, 4096), "memory_gb": (1, 65536)}
PORTS = range(10000, 30000)
"""Below those that the kernel gives to others, so that a daemon which is started again finds its own free."""
NEEDED_MB, NEEDED_MB_WITH_ACCOUNTS = 32, 256


@dataclass(frozen=True)
class ClusterRecord:
    """What was booted in a folder."""

    spec: Spec
    place: ClusterFolder
    started: float
    """Unix time."""


def user_name() -> str:
    """
    Raises:
        LaunchError: this user has none, so that SLURM could not run as it.
    """
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError as err:
        raise LaunchError(f"user {os.getuid()} has no name in the user database, and SLURM wants one; add it") from err


def default_folder() -> Path:
    """The folder of a rehearsal that is there, else one in memory, else one among temporary files."""
    try:
        user = re.sub(r"[^\w.-]", "_", user_name(), flags=re.ASCII)
    except LaunchError:
        user = str(os.getuid())
    in_memory, on_disk = (Path(parent) / f"lathe-rehearsal-{user}" for parent in ("/dev/shm", tempfile.gettempdir()))
    for folder in (in_memory, on_disk):
        if is_ours(folder):
            return folder
    return in_memory if _is_fit(in_memory.parent) else on_disk


def _is_fit(folder: Path) -> bool:
    if not os.access(folder, os.W_OK | os.X_OK) or _forbids_programs(folder):
        return False
    return shutil.disk_usage(folder).free > NEEDED_MB_WITH_ACCOUNTS << 20


def _forbids_programs(folder: Path) -> bool:
    return bool(os.statvfs(folder).f_flag & os.ST_NOEXEC)


def flag_of(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def problems(folder: Path, spec: Spec) -> list[str]:
    """What of the flags of `lathe rehearse up` is wrong, a line each."""
    found = []
    for key, (least, most) in LIMITS.items():
        value = getattr(spec, key)
        if not least <= value <= most:
            found.append(f"{flag_of(key)} {value} is not between {least} and {most}; write a number that is")
    if not re.fullmatch(r"\w+", spec.gpu_type, flags=re.ASCII):
        found.append(f"--gpu-type {spec.gpu_type!r} is not a word of letters, digits and _; write one such as h100")
    return found + ([] if found else _faults_of_folder(folder, spec))


def _faults_of_folder(folder: Path, spec: Spec) -> list[str]:
    odd = re.search(r"[^\w/.+@-]", str(folder), flags=re.ASCII)
    if odd:
        return [f"--dir {folder} holds {odd[0]!r}, which slurm.conf does not take; name a folder without"]
    too_many = len(longest_socket(folder, spec)) - LONGEST_SOCKET
    if too_many > 0:
        return [
            f"--dir {folder} has {too_many} characters too many for the sockets below it, whose paths may have "
            f"{LONGEST_SOCKET}; name a shorter one"
        ]
    there = next(parent for parent in (folder, *folder.parents) if os.path.exists(parent))
    if not there.is_dir():
        return [f"--dir {folder} is no folder: {there} is a file; name another"]
    if there == folder and folder.stat().st_uid != os.getuid():
        return [f"--dir {folder} belongs to user {folder.stat().st_uid}, not to you; name another"]
    if not os.access(there, os.W_OK | os.X_OK):
        return [f"--dir {folder} cannot be made or written: {there} is not yours to write; name another"]
    if _forbids_programs(there):
        return [
            f"--dir {folder} is on a file system that runs no programs (noexec), and jobs start there; name another"
        ]
    if there == folder and not is_ours(folder) and any(folder.iterdir()):
        return [f"--dir {folder} holds other things; name a new folder or an empty one"]
    return []


def check_space(folder: Path, spec: Spec) -> None:
    """
    Raises:
        LaunchError: there is too little.
    """
    there = next(parent for parent in (folder, *folder.parents) if os.path.exists(parent))
    needed_mb = NEEDED_MB_WITH_ACCOUNTS if spec.accounting else NEEDED_MB
    free_mb = shutil.disk_usage(there).free >> 20
    if free_mb < needed_mb:
        raise LaunchError(
            f"{folder} has {free_mb} MB left, and a rehearsal needs {needed_mb} MB; free space there, or name another with --dir"
        )


def search_path() -> str:
    return os.pathsep.join(filter(None, (os.environ.get("PATH"), *ADMIN_FOLDERS)))


def find_programs(accounting: bool) -> dict[str, str]:
    """Full path of every program by its name.

    Raises:
        LaunchError: some are missing; with the packages that bring them.
    """
    names = PROGRAMS + (PROGRAMS_OF_ACCOUNTS if accounting else ())
    found = {name: shutil.which(name, path=search_path()) for name in names}
    missing = [name for name, path in found.items() if path is None]
    folders = [folder for pattern in PLUGINS for folder in Path("/").glob(pattern.lstrip("/"))]
    if accounting and folders and not any((folder / "accounting_storage_mysql.so").exists() for folder in folders):
        missing.append("accounting_storage_mysql.so")
    if missing:
        packages = f"{PACKAGES} {PACKAGES_OF_ACCOUNTS}" if accounting else PACKAGES
        raise LaunchError(
            f"a rehearsal needs {', '.join(missing)}, which this machine has not; `apt-get install {packages}` brings all of it"
        )
    return {name: path for name, path in found.items() if path is not None}


def environment(folder: Path) -> dict[str, str]:
    """All that daemons see, and the commands that ask them: nothing of a surrounding job, and no secrets."""
    kept = ("HOME", "USER", "LOGNAME", "TZ", "LD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | {
        "PATH": search_path(),
        "LC_ALL": "C",
        "SLURM_CONF": str(folder / "etc" / "slurm.conf"),
        "MYSQL_UNIX_PORT": str(folder / "mysql.sock"),
    }


def choose_place(folder: Path, spec: Spec) -> ClusterFolder:
    """A place with ports that are free now.

    Raises:
        LaunchError: there are none, or this user has no name.
    """
    count = num_ports(spec)
    for _ in range(100):
        port = random.SystemRandom().randrange(PORTS.start, PORTS.stop - count)
        if all(_is_free(each) for each in range(port, port + count)):
            # Ten numbers a second, so that a cluster which is booted again goes on after the jobs of the last one.
            first_job = int(time.time() * 10) % 60_000_000 + 1
            return ClusterFolder(folder, socket.gethostname().partition(".")[0], user_name(), port, first_job)
    raise LaunchError(f"no {count} ports in a row are free between {PORTS.start} and {PORTS.stop}; end what holds them")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
        return True


def lay_out(record: ClusterRecord) -> None:
    """Make folders and files, the record first."""
    folder, spec = record.place.folder, record.spec
    (folder / PARTIAL).write_text(json.dumps(asdict(record), default=str))
    (folder / PARTIAL).replace(folder / RECORD)
    for name in ("etc", "dev", "bin", "state", "log", "pids", "mysql", *(f"spool/{node}" for node in node_names(spec))):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(1024))
    for number in range(spec.gpus):
        (folder / "dev" / f"nvidia{number}").symlink_to("/dev/null")
    for name, text in files(spec, record.place).items():
        path = folder / name
        path.touch(mode=0o700 if path.parent.name == "bin" else 0o600)
        path.write_text(text)


def read_record(folder: Path) -> ClusterRecord | None:
    """None where there is none, or one that was cut off."""
    try:
        text = json.loads((folder / RECORD).read_text())
        place = ClusterFolder(**text["place"] | {"folder": folder})
        return ClusterRecord(Spec(**text["spec"]), place, text["started"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_ours(folder: Path) -> bool:
    """True where a rehearsal was begun, whatever became of it."""
    return any(os.path.exists(folder / name) for name in (RECORD, PARTIAL))


def was_booted(folder: Path) -> bool:
    """False for what was begun and never came to its end."""
    return (folder / BOOTED).exists()


def mark_booted(folder: Path) -> None:
    (folder / BOOTED).touch()


def clear(folder: Path) -> None:
    """Remove the cluster's own files.

    Raises:
        LaunchError: something of it stays.
    """
    own = [folder / name for name in OWN] + [path for pattern in RUNNING for path in folder.glob(pattern)]
    try:
        for path in reversed(own):  # the record last, so that what is left of a broken removal is known for what it is
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    except OSError as err:
        raise LaunchError(f"{err.filename} could not be removed ({err.strerror}); remove {folder} by hand") from err


def remove(folder: Path) -> None:
    """Remove the cluster's own files, and the folder unless someone has put something else into it."""
    clear(folder)
    with contextlib.suppress(OSError):
        folder.rmdir()
