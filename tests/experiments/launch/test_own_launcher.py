"""A launcher of a user's own may leave out every method but one: no command ends in a traceback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.config.compose import compose
from experiments.core.errors import InputError
from experiments.launch.own_launcher import check_launcher, complete_executor, complete_handle, uses_scheduler
from launchers.base import Executor, Launcher, WorkerPool

TARGET = "lab.launcher.Mine"
METHODS = [name for name in vars(Executor) if not name.startswith("_")]
POOL = WorkerPool(
    folder=Path("sweep"), code=Path("code"), name="probe", max_workers=3, nodes=1, devices_per_node=1, ranks_per_node=1,
    trials_per_worker=1, device="cpu", threads_per_rank=1,
)  # fmt: skip
DEFAULTS: dict[str, tuple[Any, Any]] = {
    "find_jobs": (POOL, []),
    "count_workers": (POOL, 3),
    "describe": (POOL, f"{TARGET} starts 3 workers; it has no method `describe`, which says how"),
    "find_lost": (["w"], {}),
    "count_pending": (["7"], 0),
    "cancel": (["7"], None),
}


def make(names: list[str]) -> Any:
    """An executor with only these methods, which return their names."""

    def method(name: str) -> Callable[[Any, Any], str]:
        return lambda self, argument: name

    return type("Mine", (), {name: method(name) for name in names})()


def test_every_method_of_an_executor_but_submit_has_a_default() -> None:
    assert {*METHODS} == {"submit", *DEFAULTS}


@pytest.mark.parametrize("name", METHODS)
def test_an_executor_may_leave_out_a_method(name: str) -> None:
    others = [method for method in METHODS if method not in (name, "count_workers")]
    if name == "submit":
        with pytest.raises(InputError, match=rf"launcher\._target_={TARGET} has no method `submit`.*launcher=local"):
            complete_executor(make(others), TARGET)
        return
    executor = complete_executor(make(others), TARGET)
    argument, expected = DEFAULTS[name]
    assert getattr(executor, name)(argument) == expected
    assert executor.submit(POOL) == "submit"


def test_a_launcher_without_launch_is_reported() -> None:
    assert [name for name in vars(Launcher) if not name.startswith("_")] == ["prestart", "discard", "launch"]
    with pytest.raises(InputError, match=rf"launcher\._target_={TARGET} has no method `launch`"):
        check_launcher(make(["submit"]), TARGET)
    launcher = make(["launch"])
    assert check_launcher(launcher, TARGET) is launcher


def test_a_handle_needs_only_poll_and_may_be_a_process() -> None:
    with pytest.raises(InputError, match=r"`launch` returned None, which has no method `poll`"):
        complete_handle(None, TARGET)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    handle = complete_handle(process, TARGET)
    assert (handle.poll(), handle.failed_rank, handle.pid) == (None, None, process.pid)
    handle.signal(9)
    process.communicate()
    assert handle.poll() == -9
    handle.signal(9)
    quiet = complete_handle(type("Handle", (), {"poll": lambda self: None})(), TARGET)
    quiet.signal(15)
    assert (quiet.pid, quiet.failed_rank) == (0, None)


@pytest.mark.parametrize(
    ("methods", "expected"), [(["submit"], True), (["launch"], False), (["launch", "submit"], False)]
)
def test_a_launcher_that_only_submits_runs_a_single_run_as_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, methods: list[str], expected: bool
) -> None:
    lines = "".join(f"    def {name}(self, what): ...\n" for name in methods)
    (tmp_path / "lablauncher.py").write_text(f"class Mine:\n{lines}")
    monkeypatch.syspath_prepend(tmp_path)
    config = compose(["launcher._target_=lablauncher.Mine", "~launcher.workers", "~launcher.devices_per_trial",
                      "~launcher.trials_per_device"], trust=["lablauncher"]).config  # fmt: skip
    assert uses_scheduler(config) is expected
    assert uses_scheduler(compose(["launcher=local"]).config) is False
