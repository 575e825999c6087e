"""One attempt at one trial, in a process of its own: `python -m experiments.job`, told by a line on standard input."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path

import torch

from experiments.checkpoint import CheckpointError, Checkpoints
from experiments.faults import InputError
from experiments.journal import Journal
from experiments.parts import make_parts
from experiments.plan import make_plan
from experiments.run import Training, TrainingError
from experiments.trial import Trial
from modules.data.base import DataError

WRONG_INPUT, FAILED, DONE = 2, 1, 0


class _Stop:
    """The reason to stop after the step that runs: a signal, or the launching process has gone."""

    def __init__(self) -> None:
        self.reason: str | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        threading.Thread(target=self._watch_launcher, daemon=True).start()

    def __call__(self) -> str | None:
        return self.reason

    def _on_signal(self, number: int, frame: object) -> None:
        self.reason = signal.Signals(number).name

    def _watch_launcher(self) -> None:
        while os.read(0, 4096):
            pass
        self.reason = self.reason or "the launching process has gone"


def _run(trial: Trial, attempt: int, trust: tuple[str, ...], journal: Journal) -> int:
    stop = _Stop()
    last_step = 0

    def on_start(step: int) -> None:
        nonlocal last_step
        last_step = step
        journal.state("running", step=step, attempt=attempt)

    def fail(reason: str, code: int) -> int:
        print(reason, file=sys.stderr)
        journal.state("failed", step=last_step, attempt=attempt, reason=reason)
        return code

    try:
        config = trial.config
        if config["hardware"]["cpu_threads"]:
            torch.set_num_threads(config["hardware"]["cpu_threads"])
        checkpoints = Checkpoints(trial.folder, config["checkpoint"]["keep_last"])
        training = Training(config, make_plan(config), make_parts(config, trust), journal, checkpoints, stop, on_start)
        state, step, why = training.run()
        journal.state(state, step=step, attempt=attempt, reason=why)
        return DONE if state == "finished" else FAILED
    except (InputError, DataError) as err:
        return fail(str(err), WRONG_INPUT)
    except (TrainingError, CheckpointError) as err:
        return fail(f"{type(err).__name__}: {err}", FAILED)
    except Exception as err:  # the launching side shows the reason; the log keeps the traceback
        traceback.print_exc()
        return fail(f"{type(err).__name__}: {err}", FAILED)


def main() -> int:
    """Wait for an assignment and run it; an empty line of input means that there is none."""
    with open(0, "rb", buffering=0, closefd=False) as stdin:  # unbuffered: the watching thread reads on from here
        line = stdin.readline()
    if not line:
        return DONE
    order = json.loads(line)
    trial, attempt = Trial(Path(order["folder"])), int(order["attempt"])
    folder = trial.folder / "attempts" / str(attempt)
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if order["trust"]:
        sys.path.append(os.getcwd())
    with Journal(folder / "journal.jsonl") as journal:
        return _run(trial, attempt, tuple(order["trust"]), journal)


if __name__ == "__main__":
    sys.exit(main())
