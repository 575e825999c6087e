"""One attempt at a trial, from its parts to its last word in the journal."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable

import torch

from experiments.checkpoint import CheckpointError, Checkpoints
from experiments.faults import InputError
from experiments.journal import Journal
from experiments.parts import make_parts
from experiments.plan import make_plan
from experiments.run import Training, TrainingError
from experiments.trial import Trial
from launchers.base import DONE, FAILED, NO_ROOM, WRONG_INPUT
from modules.data.base import DataError


def execute(
    trial: Trial, number: int, trust: tuple[str, ...], journal: Journal, should_stop: Callable[[], str | None]
) -> int:
    """Train, and say in the journal how it ended.

    Returns:
        The exit code of the job.
    """
    done = 0

    def on_running(step: int, warning: str | None) -> None:
        nonlocal done
        done = step
        if warning:
            print(f"warning: {warning}", file=sys.stderr)
        journal.state("running", step=step, attempt=number, reason=warning)

    def fail(reason: str, code: int, *, unexpected: bool = False) -> int:
        try:
            if unexpected:
                traceback.print_exc()
                reason = f"{reason}; the traceback is in {journal.path.with_name('log.txt')}"
            print(reason, file=sys.stderr)
        except OSError:
            _be_silent()
        try:
            journal.state("failed", step=training.done if training else done, attempt=number, reason=reason)
        except OSError:
            _be_silent()
            return NO_ROOM
        return code

    training: Training | None = None
    try:
        config = trial.config
        if config["hardware"]["cpu_threads"]:
            torch.set_num_threads(config["hardware"]["cpu_threads"])
        checkpoints = Checkpoints(trial.folder, config["checkpoint"]["keep_last"])
        plan, parts = make_plan(config), make_parts(config, trust)
        training = Training(config, plan, parts, journal, checkpoints, should_stop, on_running)
        state, why = training.run()
        journal.state(state, step=training.done, attempt=number, reason=why)
        return DONE if state == "finished" else FAILED
    except (InputError, DataError) as err:
        return fail(str(err), WRONG_INPUT)
    except (TrainingError, CheckpointError) as err:
        return fail(f"{type(err).__name__}: {err}", FAILED)
    except Exception as err:
        return fail(_in_a_line(err), FAILED, unexpected=True)


def _in_a_line(err: Exception) -> str:
    if isinstance(err, OSError) and err.strerror:
        return f"{type(err).__name__}: {err.strerror}" + (f" ({err.filename})" if err.filename else "")
    text = " ".join(str(err).split())
    way_out = "; lower batch_size_per_device" if isinstance(err, (torch.OutOfMemoryError, MemoryError)) else ""
    return f"{type(err).__name__}: {text[:500]}{way_out}"


def _be_silent() -> None:
    """Print to nowhere: what Python could not flush at its end would change the exit code."""
    with contextlib.suppress(OSError):
        for descriptor in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
