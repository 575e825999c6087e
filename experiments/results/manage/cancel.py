"""`lathe cancel` of a run, a sweep, or some trials of a sweep."""

from __future__ import annotations

import time
from argparse import Namespace
from functools import partial
from pathlib import Path

from experiments.config.allowlist import trusted
from experiments.core.errors import InputError
from experiments.launch.stop import get_stop_timeout_s
from experiments.results.manage.facts import read_state
from experiments.results.manage.find import find_run_or_sweep, find_sweep_of
from experiments.results.manage.logs import describe_state
from experiments.run.state import request_cancel
from experiments.sweep.status import selection
from experiments.sweep.status.progress import warn_of_damage
from experiments.sweep.sweep import Sweep
from experiments.trial.trial import Trial

POLL_S = 0.2
EXTRA_S = 5.0
"""How much longer than `stop_timeout_s` to wait: the launching process writes how the run ended."""

say = partial(print, flush=True)


def cancel(args: Namespace) -> int:
    """Let a run, or the trials of a sweep, save and stop.

    Returns:
        0; 1 if a run has not stopped in its time.

    Raises:
        InputError: there is no such run, sweep or trial.
    """
    trust = trusted(args.trust)
    target = find_run_or_sweep(args.target, Path(args.runs_dir), trust)
    if isinstance(target, Sweep):
        _cancel_trials(target, args.trials)
        return 0
    if args.trials:
        raise InputError([f"{args.trials[0]}: '{args.target}' is a run, not a sweep with trials; leave it out"])
    if (sweep := find_sweep_of(target, trust)) is not None:
        _cancel_trials(sweep, [target.folder.name])
        return 0
    return _cancel_run(target)


def _cancel_trials(sweep: Sweep, trials: list[str]) -> None:
    (ledger := sweep.ledger()).read()
    warn_of_damage(ledger)
    executor = sweep.observer()
    if executor is None:
        sweep.check()
        executor = sweep.executor()
    selection.cancel(sweep, executor, trials, say=say)


def _cancel_run(trial: Trial) -> int:
    name, attempts = trial.folder.name, trial.attempts()
    before = read_state(trial)
    is_starting = bool(attempts) and int(attempts[-1].name) > before.attempt
    if not attempts or (before.state != "running" and not is_starting):
        say(f"run {name} is not running ({describe_state(before)}); nothing is left to cancel")
        return 0
    attempt = int(attempts[-1].name)
    try:
        request_cancel(attempts[-1])
    except OSError as err:
        raise InputError(
            [f"run '{name}' cannot be asked to stop: {err.strerror} ({err.filename}); make it writable"]
        ) from err
    limit_s = get_stop_timeout_s(trial.read_attempt_config(attempt))
    say(f"run {name}: asked to save and stop; waiting up to {limit_s:.0f} s (press Ctrl-C to skip the wait)")
    deadline = time.monotonic() + limit_s + EXTRA_S
    try:
        while (outcome := trial.outcome()) is None or int(outcome["attempt"]) < attempt:
            if time.monotonic() > deadline or not trial.folder.is_dir():
                say(
                    f"run {name} has not stopped; if its machine is gone, `lathe resume {trial.reference}` continues it"
                )
                return 1
            if read_state(trial).state != "running" and not is_starting:
                break  # what started it is gone too, so it writes no outcome
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        say(f"no longer waiting; `lathe status {trial.reference}` shows when it has ended")
        return 0
    say(f"run {name}: {describe_state(read_state(trial))}; `lathe resume {trial.reference}` continues it")
    return 0
