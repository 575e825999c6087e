"""A real, temporary SLURM cluster on this machine, without root: test a sweep before you run it at a site."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from launchers.base import LaunchError
from launchers.local_cluster import daemons
from launchers.local_cluster.daemons import ProcessId
from launchers.local_cluster.settings import (
    ClusterRecord,
    build_environment,
    check_owner,
    check_space,
    choose_installation,
    find_programs,
    flag_name,
    get_user_name,
    is_cluster_folder,
    mark_booted,
    read_record,
    remove_files,
    remove_folder,
    was_booted,
    write_files,
)
from launchers.local_cluster.slurm_conf import ClusterSpec, list_nodes, render_accounts

START_TIMEOUT_S = 30.0
"""For each step of a boot; a whole boot takes 1.3 s without accounting and 5 to 7 s with it on two busy cores."""
INSTALL_TIMEOUT_S = 120.0
"""For the files of the database: 0.6 s in memory, 5 s on a disk that syncs."""
COMMAND_TIMEOUT_S = 15.0
SAVE_TIMEOUT_S = 10.0
"""For the controller and the database to write their state."""
JOB_TIMEOUT_S = 2.0
NUM_PASSES = 5
"""A job may start processes while it is being ended."""
TAIL_LINES = 6
SMALL_DATABASE = ["--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M"]
"""Without these options MariaDB uses 190 MB of the folder."""
CONTROLLER, STEP_DAEMON = "slurmctld", "slurmstepd"


@dataclass(frozen=True)
class ClusterStatus:
    """The current state of a cluster."""

    record: ClusterRecord
    is_booted: bool
    """False while the cluster boots, and after an interrupted boot."""
    missing: list[str]
    """Daemons that do not run."""
    nodes: dict[str, str] | None
    """Node names by state; None if the controller does not answer."""
    jobs: list[list[str]]
    """For each job: number, partition, state, elapsed time, nodes or the reason why it waits, and name."""


class ShapeError(ValueError):
    """A cluster of another shape runs in the folder; one line for each flag that differs."""

    def __init__(self, folder: Path, running: ClusterSpec, requested: ClusterSpec) -> None:
        self.problems = [
            f"{flag_name(field.name)} {getattr(requested, field.name)} differs from the running cluster in {folder}, which has "
            f"{getattr(running, field.name)}; end it with `lathe cluster down`, or use another folder with --dir"
            for field in fields(ClusterSpec)
            if getattr(requested, field.name) != getattr(running, field.name)
        ]
        super().__init__("\n".join(self.problems))


class LocalCluster:
    """A cluster in one folder. It outlives the process that boots it, and several clusters can run side by side."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            LaunchError: the folder is another user's, or a link.
        """
        check_owner(folder)
        self.folder = folder

    def up(self, spec: ClusterSpec) -> list[str]:
        """Boot the cluster and wait until every node is idle; if only some of its daemons run, start the others.

        Args:
            spec: for a cluster that is already up, it must be the same.

        Returns:
            Names of the daemons that were started; empty if all were running.

        Raises:
            ShapeError: a cluster of another shape is up in the folder.
            LaunchError: a program is missing or failed; the message ends with its log.
        """
        programs = find_programs(spec.accounting)
        check_space(self.folder, spec)
        with self._locked():
            record = read_record(self.folder)
            running = self.spec()
            if record is not None and running is not None:
                if running != spec:
                    raise ShapeError(self.folder, running, spec)
                with _explained(self.folder):
                    return self._boot(record, programs, is_new=False)
            if is_cluster_folder(self.folder):  # left over after a kill -9 or a reboot
                self._end_all()
                remove_files(self.folder)
            return self._boot_new(ClusterRecord(spec, choose_installation(self.folder, spec), time.time()), programs)

    def _boot_new(self, record: ClusterRecord, programs: dict[str, str]) -> list[str]:
        """Boot; after an error nothing is left running, but the logs of a daemon that failed stay."""
        try:
            with _explained(self.folder):
                write_files(record)
                started = self._boot(record, programs, is_new=True)
                mark_booted(self.folder)
            return started
        except BaseException as err:
            self._end_all()
            if not isinstance(err, LaunchError) or isinstance(err.__cause__, OSError):
                remove_folder(self.folder)
            raise

    def down(self) -> bool:
        """End every process of the cluster and of its jobs, and remove the folder; return False if there is no cluster."""
        if not is_cluster_folder(self.folder):
            return False
        with self._locked():
            self._end_all()
            remove_folder(self.folder)
        return True

    def environment(self) -> dict[str, str]:
        """Return the variables with which SLURM's commands use this cluster."""
        path = os.environ.get("PATH", os.defpath)
        return {"SLURM_CONF": str(self.folder / "etc" / "slurm.conf"), "PATH": f"{self.folder / 'bin'}:{path}"}

    def status(self) -> ClusterStatus | None:
        """Return None if no cluster was ever started in the folder."""
        record = read_record(self.folder)
        if record is None:
            return None
        processes = daemons.find_all(self.folder)
        missing = [name for name in list_daemons(record.spec) if processes.get(name) is None]
        is_booted = was_booted(self.folder)
        if CONTROLLER in missing or "munged" in missing:
            return ClusterStatus(record, is_booted, missing, None, [])
        states = self._query("sinfo", "-h", "-o", "%T|%N")
        jobs = self._query("squeue", "-h", "-a", "-o", "%i|%P|%T|%M|%R|%j")
        nodes = None if states is None else dict(_rows(states, 2))
        return ClusterStatus(record, is_booted, missing, nodes, _rows(jobs, 6))

    def spec(self) -> ClusterSpec | None:
        """Return the shape of a cluster of which at least one daemon runs; None if there is none, or its boot was interrupted."""
        record = read_record(self.folder)
        return record.spec if record is not None and was_booted(self.folder) and self._find_alive() else None

    def _boot(self, record: ClusterRecord, programs: dict[str, str], *, is_new: bool) -> list[str]:
        """Start, in order, the daemons that do not run."""
        spec = record.spec
        started: list[str] = []

        def ensure(name: str, *arguments: str) -> None:
            if daemons.find(self.folder, name) is None:
                program, _, node = name.partition("-")
                # A step daemon inherits this folder; nothing else shows to which node it belongs.
                cwd = self.folder / "spool" / node
                command = [programs[program], *arguments]
                daemons.start(self.folder, name, command, build_environment(self.folder), cwd)
                started.append(name)

        ensure("munged", *_munged_arguments(self.folder))
        self._wait(["munged"], lambda: _is_listening(self.folder / "munge.sock"))
        if spec.accounting:
            if not (self.folder / "mysql" / "mysql").is_dir():
                self._install_database(programs["mariadb-install-db"])
            ensure("mariadbd", *_mariadbd_arguments(self.folder))
            self._wait(["mariadbd"], lambda: _is_listening(self.folder / "mysql.sock"))
            ensure("slurmdbd", "-D")
            self._wait(["slurmdbd"], lambda: self._query("sacctmgr", "-n", "show", "cluster") is not None)
            if is_new:
                self._run([programs["sacctmgr"], "-i"], COMMAND_TIMEOUT_S, stdin=render_accounts(record.installation))
        ensure(CONTROLLER, "-D", "-i")
        for node in list_nodes(spec):
            ensure(f"slurmd-{node}", "-D", "-N", node)
        names = [CONTROLLER, *(f"slurmd-{node}" for node in list_nodes(spec))]
        self._wait(names, lambda: self._is_ready(spec, is_new=is_new), self._find_unready)
        return started

    def _is_ready(self, spec: ClusterSpec, *, is_new: bool) -> bool:
        """Return whether all nodes are idle, or, in a restarted cluster, whether all nodes answer."""
        states = self._read_node_states()
        if is_new:
            return list(states.values()) == ["idle"] * spec.nodes
        return len(states) == spec.nodes and not any(state.endswith("*") or "unk" in state for state in states.values())

    def _read_node_states(self) -> dict[str, str]:
        output = self._query("sinfo", "-h", "-N", "-p", "main", "-o", "%N|%T")
        return dict(_rows(output, 2))

    def _find_unready(self) -> str:
        states = self._read_node_states()
        if not states:
            return CONTROLLER
        return next((f"slurmd-{name}" for name, state in states.items() if state != "idle"), CONTROLLER)

    def _wait(
        self, names: Sequence[str], is_ready: Callable[[], bool], find_unready: Callable[[], str] | None = None
    ) -> None:
        """Wait for daemons.

        Raises:
            LaunchError: a daemon has ended, or is not ready in time; ``find_unready`` names it. The message ends with its log.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while not is_ready():
            for name in names:
                if daemons.has_record(self.folder, name) and daemons.find(self.folder, name) is None:
                    raise LaunchError(self._describe_failure(name, "ended during the start"))
            if time.monotonic() > deadline:
                name = find_unready() if find_unready else names[0]
                raise LaunchError(self._describe_failure(name, f"was not ready within {START_TIMEOUT_S:.0f} s"))
            time.sleep(0.05)

    def _describe_failure(self, name: str, problem: str) -> str:
        logs = [self.folder / "log" / f"{name}{ending}" for ending in (".log", ".out")]
        texts = [(path, path.read_text(errors="replace", encoding="utf-8").strip()) for path in logs if path.exists()]
        path, text = next(((path, text) for path, text in texts if text), (logs[1], "(empty)"))
        tail = "\n".join(f"  {line}" for line in text.splitlines()[-TAIL_LINES:])
        return f"the local cluster's {name} {problem}; run `lathe cluster up` to try again; the end of {path}:\n{tail}"

    def _install_database(self, program: str) -> None:
        command = [
            program, "--no-defaults", f"--datadir={self.folder / 'mysql'}", "--skip-test-db",
            "--auth-root-authentication-method=socket", f"--auth-root-socket-user={get_user_name()}",
            *_root_options(), *SMALL_DATABASE,
        ]  # fmt: skip
        done = self._run(command, INSTALL_TIMEOUT_S)
        (self.folder / "log" / "mariadb-install-db.out").write_text(
            done.stdout + done.stderr if done else "", encoding="utf-8"
        )
        if done is None or done.returncode != 0:
            raise LaunchError(self._describe_failure("mariadb-install-db", "did not create the database"))

    def _query(self, *command: str) -> str | None:
        """Return the output of one of SLURM's commands; None if it fails or does not answer."""
        done = self._run(command, COMMAND_TIMEOUT_S)
        return done.stdout if done is not None and done.returncode == 0 else None

    def _run(
        self, command: Sequence[str], timeout_s: float, stdin: str = ""
    ) -> subprocess.CompletedProcess[str] | None:
        """Return None if the command is missing or does not end in time."""
        try:
            return subprocess.run(
                command, cwd=self.folder, env=build_environment(self.folder), input=stdin, capture_output=True, text=True,
                errors="replace", timeout=timeout_s, check=False, encoding="utf-8"
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock the folder against other `lathe cluster` commands."""
        with _explained(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if os.fstat(descriptor).st_uid == os.geteuid():
                os.fchmod(descriptor, 0o700)
            check_owner(self.folder)  # it may have appeared meanwhile
            if not _lock(descriptor, self.folder):
                raise LaunchError(f"another `lathe cluster` command is using {self.folder}; wait until it has ended")
            yield
        finally:
            os.close(descriptor)

    def _find_alive(self) -> list[ProcessId]:
        return [process for process in daemons.find_all(self.folder).values() if process is not None]

    def jobs(self, node: str | None = None) -> tuple[list[ProcessId], list[ProcessId]]:
        """Return the processes of jobs, and SLURM's step daemons, on one node or on all."""
        conf, spool = str(self.folder / "etc" / "slurm.conf"), self.folder / "spool"
        stats = daemons.list_processes()
        step_daemons, tasks = [], []
        for stat in stats:
            pid = stat.id.pid
            if stat.name == STEP_DAEMON:  # it overwrites its environment with its title
                cwd = daemons.read_cwd(pid) or Path()
                if cwd.parent == spool and node in (None, cwd.name):
                    step_daemons.append(stat.id)
                continue
            environment = daemons.read_environment(pid)
            its_node = environment.get("SLURMD_NODENAME") if environment.get("SLURM_CONF") == conf else None
            if its_node is not None and node in (None, its_node):
                tasks.append(stat.id)
        processes = {*tasks, *daemons.find_descendants(step_daemons, stats)} - {*step_daemons}
        return [process for process in processes if process.pid != os.getpid()], step_daemons

    def _end_all(self) -> None:
        """End the controller first, as it does not end without its nodes; then the jobs, then the other daemons."""
        controller = daemons.find(self.folder, CONTROLLER)
        _end([] if controller is None else [controller])
        self._end_jobs()
        _end(self._find_alive())
        self._end_jobs()

    def _end_jobs(self) -> None:
        """End jobs and their step daemons, also if the daemons that started them have ended."""
        for _ in range(NUM_PASSES):
            tasks, step_daemons = self.jobs()
            if not tasks and not step_daemons:
                return
            daemons.terminate(tasks, JOB_TIMEOUT_S)
            daemons.terminate(step_daemons, 0)


def _end(processes: Sequence[ProcessId]) -> None:
    """End daemons and the processes that they have started."""
    helpers = daemons.find_descendants(processes, daemons.list_processes())
    daemons.terminate(processes, SAVE_TIMEOUT_S)
    daemons.terminate(helpers, 0)


def list_daemons(spec: ClusterSpec) -> list[str]:
    """Return the daemons of a cluster in their starting order."""
    accounting = ["mariadbd", "slurmdbd"] if spec.accounting else []
    return ["munged", *accounting, CONTROLLER, *(f"slurmd-{node}" for node in list_nodes(spec))]


def _munged_arguments(folder: Path) -> list[str]:
    names = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munge.pid", "seed-file": "munge.seed"}
    paths = [f"--{flag}={folder / name}" for flag, name in names.items()]
    return ["--foreground", "--force", "--num-threads=2", f"--log-file={folder / 'log' / 'munged.log'}", *paths]


def _mariadbd_arguments(folder: Path) -> list[str]:
    """Use no network, and little memory."""
    paths = [f"--datadir={folder / 'mysql'}", f"--socket={folder / 'mysql.sock'}", f"--pid-file={folder / 'mysql.pid'}"]
    timeout = "--innodb-lock-wait-timeout=900"  # required by slurmdbd
    return ["--no-defaults", *_root_options(), "--skip-networking", *paths, *SMALL_DATABASE, timeout]


def _root_options() -> list[str]:
    """MariaDB runs as root only with this option."""
    return ["--user=root"] if os.getuid() == 0 else []


def _is_listening(path: Path) -> bool:
    """Return whether a process listens on a socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _lock(descriptor: int, folder: Path) -> bool:
    """Lock an open folder; return False if another process holds the lock, or has just removed the folder."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn an error of the disk or the machine into a LaunchError that names the folder."""
    try:
        yield
    except OSError as err:
        raise LaunchError(
            f"the local cluster in {folder} could not be set up ({err.strerror}); free space and processes, or use another "
            "folder with --dir"
        ) from err


def _rows(output: str | None, num_columns: int) -> list[list[str]]:
    """Return the rows of a command's output, without the lines that a wrapper of the command adds."""
    rows = [line.split("|", num_columns - 1) for line in (output or "").splitlines()]
    return [row for row in rows if len(row) == num_columns]
