"""A throw-away real SLURM cluster on this machine, without root: to rehearse a sweep before it spends a site's hours."""

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
from launchers.local_cluster.daemons import Process
from launchers.local_cluster.settings import (
    ClusterRecord,
    check_space,
    choose_place,
    clear,
    environment,
    find_programs,
    flag_of,
    is_ours,
    lay_out,
    mark_booted,
    read_record,
    remove,
    user_name,
    was_booted,
)
from launchers.local_cluster.slurm_conf import Spec, accounts, node_names

PATIENCE_S = 30.0
"""For each step of a boot; all of it takes 1.3 s without accounts and 5 to 7 s with them on two busy cores."""
INSTALL_PATIENCE_S = 120.0
"""For the files of the database: 0.6 s in memory, 5 s on a disk that is asked to be sure."""
ANSWER_PATIENCE_S = 15.0
SAVING_PATIENCE_S = 10.0
"""For the controller to write down its state, and for the database."""
JOB_PATIENCE_S = 2.0
NUM_SWEEPS = 5
"""A job may start processes while it is being ended."""
TAIL_LINES = 6
SMALL = ["--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M"]
"""Of MariaDB, which takes 190 MB of the folder without."""
CONTROLLER, KEEPER = "slurmctld", "slurmstepd"


@dataclass(frozen=True)
class Status:
    """A cluster as it stands."""

    record: ClusterRecord
    is_booted: bool
    """False while it boots, and where its boot was cut off."""
    gone: list[str]
    """Daemons that are not there."""
    nodes: dict[str, str] | None
    """Names of nodes by state; None where the controller does not answer."""
    jobs: list[list[str]]
    """Of each its number, partition, state, elapsed time, nodes or the reason why it waits, and name."""


class ShapeError(ValueError):
    """Another cluster is up where one was asked for; a line for each flag that differs."""

    def __init__(self, folder: Path, there: Spec, asked: Spec) -> None:
        self.problems = [
            f"{flag_of(field.name)} {getattr(asked, field.name)} is not what the rehearsal in {folder} has, "
            f"{getattr(there, field.name)}; end that one with `lathe rehearse down`, or name another folder with --dir"
            for field in fields(Spec)
            if getattr(asked, field.name) != getattr(there, field.name)
        ]
        super().__init__("\n".join(self.problems))


class LocalCluster:
    """A cluster in one folder, of which there can be several side by side; it outlives the process that boots it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def up(self, spec: Spec) -> list[str]:
        """Boot the cluster and wait until every node is idle; of one that is up in part, start what is missing.

        Args:
            spec: of one that is up already, the one it has.

        Returns:
            Names of the daemons that were started; none where all were there.

        Raises:
            ShapeError: one of another shape is up in the folder.
            LaunchError: a program is missing or failed, with the end of its log.
        """
        programs = find_programs(spec.accounting)
        check_space(self.folder, spec)
        with self._held():
            record = read_record(self.folder)
            there = self.spec()
            if record is not None and there is not None:
                if there != spec:
                    raise ShapeError(self.folder, there, spec)
                with _told(self.folder):
                    return self._boot(record, programs, is_new=False)
            if is_ours(self.folder):  # what a kill -9 or the end of the machine has left
                self._end_all()
                clear(self.folder)
            return self._boot_new(ClusterRecord(spec, choose_place(self.folder, spec), time.time()), programs)

    def _boot_new(self, record: ClusterRecord, programs: dict[str, str]) -> list[str]:
        """Boot, or leave nothing running; the logs of a daemon that failed stay to be read."""
        try:
            with _told(self.folder):
                lay_out(record)
                started = self._boot(record, programs, is_new=True)
                mark_booted(self.folder)
            return started
        except BaseException as err:
            self._end_all()
            if not isinstance(err, LaunchError) or isinstance(err.__cause__, OSError):
                remove(self.folder)
            raise

    def down(self) -> bool:
        """End every process of the cluster and of its jobs, and remove the folder; False where there was none."""
        if not is_ours(self.folder):
            return False
        with self._held():
            self._end_all()
            remove(self.folder)
        return True

    def environment(self) -> dict[str, str]:
        """Variables with which SLURM's commands talk to this cluster."""
        path = os.environ.get("PATH", os.defpath)
        return {"SLURM_CONF": str(self.folder / "etc" / "slurm.conf"), "PATH": f"{self.folder / 'bin'}:{path}"}

    def status(self) -> Status | None:
        """None where nothing was ever booted in the folder."""
        record = read_record(self.folder)
        if record is None:
            return None
        found = daemons.recorded(self.folder)
        gone = [name for name in names_of(record.spec) if found.get(name) is None]
        is_booted = was_booted(self.folder)
        if CONTROLLER in gone or "munged" in gone:
            return Status(record, is_booted, gone, None, [])
        states = self._ask("sinfo", "-h", "-o", "%T|%N")
        jobs = self._ask("squeue", "-h", "-a", "-o", "%i|%P|%T|%M|%R|%j")
        nodes = None if states is None else dict(line.split("|") for line in states.splitlines())
        return Status(record, is_booted, gone, nodes, [line.split("|", 5) for line in (jobs or "").splitlines()])

    def spec(self) -> Spec | None:
        """The shape of what is up, in whole or in part; None where nothing of it runs, or its boot was cut off."""
        record = read_record(self.folder)
        return record.spec if record is not None and was_booted(self.folder) and self._alive() else None

    def _boot(self, record: ClusterRecord, programs: dict[str, str], *, is_new: bool) -> list[str]:
        """Start in order whatever is not there."""
        spec, place = record.spec, record.place
        started: list[str] = []

        def ensure(name: str, *arguments: str) -> None:
            if daemons.find(self.folder, name) is None:
                program, _, node = name.partition("-")
                # What keeps the jobs of a node has the daemon's folder, and nothing else by which it is known.
                cwd = self.folder / "spool" / node
                command = [programs[program], *arguments]
                daemons.start(self.folder, name, command, environment(self.folder), cwd)
                started.append(name)

        ensure("munged", *_munged_arguments(self.folder))
        self._wait(["munged"], lambda: _answers(self.folder / "munge.sock"))
        if spec.accounting:
            if not (self.folder / "mysql" / "mysql").is_dir():
                self._install_database(programs["mariadb-install-db"])
            ensure("mariadbd", *_mariadbd_arguments(self.folder))
            self._wait(["mariadbd"], lambda: _answers(self.folder / "mysql.sock"))
            ensure("slurmdbd", "-D")
            self._wait(["slurmdbd"], lambda: self._ask("sacctmgr", "-n", "show", "cluster") is not None)
            if is_new:
                self._run([programs["sacctmgr"], "-i"], ANSWER_PATIENCE_S, told=accounts(place))
        ensure(CONTROLLER, "-D", "-i")
        for node in node_names(spec):
            ensure(f"slurmd-{node}", "-D", "-N", node)
        names = [CONTROLLER, *(f"slurmd-{node}" for node in node_names(spec))]
        self._wait(names, lambda: self._is_ready(spec, is_new=is_new), self._unready)
        return started

    def _is_ready(self, spec: Spec, *, is_new: bool) -> bool:
        """A new cluster's nodes are all idle; an older one's may be at work or taken out, but they answer."""
        states = self._node_states()
        if is_new:
            return list(states.values()) == ["idle"] * spec.nodes
        return len(states) == spec.nodes and not any(state.endswith("*") or "unk" in state for state in states.values())

    def _node_states(self) -> dict[str, str]:
        lines = (self._ask("sinfo", "-h", "-N", "-p", "main", "-o", "%N|%T") or "").splitlines()
        return dict(line.split("|") for line in lines)

    def _unready(self) -> str:
        states = self._node_states()
        if not states:
            return CONTROLLER
        return next((f"slurmd-{name}" for name, state in states.items() if state != "idle"), CONTROLLER)

    def _wait(self, names: Sequence[str], is_ready: Callable[[], bool], who: Callable[[], str] | None = None) -> None:
        """Wait for daemons.

        Raises:
            LaunchError: one has ended, or time is up, with the log of that one or of ``who`` is to blame.
        """
        deadline = time.monotonic() + PATIENCE_S
        while not is_ready():
            for name in names:
                if daemons.was_born(self.folder, name) and daemons.find(self.folder, name) is None:
                    raise LaunchError(self._failure(name, "ended instead of serving"))
            if time.monotonic() > deadline:
                raise LaunchError(self._failure(who() if who else names[0], f"was not ready within {PATIENCE_S:.0f} s"))
            time.sleep(0.05)

    def _failure(self, name: str, what: str) -> str:
        logs = [self.folder / "log" / f"{name}{ending}" for ending in (".log", ".out")]
        texts = [(path, path.read_text(errors="replace").strip()) for path in logs if path.exists()]
        path, text = next(((path, text) for path, text in texts if text), (logs[1], "it said nothing"))
        last = "\n".join(f"  {line}" for line in text.splitlines()[-TAIL_LINES:])
        return f"the rehearsal's {name} {what}; `lathe rehearse up` tries again; the end of {path}:\n{last}"

    def _install_database(self, program: str) -> None:
        command = [
            program, "--no-defaults", f"--datadir={self.folder / 'mysql'}", "--skip-test-db",
            "--auth-root-authentication-method=socket", f"--auth-root-socket-user={user_name()}", *_as_root(), *SMALL,
        ]  # fmt: skip
        done = self._run(command, INSTALL_PATIENCE_S)
        (self.folder / "log" / "mariadb-install-db.out").write_text(done.stdout + done.stderr if done else "")
        if done is None or done.returncode != 0:
            raise LaunchError(self._failure("mariadb-install-db", "did not make the database"))

    def _ask(self, *command: str) -> str | None:
        """What a command of SLURM prints; None where there is no answer."""
        done = self._run(command, ANSWER_PATIENCE_S)
        return done.stdout if done is not None and done.returncode == 0 else None

    def _run(
        self, command: Sequence[str], patience_s: float, told: str = ""
    ) -> subprocess.CompletedProcess[str] | None:
        """None where it does not end or is not there."""
        try:
            return subprocess.run(
                command, cwd=self.folder, env=environment(self.folder), input=told, capture_output=True, text=True,
                errors="replace", timeout=patience_s, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return None

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Let no other `lathe rehearse` be at work on the folder meanwhile."""
        with _told(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            if not _lock(descriptor, self.folder):
                raise LaunchError(f"another `lathe rehearse` is at work on {self.folder}; wait until it has ended")
            yield
        finally:
            os.close(descriptor)

    def _alive(self) -> list[Process]:
        return [process for process in daemons.recorded(self.folder).values() if process is not None]

    def jobs(self, node: str | None = None) -> tuple[list[Process], list[Process]]:
        """Processes of jobs, and those of SLURM that keep them, on one node or on all."""
        conf, spool = str(self.folder / "etc" / "slurm.conf"), self.folder / "spool"
        stats = daemons.everything()
        keepers, tasks = [], []
        for one in stats:
            pid = one.process.pid
            if one.name == KEEPER:  # it writes its title over its environment
                cwd = daemons.cwd_of(pid) or Path()
                if cwd.parent == spool and node in (None, cwd.name):
                    keepers.append(one.process)
                continue
            seen = daemons.environment_of(pid)
            its_node = seen.get("SLURMD_NODENAME") if seen.get("SLURM_CONF") == conf else None
            if its_node is not None and node in (None, its_node):
                tasks.append(one.process)
        found = {*tasks, *daemons.offspring(keepers, stats)} - {*keepers}
        return [process for process in found if process.pid != os.getpid()], keepers

    def _end_all(self) -> None:
        """The controller first, as it does not end when its nodes are gone; then jobs, then all the others."""
        controller = daemons.find(self.folder, CONTROLLER)
        _end([] if controller is None else [controller])
        self._end_jobs()
        _end(self._alive())
        self._end_jobs()

    def _end_jobs(self) -> None:
        """End jobs and what looks after them, also where the daemons that started them are gone."""
        for _ in range(NUM_SWEEPS):
            tasks, keepers = self.jobs()
            if not tasks and not keepers:
                return
            daemons.end(tasks, JOB_PATIENCE_S)
            daemons.end(keepers, 0)


def _end(found: Sequence[Process]) -> None:
    """End daemons and what they have started."""
    helpers = daemons.offspring(found, daemons.everything())
    daemons.end(found, SAVING_PATIENCE_S)
    daemons.end(helpers, 0)


def names_of(spec: Spec) -> list[str]:
    """Daemons of a cluster in the order in which they start."""
    of_accounts = ["mariadbd", "slurmdbd"] if spec.accounting else []
    return ["munged", *of_accounts, CONTROLLER, *(f"slurmd-{node}" for node in node_names(spec))]


def _munged_arguments(folder: Path) -> list[str]:
    names = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munge.pid", "seed-file": "munge.seed"}
    paths = [f"--{flag}={folder / name}" for flag, name in names.items()]
    return ["--foreground", "--force", "--num-threads=2", f"--log-file={folder / 'log' / 'munged.log'}", *paths]


def _mariadbd_arguments(folder: Path) -> list[str]:
    """No network, and little memory."""
    paths = [f"--datadir={folder / 'mysql'}", f"--socket={folder / 'mysql.sock'}", f"--pid-file={folder / 'mysql.pid'}"]
    patient = "--innodb-lock-wait-timeout=900"  # as slurmdbd wants it
    return ["--no-defaults", *_as_root(), "--skip-networking", *paths, *SMALL, patient]


def _as_root() -> list[str]:
    """MariaDB runs as root only where that is said."""
    return ["--user=root"] if os.getuid() == 0 else []


def _answers(path: Path) -> bool:
    """True once somebody listens on a socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _lock(descriptor: int, folder: Path) -> bool:
    """Lock an open folder; False where another has it, or has just removed it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Say of what the disk, or the machine, does not take what it was for."""
    try:
        yield
    except OSError as err:
        raise LaunchError(
            f"the rehearsal in {folder} could not be set up ({err.strerror}); free space and processes, or name another folder "
            "with --dir"
        ) from err
