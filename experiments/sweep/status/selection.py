"""Selects trials of a sweep, and cancels them."""

from __future__ import annotations

import getpass
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, get_args

from experiments.core import renamed
from experiments.core.errors import InputError, did_you_mean
from experiments.core.format import format_value
from experiments.run.state import is_cancel_requested, request_cancel
from experiments.sweep.ledger import ENDED, Entry, Ledger, LedgerState, State
from experiments.sweep.status.progress import read_progress
from experiments.sweep.status.text import format_counts
from experiments.sweep.submit import find_submitted
from experiments.sweep.sweep import Sweep, format_reference
from experiments.sweep.worker.reaper import reap
from launchers.base import Executor

STATES: tuple[State, ...] = get_args(State)
SAVE_S = 20.0
"""How long running trials may take to save, before their workers are killed."""
POLL_S = 0.3
REAP_EVERY_S = 5.0


def select(ledger_state: LedgerState, args: Sequence[str], sweep: str) -> list[Entry]:
    """Select trials by id or its beginning, by state, or by an override in the space.

    Arguments of the same kind select more trials (two ids, two values of a key); those of different kinds select fewer.

    Raises:
        InputError: with every argument that selects no trial.
    """
    problems: list[str] = []
    selected: dict[str, set[str]] = {}
    for argument in args:
        kind = argument.partition("=")[0] if "=" in argument else "state" if argument in STATES else "trial"
        try:
            selected.setdefault(kind, set()).update(_select_one(ledger_state, argument, sweep))
        except InputError as err:
            problems += err.problems
    if problems:
        raise InputError(problems)
    return [entry for entry in ledger_state.entries.values() if all(entry.id in ids for ids in selected.values())]


def _select_one(ledger_state: LedgerState, argument: str, sweep: str) -> list[str]:
    """Ids of the trials that one argument selects."""
    entries = ledger_state.entries
    if "=" in argument:
        return _select_by_override(ledger_state, argument, sweep)
    if argument in STATES:
        return [entry.id for entry in entries.values() if entry.state == argument]
    matches = [argument] if argument in entries else [name for name in entries if name.startswith(argument)]
    if len(matches) == 1:
        return matches
    if matches:
        raise InputError(
            [
                f"trial '{argument}' is not unique in sweep '{sweep}': {', '.join(matches[:6])}; write more characters of it"
            ]
        )
    states = f"states are {', '.join(STATES)}, and `lathe status {sweep} --all` lists the trials"
    new = renamed.state(argument)
    hint = renamed.suggestion(argument, [*entries, *STATES], states)
    if new not in (argument, *STATES):
        hint = f"it is now called {new!r}, which only runs outside sweeps are; {states}"
    raise InputError([f"there is no trial '{argument}' in sweep '{sweep}'; {hint}"])


def _select_by_override(ledger_state: LedgerState, override: str, sweep: str) -> list[str]:
    from experiments.config.overrides import read_override
    from experiments.config.sweep_values import SweepValues

    key, value = read_override(override)
    known = list(dict.fromkeys(key for entry in ledger_state.entries.values() for key in entry.values))
    if key == "seed" and key not in known:
        values: dict[str, Any] = {entry.id: entry.seed for entry in ledger_state.entries.values()}
    elif key not in known:
        names = renamed.new_names(key)
        fits = [full for full in known if any(full == name or full.endswith(f".{name}") for name in names or [key])]
        if fits and names:
            hint = f"it is now called {fits[0]!r}"
        else:
            hint = f"did you mean {fits[0]!r}?" if len(fits) == 1 else did_you_mean(key, known)
        raise InputError([f"{override}: {key} does not vary in sweep '{sweep}'; {hint}"])
    else:
        values = {entry.id: entry.values[key] for entry in ledger_state.entries.values() if key in entry.values}
    choices = value.items if isinstance(value, SweepValues) and value.kind == "choice" else (value,)
    matches = [name for name, own in values.items() if any(_is_same(own, one) for one in choices)]
    if not matches:
        available = ", ".join(dict.fromkeys(map(format_value, values.values())))
        raise InputError([f"{override}: no trial of sweep '{sweep}' has this value; its values are {available}"])
    return matches


def _is_same(one: Any, other: Any) -> bool:
    return bool(one == other) and isinstance(one, bool) is isinstance(other, bool)


def cancel(
    sweep: Sweep,
    executor: Executor,
    args: Sequence[str] = (),
    say: Callable[[str], None] = print,
    save_s: float = SAVE_S,
) -> None:
    """Cancel trials: pending ones do not start, running ones save and stop.

    Args:
        sweep: the sweep of the trials.
        executor: runs the workers. If all trials are cancelled, the workers end too.
        args: the trials, as in `select`; none: all, and no further trial starts.
        say: receives each line for the user.
        save_s: how long running trials may take to save before their workers are ended.

    Raises:
        InputError: an argument selects no trial.
        LaunchError: the scheduler does not end the workers.
    """
    ledger, by = sweep.ledger(), f"cancelled by {user_name()}"
    select(ledger.read(), args, sweep.name)
    reap(sweep, ledger, executor)
    if not args and _report_if_over(sweep, executor, say):
        return
    with ledger.locked() as ledger_state:
        if not args and ledger_state.closed is None:
            ledger.close(by)
        chosen = {entry.id for entry in select(ledger_state, args, sweep.name)}
        pending = _cancel_pending(ledger, chosen, by)
        running = [
            entry.id for entry in ledger_state.entries.values() if entry.id in chosen and entry.state == "running"
        ]
        for trial in running:
            _request_cancel(sweep, ledger_state.entries[trial])
    say(_describe_request(sweep.name, args, len(pending), len(running), len(chosen)))
    have_ended = not running or _wait_for_end(sweep, ledger, running, by, say, save_s)
    if not args:
        find_submitted(sweep, ledger, executor)
        jobs = [str(submission["job"]) for submission in ledger.read().submissions]
        if jobs:
            executor.cancel(jobs)
        say(f"its workers stop; `lathe resume {format_reference(sweep)}` runs the remaining trials")
    elif not have_ended:
        say(f"`lathe status {format_reference(sweep)}` shows when they have ended")


def _report_if_over(sweep: Sweep, executor: Executor, say: Callable[[str], None]) -> bool:
    """Whether a sweep has ended. If so, report it, and cancel queued workers."""
    progress = read_progress(sweep, sweep.ledger())
    if not progress.is_over or progress.state == "spent":
        return False
    jobs = [str(submission["job"]) for submission in sweep.ledger().read().submissions]
    if jobs and executor.count_pending(jobs):
        executor.cancel(jobs)
    say(f"sweep {sweep.name} is over: {format_counts(progress)}; nothing is left to cancel")
    return True


def _cancel_pending(ledger: Ledger, chosen: Collection[str], by: str) -> list[str]:
    pending = [entry.id for entry in ledger.state.entries.values() if entry.id in chosen and entry.state == "pending"]
    if pending:
        ledger.cancel(pending, by)
    return pending


def _request_cancel(sweep: Sweep, entry: Entry) -> None:
    """Ask the worker, which looks every second."""
    folder = sweep.folder / entry.id / "attempts" / str(entry.attempt)
    if not is_cancel_requested(folder):
        request_cancel(folder)


def _describe_request(name: str, args: Sequence[str], num_pending: int, num_running: int, num_chosen: int) -> str:
    parts = [f"{num_pending} pending trial{'s' * (num_pending > 1)} cancelled"] * bool(num_pending)
    parts += [f"{num_running} running trial{'s' * (num_running > 1)} asked to save and stop"] * bool(num_running)
    if not parts and args:
        is_ended = f"none of the {num_chosen} selected trials is pending or running"
        parts = [is_ended if num_chosen else f"no trial is {' and '.join(args)}"]
    return f"sweep {name}: {', '.join(parts) or 'no further trial starts'}"


def _wait_for_end(
    sweep: Sweep, ledger: Ledger, trials: Collection[str], by: str, say: Callable[[str], None], save_s: float
) -> bool:
    """Wait until trials have ended; False if time is up or the user interrupts."""
    started = reaped = time.monotonic()
    is_announced = False
    try:
        while left := _find_unfinished(sweep, ledger, trials, by):
            waited_s = time.monotonic() - started
            if waited_s > save_s:
                say(f"{len(left)} of the running trials have not ended within {save_s:.0f} s")
                return False
            if waited_s > 1.0 and not is_announced:
                say(f"waiting up to {save_s:.0f} s until running trials have saved; press Ctrl-C to skip the wait")
                is_announced = True
            if time.monotonic() - reaped > REAP_EVERY_S:
                reap(sweep, ledger, None)
                reaped = time.monotonic()
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        say("no longer waiting; press Ctrl-C again to quit")
        return False
    states = [ledger.state.entries[trial].state for trial in trials]
    say(
        f"trials that were running: {', '.join(f'{states.count(state)} {state}' for state in STATES if state in states)}"
    )
    return True


def _find_unfinished(sweep: Sweep, ledger: Ledger, trials: Collection[str], by: str) -> list[str]:
    """The trials that have not stopped yet. One that became pending meanwhile is cancelled."""
    entries = ledger.read().entries
    if any(entries[trial].state == "pending" for trial in trials):
        with ledger.locked():
            _cancel_pending(ledger, trials, by)
    left = [trial for trial in trials if entries[trial].state not in ENDED]
    for trial in left:
        _request_cancel(sweep, entries[trial])  # a new attempt may have started
    return left


def user_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # an id without an entry in passwd, as in containers
        return "an unknown user"
