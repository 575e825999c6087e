"""Runs a run again: creates a new run folder, and a process that executes it with the restored code."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from experiments.core import renamed
from experiments.core.errors import InputError
from experiments.core.files.packages import IMPORT_ROOT, PREFIX, PROJECT_ROOT
from experiments.core.signals import handled_signals
from experiments.launch.own_launcher import LOCAL_LAUNCHER
from experiments.results.reproduce.original import Original
from experiments.run.journal_tail import JournalTail
from experiments.trial.code_restore import RestoredCode
from experiments.trial.code_snapshot import take_snapshot
from experiments.trial.environment import describe_machine, installed_packages
from experiments.trial.initial_weights import FILE
from experiments.trial.trial import Trial, create_run_folder, fingerprint_data, write_trial
from launchers.base import module_command

POLL_S = 0.05
IMPORTED = "import json, experiments, modules; print(json.dumps([experiments.__file__, modules.__file__]))"
"""For code of an earlier version, which does not pin its packages."""
BEGIN = """
import ctypes, runpy, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: save and stop when the parent is killed
del sys.argv[0]
if sys.argv[0] == "-m":
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
else:
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True)
class Ended:
    """How the process of a repetition ended."""

    code: int
    was_interrupted: bool
    """By the user. Not set if it was stopped at the last step to compare."""


def new_run(original: Original, code: RestoredCode, runs_dir: Path, steps: int | None) -> Trial:
    """Create a run folder with the configuration of the original, and its own provenance.

    Raises:
        InputError: it cannot be written.
    """
    record = original.record
    config = {**record.config, "resume": False}
    config.pop("notify", None)  # the commands of another user
    if config["launcher"]["_target_"] != LOCAL_LAUNCHER:  # a reproduction runs on this machine
        config["launcher"] = {"_target_": LOCAL_LAUNCHER}
    overrides = list(original.overrides)
    if has_first_names(code):
        overrides = renamed.original_overrides(overrides, config)
        config = renamed.original(config)
    warnings: list[str] = []
    with create_run_folder(runs_dir, f"single/{_free_name(record.trial_id, runs_dir)}") as folder:
        provenance = {
            "trial_id": record.trial_id,
            "run_key": uuid.uuid4().hex,
            "created": time.time(),
            "reproduces": {**original.link, "steps": steps},
            "overrides": overrides,
            **({"source": original.source} if original.source else {}),
            "config_dirs": list(original.config_dirs),
            "trust": list(original.trust),
            "code": [take_snapshot(root, folder / "code", warnings, runs_dir) for root in code.roots],
            **describe_machine(),
            "packages": installed_packages(),
            "seeds": {"seed": config.get("seed")},
            "data": fingerprint_data(config["data"]),
            "warnings": warnings,
        }
        if original.initial is not None:
            shutil.copyfile(original.initial, folder / FILE)
        write_trial(folder, config, provenance)
    return Trial(folder)


def has_first_names(code: RestoredCode) -> bool:
    """Whether restored code knows configuration keys by their first names only."""
    root = PROJECT_ROOT if code.on_path[0] == IMPORT_ROOT else code.on_path[0]
    return not (root / "experiments" / "core" / "renamed.py").is_file()


def _free_name(identity: str, runs_dir: Path) -> str:
    """A name that no run and no trial of a sweep has."""
    taken = {path.name for path in runs_dir.glob(f"*/{identity}*")}
    names = (identity if number == 1 else f"{identity}-{number}" for number in itertools.count(1))
    return next(name for name in names if name not in taken)


def _entry(code: RestoredCode) -> list[str]:
    """What runs the command line of restored code."""
    return module_command("experiments.cli", code.on_path[0])


def child_environment(code: RestoredCode, variables: Mapping[str, str]) -> dict[str, str]:
    """The environment variables of a process that imports the restored code.

    Raises:
        InputError: it would import other code.
    """
    before = os.environ.get("PYTHONPATH")
    folders = [folder for folder in code.on_path if not (PREFIX and folder == IMPORT_ROOT)]
    path = os.pathsep.join([*map(str, folders), *([before] if before else [])])
    environment = {**os.environ, **variables, "PYTHONPATH": path}
    if _entry(code)[0] != "-m":
        return environment
    command = [sys.executable, "-P", "-c", IMPORTED]
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        encoding="utf-8",
        errors="replace",
    )
    imported = json.loads(done.stdout) if done.returncode == 0 else [done.stderr.strip().splitlines()[-1:]]
    wrong = [file for file in imported if not str(file).startswith(str(code.on_path[0]) + os.sep)]
    if wrong:
        raise InputError(
            [
                f"code: Python would import {wrong[0]} instead of the restored code in {code.on_path[0]}; check PYTHONPATH"
            ]
        )
    return environment


def execute(
    trial: Trial,
    code: RestoredCode,
    environment: Mapping[str, str],
    trust: Sequence[str],
    overrides: Sequence[str],
    steps: int | None,
) -> Ended:
    """Run a new run to its end, or to a number of steps.

    Signals are forwarded: the first makes it save and stop, the second ends it at once.
    """
    flags = [flag for name in trust for flag in ("--trust", name)]
    # All versions of Lathe have this command, and it takes a folder.
    command = [sys.executable, "-P", "-c", BEGIN, *_entry(code), "resume", str(trial.folder)]
    command += ["--runs-dir", str(trial.runs_dir), *flags, *overrides]
    # In a session of its own, so that Ctrl-C arrives once, through this process.
    child = subprocess.Popen(command, env=dict(environment), stdin=subprocess.DEVNULL, start_new_session=True)
    was_stopped = False
    with _forward_signals(child) as signals:
        tail = JournalTail(trial.folder / "attempts" / "1")
        while child.poll() is None:
            tail.read()
            # Code of an earlier version ignores `steps` in the provenance.
            if steps is not None and not was_stopped and tail.step > steps:
                child.send_signal(signal.SIGTERM)
                was_stopped = True
            time.sleep(POLL_S)
    return Ended(child.returncode, bool(signals))


@contextmanager
def _forward_signals(child: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Forward Ctrl-C and SIGTERM to a process; gives the list of the signals that arrived."""
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in handled_signals()}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def discard(trial: Trial) -> None:
    """Remove a run that never started."""
    if not trial.attempts():
        shutil.rmtree(trial.folder, ignore_errors=True)


def status(trial: Trial) -> tuple[str, str | None]:
    """The status of a run and its reason, as the launcher recorded them."""
    outcome: dict[str, Any] = trial.outcome() or {"status": "killed", "reason": "the process ended without a report"}
    return str(outcome["status"]), outcome.get("reason")


def last_step(trial: Trial) -> int:
    """The last step of a run; not every step has metrics."""
    tails = [JournalTail(folder) for folder in trial.attempts()]
    for tail in tails:
        tail.read()
    return max((tail.step for tail in tails), default=0)
