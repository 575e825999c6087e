"""Faults for a sweep that runs, by kind: of its processes, its files, its locks and its upload.

`FAULTS` lists them. Each is a function of the `Scene`; it returns False if there was nothing to harm at this moment.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from experiments.core import lock
from experiments.launch.fork import run_in_fork
from experiments.run import folder_watch
from experiments.sweep import ledger
from experiments.sweep.sweep import Sweep
from experiments.sweep.worker import reaper, trial_runner, worker
from experiments.tracking.sweep_sync import SweepSync
from tests.support.waiting import wait_until
from tests.support.workers import (
    Worker,
    age_heartbeats,
    is_training,
    kill_worker,
    read_entries,
    start_worker,
)

NUM_WORKERS = 3
LOCK_PATIENCE_S = 1.0
"""How long a process may hold the lock of the ledger here."""


def make_impatient() -> None:
    """Let this process wait for lost processes, folders and locks for seconds only."""
    trial_runner.HEARTBEAT_S, worker.REAP_EVERY_S = 1.0, 1.0
    reaper.LOST_S, folder_watch.GONE_S, ledger.PATIENCE_S = 6.0, 2.0, LOCK_PATIENCE_S


@dataclass
class Scene:
    """A sweep under faults."""

    sweep: Sweep
    generator: random.Random
    workers: dict[str, Worker] = field(default_factory=dict)
    """Living workers by name."""
    trials: set[psutil.Process] = field(default_factory=set)
    """Processes of trials whose worker was harmed; they end by themselves."""
    follower: int = 0
    """Process id of a process that uploads the sweep."""
    later: list[tuple[float, Callable[[], object]]] = field(default_factory=list)
    """What ends faults that last, and when."""
    num_started: int = 0

    def start_missing(self) -> None:
        """Start a worker for each one that has ended, and the follower."""
        self.workers = {name: each for name, each in self.workers.items() if each.poll() is None}
        while len(self.workers) < NUM_WORKERS:
            name = f"w{self.num_started}"
            self.workers[name] = start_worker(self.sweep, name, prepare=make_impatient)
            self.num_started += 1
        if not self.follower:
            self.follower = _fork(lambda: _follow(self.sweep))

    def choose(self) -> tuple[str, Worker]:
        """Choose a worker, and remember its trial's process."""
        name = self.generator.choice(sorted(self.workers))
        self.trials.update(find_trials(self.workers[name]))
        return name, self.workers[name]

    def end_faults(self, *, every: bool = False) -> None:
        """End the faults whose time has come."""
        due = [item for item in self.later if every or time.monotonic() > item[0]]
        self.later = [item for item in self.later if item not in due]
        for _, end in due:
            end()

    def close(self) -> None:
        """End all processes; those of trials by themselves, as their worker is gone."""
        self.end_faults(every=True)
        for each in self.workers.values():
            self.trials.update(find_trials(each))
            kill_worker(each)
        _kill_follower(self)
        wait_until(lambda: not any(map(is_training, self.trials)), "the end of trials without a worker")


Fault = Callable[[Scene], bool]


def find_trials(worker: Worker) -> list[psutil.Process]:
    """The process of the trial that a worker runs, if it runs one."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(worker.pid).children()
    return []


def kill_worker_alone(scene: Scene) -> bool:
    """kill -9 of a worker; its trial saves and stops."""
    scene.choose()[1].send_signal(signal.SIGKILL)
    return True


def terminate_worker(scene: Scene) -> bool:
    """SIGTERM, as a scheduler does before it takes the machine away."""
    scene.choose()[1].send_signal(signal.SIGTERM)
    return True


def kill_trial(scene: Scene) -> bool:
    """kill -9 of a trial's process."""
    return _kill(find_trials(scene.choose()[1]))


def kill_pair(scene: Scene) -> bool:
    """kill -9 of a trial and of its worker."""
    worker = scene.choose()[1]
    trials = find_trials(worker)
    worker.send_signal(signal.SIGKILL)
    return _kill(trials)


def kill_everything(scene: Scene) -> bool:
    """kill -9 of all processes, as when the machine restarts; the next workers come when the heartbeats are old."""
    trials = [trial for each in scene.workers.values() for trial in find_trials(each)]
    for each in scene.workers.values():
        kill_worker(each)
    _kill(trials)
    _kill_follower(scene)
    age_heartbeats(scene.sweep)
    return True


def _kill(processes: list[psutil.Process]) -> bool:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return bool(processes)


def pause_worker(scene: Scene) -> bool:
    """SIGSTOP of a worker until others think that it is lost; then it comes back."""
    worker = scene.choose()[1]
    worker.send_signal(signal.SIGSTOP)
    age_heartbeats(scene.sweep)
    _later(scene, lambda: worker.send_signal(signal.SIGCONT))
    return True


def _later(scene: Scene, end: Callable[[], object]) -> None:
    scene.later.append((time.monotonic() + scene.generator.uniform(0.5, 3.0), end))


def age_heartbeat(scene: Scene) -> bool:
    """Heartbeats of workers that live are old, as after a pause of the file server."""
    age_heartbeats(scene.sweep)
    return True


def advance_heartbeat(scene: Scene) -> bool:
    """Heartbeats in the future, as after the file server's clock was set back."""
    age_heartbeats(scene.sweep, by_s=-600)
    return True


def remove_heartbeat(scene: Scene) -> bool:
    return _harm_trial(scene, lambda folder, attempt: (attempt / "heartbeat").unlink())


def cancel_trial(scene: Scene) -> bool:
    """What `lathe cancel` does to a trial that runs."""
    return _harm_trial(scene, lambda folder, attempt: (attempt / "cancel").touch())


def remove_trial(scene: Scene) -> bool:
    """Remove the folder of a trial that runs."""
    return _harm_trial(scene, lambda folder, attempt: shutil.rmtree(folder))


def remove_journal(scene: Scene) -> bool:
    return _harm_trial(scene, lambda folder, attempt: (attempt / "journal.jsonl").unlink())


def cut_journal(scene: Scene) -> bool:
    """Cut half of the journal, in the middle of a line."""

    def cut(folder: Path, attempt: Path) -> None:
        path = attempt / "journal.jsonl"
        if '"finished"' in path.read_text():
            raise FileNotFoundError(f"{path}: the trial has ended")
        os.truncate(path, path.stat().st_size // 2)

    return _harm_trial(scene, cut)


def remove_checkpoints(scene: Scene) -> bool:
    return _harm_trial(scene, lambda folder, attempt: shutil.rmtree(folder / "checkpoints"))


def _harm_trial(scene: Scene, harm: Callable[[Path, Path], object]) -> bool:
    """Harm the files of a trial while it and its worker stand still, so that it cannot end meanwhile.

    Args:
        scene: has the workers.
        harm: called with the folders of the run and of its attempt.

    Returns:
        False if no worker runs a trial that has written the file.
    """
    names = scene.generator.sample(sorted(scene.workers), len(scene.workers))
    return any(_harm_trial_of(scene, name, harm) for name in names)


def _harm_trial_of(scene: Scene, name: str, harm: Callable[[Path, Path], object]) -> bool:
    worker = scene.workers[name]
    with suppress(OSError, psutil.NoSuchProcess), ExitStack() as stack:
        for each in (psutil.Process(worker.pid), *find_trials(worker)):
            each.suspend()
            stack.callback(_resume, each)
        running = [entry for entry in read_entries(scene.sweep) if entry.state == "running" and entry.worker == name]
        if running and any(map(is_training, find_trials(worker))):
            folder = scene.sweep.folder / running[0].id
            harm(folder, folder / "attempts" / str(running[0].attempt))
            return True
    return False


def _resume(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.resume()


def rename_trial(scene: Scene) -> bool:
    """Rename the folder of a trial for a moment, while its process goes on."""
    running = [entry for entry in read_entries(scene.sweep) if entry.state == "running"]
    journals = [scene.sweep.folder / entry.id / "attempts" / str(entry.attempt) / "journal.jsonl" for entry in running]
    folders = [path.parents[2] for path in journals if path.exists()]
    if not folders:
        return False
    away = _move_away(scene, folder := scene.generator.choice(folders))
    try:
        away.rename(folder)
    except OSError:  # another attempt has begun meanwhile, in a new folder
        shutil.rmtree(away, ignore_errors=True)
    return True


def rename_sweep(scene: Scene) -> bool:
    """Rename the folder of the sweep for a moment, as when a file server restarts."""
    away = _move_away(scene, scene.sweep.folder)
    while True:
        try:
            away.rename(scene.sweep.folder)
        except OSError:  # a trial that began at that moment has made the folder anew, for its journal
            shutil.rmtree(scene.sweep.folder, ignore_errors=True)
        else:
            return True


def _move_away(scene: Scene, folder: Path) -> Path:
    away = folder.with_name(f".{folder.name}-away")
    folder.rename(away)
    time.sleep(scene.generator.uniform(0.01, 0.2))
    return away


def tear_ledger(scene: Scene) -> bool:
    """Leave half a line, as a process does that is killed while it writes."""
    own = scene.sweep.ledger()
    with own.locked(), own.path.open("ab") as file:
        file.write(b'{"event":"claimed","tri')
    return True


def remove_lock(scene: Scene) -> bool:
    """Remove the file of the ledger's lock: two processes can then hold a lock at the same time."""
    (scene.sweep.folder / "ledger.lock").unlink(missing_ok=True)
    return True


def hold_lock(scene: Scene) -> bool:
    """Keep the ledger's lock for longer than others wait, as a process does that is stopped while it has the lock."""
    held = ExitStack()
    try:
        held.enter_context(lock.locked(scene.sweep.folder / "ledger.lock", blocking=False))
    except BlockingIOError:  # perhaps by a worker that stands still: only this process makes it go on
        return False
    _later(scene, held.close)
    return True


def remove_progress(scene: Scene) -> bool:
    """Remove what the upload knows of the sweep and of a trial."""
    known = sorted(scene.sweep.folder.glob("*/sync.json"))
    (scene.sweep.folder / "sync.json").unlink(missing_ok=True)
    if known:
        scene.generator.choice(known).unlink(missing_ok=True)
    return bool(known)


def kill_follower(scene: Scene) -> bool:
    """kill -9 of the process that uploads the sweep."""
    return _kill_follower(scene)


def _kill_follower(scene: Scene) -> bool:
    if not scene.follower:
        return False
    os.kill(scene.follower, signal.SIGKILL)
    os.waitpid(scene.follower, 0)
    scene.follower = 0
    return True


def upload(sweep: Sweep) -> None:
    """Upload a sweep once.

    Raises:
        AssertionError: something was not uploaded; the output says what.
    """

    def sync() -> int:
        failures = SweepSync(sweep).sync().failures
        print(*failures, sep="\n")
        return len(failures)

    assert os.waitpid(_fork(sync), 0)[1] == 0


def _follow(sweep: Sweep) -> int:
    """Upload a sweep again and again."""
    sync = SweepSync(sweep)
    while True:
        sync.sync()
        time.sleep(0.5)


def _fork(run: Callable[[], int]) -> int:
    """Run a function in a fork, which has MLflow already; returns its process id.

    This process itself opens no store: a fork must not get an open connection to it.
    """
    pid = os.fork()
    if pid == 0:
        run_in_fork(run)
    return pid


FAULTS: tuple[Fault, ...] = (
    kill_worker_alone, terminate_worker, kill_trial, kill_pair, kill_everything, pause_worker, cancel_trial,
    age_heartbeat, advance_heartbeat, remove_heartbeat, remove_trial, rename_trial, rename_sweep, remove_journal, cut_journal,
    remove_checkpoints, tear_ledger, remove_lock, hold_lock, remove_progress, kill_follower,
)  # fmt: skip
