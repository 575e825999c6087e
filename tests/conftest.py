"""One thread for every test, and the command line as a process of its own."""

from __future__ import annotations

import atexit
import fcntl
import gc
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from experiments.tracking.run_sync import sync_run
from experiments.trial.trial import Trial
from launchers.local_cluster.slurm_conf import ClusterSpec
from tests.support.cluster import Cluster, booted
from tests.support.live import Live
from tests.support.preloaded import find_server, make_command
from tests.support.stores import make_run, start_attempt
from tests.support.waiting import PATIENCE_S

# Before anything imports torch: one thread makes results repeatable, and several test processes can share the cores.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "passive"
# The folders of runs of the tests are not those of the user.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="lathe-state-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)

Lathe = Callable[..., "subprocess.CompletedProcess[str]"]


LONGEST = [
    "test_docs", "test_slurm_sweep", "test_options", "test_equivalence", "test_sweep_sync", "test_ui_sweep", "test_reproduce",
    "test_export", "test_bad_inputs", "test_layout_search", "test_study", "test_old_runs", "test_two_people", "test_follow_run",
    "test_create", "test_memory", "test_zero", "test_worker", "test_resume", "test_optimizers", "test_chaos", "test_postgres",
    "test_run_trial", "test_topologies", "test_slurm", "test_rank_group", "test_every_model", "test_examples",
    "test_determinism", "test_two_days", "test_ui_model", "test_predict", "test_report", "test_delivered", "test_follow_sweep",
    "test_precision", "test_shared_file", "test_published", "test_ui", "test_wheel", "test_cluster", "test_page", "test_spec",
    "test_run_sync", "test_disk_full", "test_training_process", "test_share",
]  # fmt: skip
"""Files that take more than half a minute, the longest first (measured in CI, 2026-11-30; estimated where they got shorter)."""


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Compile the tests once: the first process of a session does it, and the others, which wait, read its files.

    Without the garbage collector, which would look at the modules of all tests again and again.
    """
    gc.disable()
    try:
        if "PYTEST_XDIST_WORKER" not in os.environ or sys.dont_write_bytecode:
            return (yield)
        with (Path(session.config.option.basetemp).parent / "collection.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                fcntl.flock(lock, fcntl.LOCK_SH)
            return (yield)
    finally:
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest files first: a file is one process's, and a long one must not begin at the end."""
    places = {name: place for place, name in enumerate(LONGEST)}
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    every = Counter(item.path for item in items)
    items.sort(key=lambda item: (places.get(item.path.stem, len(places)), -slow[item.path], -every[item.path]))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their argument: compressed ones contain the time, and every worker must collect the same names."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The temporary folder of the whole test session, with all its processes."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def preloaded(shared_folder: Path) -> Path:
    """The socket of a process that has done Lathe's imports and runs its commands in forks."""
    return find_server(shared_folder)


@pytest.fixture
def lathe(tmp_path: Path, preloaded: Path) -> Lathe:
    """Runs ``lathe ARGS`` and returns returncode, stdout and stderr; it starts in an empty folder of this test.

    With ``env``, also an empty one, it is a new interpreter, which imports and reads the variables itself.
    """

    def run(
        *args: str, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout_s: float = PATIENCE_S
    ) -> subprocess.CompletedProcess[str]:
        start = make_command(preloaded) if env is None else [sys.executable, "-P", "-m", "experiments.cli"]
        return subprocess.run(
            [*start, *args],
            cwd=cwd or tmp_path,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    return run


@pytest.fixture
def live(tmp_path: Path, preloaded: Path) -> Iterator[Live]:
    """Starts ``lathe ARGS`` in the background; what is left at the end is ended."""
    found = Live(tmp_path, preloaded)
    yield found
    for pid in found.processes():
        os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def empty_store(shared_folder: Path) -> Path:
    """An SQLite store with its schema, made once for all processes of the session: that takes seconds."""
    store = shared_folder / "template" / "empty.db"
    with (shared_folder / "template.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not store.exists():
            _make_store(store.parent).rename(store)
    return store


def _make_store(runs_dir: Path) -> Path:
    with start_attempt(make_run(runs_dir)):
        pass
    sync_run(Trial(runs_dir / "single" / "a1b2c3"))
    with closing(sqlite3.connect(runs_dir / "mlflow.db")) as connection:
        connection.execute("pragma foreign_keys = off")
        for table in ("params", "tags", "latest_metrics", "metrics", "runs"):
            connection.execute(f"delete from {table}")
        connection.execute("delete from experiments where experiment_id > 0")
        connection.commit()
    return runs_dir / "mlflow.db"


@pytest.fixture
def served_store(tmp_path: Path, empty_store: Path) -> Path:
    """An empty store for an MLflow server."""
    return Path(shutil.copy(empty_store, tmp_path / "served.db"))


@pytest.fixture
def runs_dir(tmp_path: Path, empty_store: Path) -> Path:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture(scope="session")
def booted_cluster() -> Iterator[Cluster]:
    """A SLURM cluster of 4 nodes without accounting, of which the environment says nothing."""
    with booted(ClusterSpec()) as found:
        yield found


@pytest.fixture(scope="session")
def booted_cluster_with_accounting() -> Iterator[Cluster]:
    """A SLURM cluster of 2 nodes with accounting, of which the environment says nothing."""
    with booted(ClusterSpec(nodes=2, accounting=True)) as found:
        yield found


@pytest.fixture
def cluster(booted_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The SLURM cluster of this machine: this process's commands go to it, and those of processes that it starts.

    It is the same one in all tests. What a test has killed is started again, and who has taken a node down puts it back.
    """
    return _entered(booted_cluster, monkeypatch)


@pytest.fixture
def cluster_with_accounting(booted_cluster_with_accounting: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """As `cluster`, but with a real `sacct`, one account and two QOS."""
    return _entered(booted_cluster_with_accounting, monkeypatch)


def _entered(found: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    found.boot()
    for name, value in found.environment().items():
        monkeypatch.setenv(name, value)
    return found
