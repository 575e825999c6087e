"""One attempt at a trial, from its parts to its last word in the journal."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import numpy
import torch

from experiments.components.assemble import assemble
from experiments.components.instantiate import describe_error
from experiments.core.errors import InputError, TrainingError
from experiments.core.seeding import derive_seed
from experiments.plan.plan import Plan, make_plan
from experiments.run.checkpoint import CheckpointError, Checkpoints
from experiments.run.failure import CONFIG, DEVICE_MEMORY, DISK, EXCEPTION, HOST_MEMORY
from experiments.run.history import read_previous_attempts
from experiments.run.journal import Journal
from experiments.run.rank_reports import SECONDARY, log_name, write_error
from experiments.train.determinism import set_level
from experiments.train.trainer import Trainer
from experiments.trial.initial_weights import FILE, get_initial_weights
from experiments.trial.trial import Trial
from launchers.base import DISK_FULL, DONE, FAILED, WRONG_INPUT
from modules.data.base import DataError
from modules.parallel.base import Rank

LOST = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "NCCL")
"""Parts of what torch says when a rank has gone."""


def run_attempt(
    trial: Trial,
    number: int,
    trust: tuple[str, ...],
    rank: Rank,
    journal: Journal,
    should_stop: Callable[[], str | None],
    make: Callable[..., Trainer] = Trainer,
) -> int:
    """Train as one rank, or be what ``make`` makes, and say how it ended: in the journal, and beside it where others are.

    Returns:
        The exit code of the job.
    """
    done = 0

    def on_running(step: int, warning: str | None) -> None:
        nonlocal done
        done = step
        if warning and rank.number == 0:
            print(f"warning: {warning}", file=sys.stderr)
        journal.state("running", step=step, attempt=number, reason=warning)

    def fail(reason: str, code: int, failure: str, *, unexpected: bool = False, follows: bool = False) -> int:
        folder = trial.folder / "attempts" / str(number)
        try:
            if unexpected:
                traceback.print_exc()
                reason = f"{reason}; the traceback is in {folder / log_name(rank.number)}"
            print(reason, file=sys.stderr)
        except OSError:
            _be_silent()
        try:
            if has_others:
                write_error(folder, rank.number, reason, follows=follows, failure=failure)
            if not follows:  # who began it is for the launching side to say
                step = training.done if training else done
                journal.state("failed", step=step, attempt=number, reason=reason, failure=failure)
        except OSError:
            _be_silent()
            return DISK_FULL
        return code

    training: Trainer | None = None
    has_others = rank.meeting != ""
    try:
        config = trial.config_of(number)
        _set_threads(config["hardware"], shares_cores=rank.meeting.startswith("file://"))
        set_level(config["determinism"], lambda warning: on_running(training.done if training else 0, warning))
        checkpoints = Checkpoints(trial.folder, config["checkpoint"]["keep_last"], number)
        plan = make_plan(config)
        if config["hardware"]["memory_gb"] is not None:
            # Only where it is stated: counting takes 40 ms for the smallest model (2026-11, one core) and more for a
            # larger one, and what the machine really has shows by itself.
            from experiments.plan.estimate import refuse_too_large

            refuse_too_large(config, plan, trust)
        random.seed(derive_seed(config["seed"], "python"))
        numpy.random.seed(derive_seed(config["seed"], "numpy") % 2**32)
        parts = assemble(config, trust, trial.folder / FILE if get_initial_weights(config) else None)
        training = make(
            config, plan, parts, journal, checkpoints, should_stop, on_running,
            read_previous_attempts(trial.folder, number), rank,
            trial.folder / "attempts" / str(number) / "profile" if config["profile"] else None,
            flops_per_step=_work(config, plan, trust) if rank.number == 0 else None,
            folder=trial.folder / "attempts" / str(number),
            last_step=(trial.provenance.get("reproduces") or {}).get("steps"),
        )  # fmt: skip
        state, why = training.run()
        journal.state(state, step=training.done, attempt=number, reason=why)
        return DONE if state == "finished" else FAILED
    except (InputError, DataError) as err:
        return fail(str(err), WRONG_INPUT, CONFIG)
    except (TrainingError, CheckpointError) as err:
        return fail(f"{type(err).__name__}: {err}", FAILED, class_of(err))
    except Exception as err:  # code of anyone's; nothing is swallowed: the log has the traceback
        if has_others and _is_of_another_rank(err):
            return fail(f"{SECONDARY}: {describe_error(err)}", FAILED, EXCEPTION, follows=True)
        return fail(_reason(err), FAILED, class_of(err), unexpected=True)


def _set_threads(hardware: Mapping[str, Any], *, shares_cores: bool) -> None:
    """As many threads as were asked for; ranks that meet at a file of this machine share its cores, others have their own."""
    if hardware["cpu_threads"]:
        torch.set_num_threads(hardware["cpu_threads"])
    elif shares_cores:
        torch.set_num_threads(max(1, torch.get_num_threads() // hardware["devices_per_node"]))


def _is_of_another_rank(err: Exception) -> bool:
    """Whether an error says no more than that a connection to another rank is gone."""
    return isinstance(err, torch.distributed.DistError) or any(sign in str(err) for sign in LOST)


def _work(config: Mapping[str, Any], plan: Plan, trust: tuple[str, ...]) -> int | None:
    """Operations of one update, counted where a peak is stated that they are held against."""
    if config["hardware"]["peak_tflops"] is None:
        return None
    from experiments.plan.estimate import work_of

    return work_of(config, plan, trust)


def _reason(err: Exception) -> str:
    if isinstance(err, OSError) and err.strerror:
        return f"{type(err).__name__}: {err.strerror}" + (f" ({err.filename})" if err.filename else "")
    way_out = "; lower batch_size_per_device" if isinstance(err, (torch.OutOfMemoryError, MemoryError)) else ""
    return f"{describe_error(err)}{way_out}"


def class_of(err: BaseException) -> str:
    """The class of what ended a training."""
    cause = err.__cause__ or err
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return DISK
    if isinstance(err, torch.OutOfMemoryError):
        return DEVICE_MEMORY
    # What torch's own allocator for the CPU raises is a plain RuntimeError.
    if isinstance(err, MemoryError) or "DefaultCPUAllocator" in str(err):
        return HOST_MEMORY
    return EXCEPTION


def _be_silent() -> None:
    """Print to nowhere: what Python could not flush at its end would change the exit code."""
    with contextlib.suppress(OSError):
        for descriptor in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
