"""Runs one attempt of a trial in this process, and reports how it ended."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import sys
import tempfile
import traceback
import warnings
from bdb import BdbQuit
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy
import torch

from experiments.components.assemble import assemble
from experiments.components.instantiate import describe_error
from experiments.components.load_weights import Loading
from experiments.components.user_code import find_user_frame, get_message
from experiments.core.atomic import write_text
from experiments.core.errors import InputError, TrainingError
from experiments.core.seeding import derive_seed
from experiments.plan.plan import Plan, make_plan
from experiments.run.checkpoint import CheckpointError, Checkpoints
from experiments.run.failure import CONFIG, DATA_LOST, DEVICE_MEMORY, DISK, EXCEPTION, HOST_MEMORY
from experiments.run.folder_watch import lacks_file_of
from experiments.run.history import read_previous_attempts
from experiments.run.journal import Journal, JournalLostError
from experiments.run.rank_reports import ERROR_FOLLOWS, HAS_TRACEBACK, SECONDARY, log_name, write_error
from experiments.train.determinism import set_level
from experiments.train.evaluation.split_evaluation import SplitEvaluation
from experiments.train.trainer import Trainer
from experiments.trial.debug_run import shorten
from experiments.trial.initial_weights import FILE, check_copy, get_initial_weights
from experiments.trial.trial import Trial
from launchers.base import DISK_FULL, DONE, FAILED, JOURNAL_LOST, WRONG_INPUT
from launchers.ownership import make_private
from modules.data.base import ComponentWarning, DataError
from modules.parallel.base import Rank

WEIGHT_NAMES = "initial_weights.json"
"""File in the folder of an attempt: the names of the weights that `init_from` loaded, left random and did not use."""
CONNECTION_ERRORS = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "NCCL")
"""Parts of torch's errors when another rank has ended."""
OWN_ERRORS = (
    "gloo/transport/tcp/device.cc",
    "ncclInvalid",
    "ncclUnhandledCudaError",
    "no socket interface",
    "Duplicate GPU",
)
"""Parts of errors of gloo and NCCL about this rank's own machine: a network interface or a GPU."""


def run_attempt(
    trial: Trial,
    number: int,
    trust: tuple[str, ...],
    rank: Rank,
    journal: Journal,
    should_stop: Callable[[], str | None],
    make: Callable[..., Trainer] = Trainer,
    on_error: Callable[[Exception], None] | None = None,
) -> int:
    """Train as one rank, and report the end in the journal; with several ranks, also in a file of this rank.

    Args:
        trial: to train.
        number: of the attempt.
        trust: packages, besides the built-in ones, whose classes the trial may name.
        rank: this rank.
        journal: of rank 0; other ranks write to /dev/null.
        should_stop: returns why the training should stop, or None.
        make: the class of the trainer.
        on_error: called with the error that ends the attempt, instead of printing it.

    Returns:
        The exit code of the process.
    """
    done = 0

    def on_running(step: int, warning: str | None) -> None:
        nonlocal done
        done = step
        if warning and rank.number == 0:
            print(f"warning: {warning}", file=sys.stderr)
        based_on = training.based_on if training else None
        journal.state("running", step=step, attempt=number, reason=warning, based_on=based_on)

    def fail(
        err: Exception, reason: str, code: int, failure: str, *, unexpected: bool = False, follows: bool = False
    ) -> int:
        folder = trial.folder / "attempts" / str(number)
        if unexpected or (not follows and find_user_frame(err, trust) is not None):
            reason = f"{reason}{HAS_TRACEBACK}{folder / log_name(rank.number)}"
        try:
            if on_error is not None:
                on_error(err)
            else:
                _print_error(err, reason, trust, unexpected=unexpected, follows=follows)
        except OSError:
            _silence_output()
        try:
            if has_others:
                write_error(folder, rank.number, reason, follows=follows, failure=failure)
            if not follows:  # the launching side reports the rank that failed first
                step = training.done if training else done
                journal.state("failed", step=step, attempt=number, reason=reason, failure=failure)
        except OSError:
            _silence_output()
            return DISK_FULL
        except JournalLostError:
            return JOURNAL_LOST
        return code

    training: Trainer | None = None
    has_others = rank.rendezvous != ""
    try:
        config = trial.read_attempt_config(number)
        _set_threads(config["hardware"], shares_cores=rank.rendezvous.startswith("file://"))

        def warn(warning: str) -> None:
            on_running(training.done if training else 0, warning)

        set_level(config["determinism"], warn)
        _redirect_warnings(warn)
        checkpoints = Checkpoints(trial.folder, config["checkpoint"]["keep_last"], number, writer=journal)
        plan, config = make_plan(config), shorten(config)
        if config["hardware"]["memory_gb"] is not None:
            # Only if it is stated: the estimate takes 40 ms for the smallest model (2026-11, one core), and without a
            # limit the machine itself shows when its memory is full.
            from experiments.plan.estimate import refuse_if_too_large

            refuse_if_too_large(config, plan, trust)
        if config["compile"]:
            _choose_compile_cache()
        random.seed(derive_seed(config["seed"], "python"))
        numpy.random.seed(derive_seed(config["seed"], "numpy") % 2**32)
        initial = trial.folder / FILE if get_initial_weights(config) else None
        if initial is not None and trial.evaluates is None and rank.number == 0:
            check_copy(trial.folder, trial.provenance)
        components = assemble(config, trust, initial)
        if components.loading is not None and rank.number == 0:
            _report_loading(components.loading, trial.folder, number, journal, warn)
        if trial.evaluates is not None:
            make = partial(SplitEvaluation, evaluates=trial.evaluates)
        training = make(
            config, plan, components, journal, checkpoints, should_stop, on_running,
            read_previous_attempts(trial.folder, number), rank,
            trial.folder / "attempts" / str(number) / "profile" if config["profile"] else None,
            flops_per_step=_count_flops_per_step(config, plan, trust) if rank.number == 0 else None,
            folder=trial.folder / "attempts" / str(number),
            last_step=(trial.provenance.get("reproduces") or {}).get("steps"),
        )  # fmt: skip
        state, reason = training.run()
        journal.state(state, step=training.done, attempt=number, reason=reason)
        return DONE if state == "finished" else FAILED
    except (InputError, DataError) as err:
        if classify_failure(err, trial.folder) == DATA_LOST:
            return fail(err, str(err), FAILED, DATA_LOST)
        return fail(err, str(err), WRONG_INPUT, CONFIG)
    except JournalLostError as err:
        return fail(err, f"{type(err).__name__}: {err}", FAILED, DATA_LOST)
    except (TrainingError, CheckpointError) as err:
        return fail(err, f"{type(err).__name__}: {get_message(err)}", FAILED, classify_failure(err, trial.folder))
    except Exception as err:  # user code may raise anything; the log gets the traceback
        if on_error is not None and isinstance(err, BdbQuit):  # the user has left the debugger
            raise
        if has_others and _is_caused_by_another_rank(err):
            return fail(err, f"{SECONDARY}: {describe_error(err)}", FAILED, EXCEPTION, follows=True)
        return fail(err, _describe(err), FAILED, classify_failure(err, trial.folder), unexpected=True)


def _report_loading(loading: Loading, folder: Path, number: int, journal: Journal, warn: Callable[[str], None]) -> None:
    """Log which initial weights were loaded: their numbers in the journal, their names in a file."""
    groups = {"loaded": loading.loaded, "random": loading.random, "unused": loading.unused}
    path = f"attempts/{number}/{WEIGHT_NAMES}"
    write_text(folder / path, json.dumps(groups, indent=1))
    journal.artifact(path)
    journal.params({f"init_from.num_{name}": len(names) for name, names in groups.items()})
    if loading.warning:
        warn(loading.warning)


def _print_error(err: Exception, reason: str, trust: tuple[str, ...], *, unexpected: bool, follows: bool) -> None:
    """Log the error that ends this process: the line of the user's code first, then the whole traceback, then the reason.

    The launching side shows what is above `ERROR_FOLLOWS`, and the reason in its own way.
    """
    frame = None if follows else find_user_frame(err, trust)
    if frame is not None:
        print(frame, file=sys.stderr)
    if not follows:
        print(ERROR_FOLLOWS, file=sys.stderr)
    if frame is not None or unexpected:
        traceback.print_exception(err)
    print(reason, file=sys.stderr)


def _redirect_warnings(warn: Callable[[str], None]) -> None:
    """Add the warnings of components to those of the run; other warnings are shown as before."""
    show = warnings.showwarning

    def on_warning(
        message: Warning | str, category: type[Warning], filename: str, lineno: int,
        file: TextIO | None = None, line: str | None = None,
    ) -> None:  # fmt: skip
        if issubclass(category, ComponentWarning):
            warn(str(message))
        else:
            show(message, category, filename, lineno, file, line)

    warnings.showwarning = on_warning
    warnings.filterwarnings("always", category=ComponentWarning)


def _set_threads(hardware: Mapping[str, Any], *, shares_cores: bool) -> None:
    """Set torch's threads as configured. By default ranks that share the cores of this machine divide them."""
    if hardware["cpu_threads"]:
        torch.set_num_threads(hardware["cpu_threads"])
    elif shares_cores:
        torch.set_num_threads(max(1, torch.get_num_threads() // hardware["devices_per_node"]))


def _choose_compile_cache() -> None:
    """Let torch keep compiled code in a folder of this user. Its own default is a name in /tmp that others can guess.

    Raises:
        InputError: another user has made the folder.
    """
    if os.environ.get("TORCHINDUCTOR_CACHE_DIR"):
        return
    folder = Path(tempfile.gettempdir()) / f"lathe-compiled-{os.getuid()}"
    try:
        make_private(folder)
    except PermissionError as err:
        raise InputError(
            [f"{err}, and compiled code in it would run as you; set TORCHINDUCTOR_CACHE_DIR to a folder of your own"]
        ) from err
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


def _is_caused_by_another_rank(err: Exception) -> bool:
    """Return whether an error only means that the connection to another rank is lost."""
    text = str(err)
    if any(sign in text for sign in OWN_ERRORS):
        return False
    return isinstance(err, torch.distributed.DistError) or any(sign in text for sign in CONNECTION_ERRORS)


def _count_flops_per_step(config: Mapping[str, Any], plan: Plan, trust: tuple[str, ...]) -> int | None:
    """Return the operations of one update; None without `hardware.peak_tflops` to compare them with."""
    if config["hardware"]["peak_tflops"] is None:
        return None
    from experiments.plan.estimate import flops_per_step

    return flops_per_step(config, plan, trust)


def _describe(err: Exception) -> str:
    if isinstance(err, OSError) and err.strerror:
        return f"{type(err).__name__}: {err.strerror}" + (f" ({err.filename})" if err.filename else "")
    hint = "; lower batch_size_per_device" if isinstance(err, (torch.OutOfMemoryError, MemoryError)) else ""
    if isinstance(err, BdbQuit) or "EOF when reading a line" in str(
        err
    ):  # of a data worker, whose standard input is empty
        hint = "; a debugger or input() needs a terminal: set num_data_workers=0 and add --here to `lathe run`"
    return f"{describe_error(err)}{hint}"


def classify_failure(err: BaseException, run_folder: Path) -> str:
    """Return the failure class of an exception, of `experiments.run.failure`.

    Args:
        err: ended the attempt.
        run_folder: a file that is missing there was removed or renamed while the attempt ran.
    """
    if lacks_file_of(run_folder, err):
        return DATA_LOST
    cause = err.__cause__ or err
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return DISK
    if isinstance(err, torch.OutOfMemoryError):
        return DEVICE_MEMORY
    # torch's CPU allocator raises a plain RuntimeError.
    if isinstance(err, MemoryError) or "DefaultCPUAllocator" in str(err):
        return HOST_MEMORY
    return EXCEPTION


def _silence_output() -> None:
    """Send output to /dev/null: text that Python cannot flush at exit would change the exit code."""
    with contextlib.suppress(OSError):
        for descriptor in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
