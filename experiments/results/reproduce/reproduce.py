"""`lathe reproduce RUN`: runs a run again with its own code, and reports whether the metrics are the same."""

from __future__ import annotations

import re
import shlex
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.config import options
from experiments.core import renamed
from experiments.core.atomic import write_text
from experiments.core.console import Display
from experiments.core.errors import InputError, did_you_mean
from experiments.core.signals import signals_as_interrupt
from experiments.results.compare.differences import differences
from experiments.results.compare.tables import streams_table
from experiments.results.reproduce import rerun
from experiments.results.reproduce.environment import (
    find_data_changes,
    find_environment_changes,
    reproducing_variables,
)
from experiments.results.reproduce.original import Original, open_original
from experiments.results.reproduce.verdict import Verdict, choose_terms, judge
from experiments.run.metric_comparison import VERDICT
from experiments.run.split_digest import PARTIAL, differ, is_partial
from experiments.tracking.store_uri import StoreError
from experiments.trial import resume
from experiments.trial.code_restore import restore_code
from experiments.trial.lookup import find_run, read_mlflow_ids
from experiments.trial.record import RunRecord, record_trial
from experiments.trial.trial import Trial, to_yaml

AS_BEFORE = "environment and hardware are those of the run; the data is compared with that of the run when it is read"
CHANGEABLE = tuple(key for key in resume.CHANGEABLE if key not in ("launcher", "data_root", "checkpoint.keep_last"))
"""Top-level keys that change where a run computes, not what."""


def reproduce(args: Namespace) -> int:
    """Restore the code of a run, run it again under the same plan, and compare.

    Returns:
        0 if the metrics are identical or within tolerance, 1 if they differ or the run failed.

    Raises:
        InputError: the arguments or the original do not allow a reproduction.
    """
    _check(args)
    with signals_as_interrupt(), open_original(args) as original:
        steps = _last_step(original, args)
        if args.check is not None:
            return _compare(original, args, steps)
        return _run_again(original, args, steps)


def _check(args: Namespace) -> None:
    problems = []
    if args.steps is not None and args.steps < 1:
        problems.append(f"--steps {args.steps} is not a number of steps; write 1 or more")
    if args.tolerance is not None and not 0 <= args.tolerance < float("inf"):
        problems.append(f"--tolerance {args.tolerance} is not a distance; write 0, 1e-6 or the like")
    if args.check is not None and args.overrides:
        problems.append(
            f"{args.overrides[0]}: --check runs nothing, so overrides have no effect; leave out --check or the overrides"
        )
    problems += [
        f"{text}: a reproduction can change only where it runs ({', '.join(CHANGEABLE)}), not {key}; "
        f"{did_you_mean(key, CHANGEABLE, otherwise='`lathe run` starts a new run')}"
        for text in args.overrides
        if (key := re.split(r"[.=]", text.lstrip("+~"), maxsplit=1)[0]) not in CHANGEABLE
    ]
    if problems:
        raise InputError(problems)


def _check_choices(overrides: Sequence[str], config_dirs: Sequence[str]) -> None:
    """Report unknown options before any code is restored."""
    known = options.groups([Path(folder) for folder in config_dirs])
    chosen = [(text, *text.partition("=")[::2]) for text in overrides if text.partition("=")[0] in known]
    problems = [
        f"{text}: there is no such option; {renamed.suggestion(option, known[group])}"
        for text, group, option in chosen
        if option not in known[group]
    ]
    if problems:
        raise InputError(problems)


def _last_step(original: Original, args: Namespace) -> int | None:
    """The last step that is compared; None: all steps."""
    if original.is_finished:
        return None if args.steps is None else int(args.steps)
    return original.last_step if args.steps is None else min(args.steps, original.last_step)


def _compare(original: Original, args: Namespace, steps: int | None) -> int:
    """Compare an existing run with the original."""
    trial = find_run(args.check, Path(args.runs_dir))
    other = _record(trial)
    if not other.streams:
        raise InputError([f"--check {args.check} has no metrics to compare; run it first"])
    status, reason = _find_end(trial, steps, was_interrupted=False)
    terms = choose_terms(original.record, other, tolerance=args.tolerance, up_to=steps, mixed=original.mixed)
    lines = _data_lines(original.record, other)
    verdict = judge(original.record, other, terms, status=status, reason=reason, data=lines)
    display = Display(sys.stdout)
    for line in [*lines, *_partial_lines(original.record, other)]:
        display.say(line)
    groups = [group for group, rows in differences(original.record, other).groups.items() if rows]
    if groups:
        display.say(
            f"the two differ in {', '.join(groups)}; `lathe diff {args.run} {args.check}` shows the differences"
        )
    _show(verdict, display)
    return verdict.code


def _run_again(original: Original, args: Namespace, steps: int | None) -> int:
    """Run the original again, and compare."""
    display, record = Display(sys.stdout), original.record
    runs_dir = Path(args.runs_dir).resolve()
    trust = original.trust
    _check_nodes(record, args.overrides)
    _check_choices(args.overrides, original.config_dirs)
    with restore_code(
        record.code, original.files, trust, runs_dir, keep=args.keep_code, only_merged=not original.is_trusted
    ) as code:
        variables, problems = reproducing_variables(record, _ranks(record.config))
        if args.overrides:
            variables = {}
            problems = [f"hardware: it runs with {' '.join(args.overrides)}, so it is compared with a tolerance"]
        problems = [*original.problems, *code.problems, *find_environment_changes(record), *problems]
        problems += find_data_changes(record.config, record.data)
        display.say(f"reproducing {args.run}: {record.config['name']}")
        for line in [*code.messages, *problems, *([AS_BEFORE] if not problems else [])]:
            display.say(line)
        environment = rerun.child_environment(code, variables)
        trial = rerun.new_run(original, code, runs_dir, steps)
        overrides = list(args.overrides)
        if rerun.has_first_names(code):
            overrides = renamed.original_overrides(overrides)
        ended = rerun.execute(trial, code, environment, trust, overrides, steps)
        if args.keep_code:
            commands = (f"`git worktree remove --force {shlex.quote(str(root))}`" for root in code.roots)
            display.say(f"the restored code stays here; remove it with {' and '.join(commands)}")
    return _report(original, trial, ended, args, steps, problems)


def _ranks(config: Mapping[str, Any]) -> int:
    return int(config["hardware"]["nodes"]) * int(config["hardware"]["devices_per_node"])


def _check_nodes(record: RunRecord, overrides: Sequence[str]) -> None:
    nodes = record.config["hardware"]["nodes"]
    if nodes > 1 and not any(text.startswith("hardware") for text in overrides):
        raise InputError(
            [
                f"the run used hardware.nodes={nodes}, and a reproduction runs on this machine only; choose another hardware, "
                "such as `parallel=single hardware=local`"
            ]
        )


def _report(
    original: Original, trial: Trial, ended: rerun.Ended, args: Namespace, steps: int | None, problems: Sequence[str]
) -> int:
    """Write the verdict to the terminal, to the folder of the run and to MLflow."""
    display = Display(sys.stdout)
    if not trial.folder.exists() or not trial.attempts():
        rerun.discard(trial)
        display.say(
            "interrupted before it started" if ended.was_interrupted else "the restored code cannot run this; see above"
        )
        return 1 if ended.was_interrupted else ended.code or 1
    other = _record(trial)
    status, reason = _find_end(trial, steps, was_interrupted=ended.was_interrupted)
    terms = choose_terms(original.record, other, tolerance=args.tolerance, up_to=steps, mixed=original.mixed)
    lines = _data_lines(original.record, other)
    verdict = judge(original.record, other, terms, status=status, reason=reason, data=lines)
    for line in [*lines, *_partial_lines(original.record, other)]:
        display.say(line)
    content = verdict.plain() | {
        "reproduces": dict(original.link),
        "overrides": args.overrides,
        "problems": [*problems, *lines],
    }
    write_text(trial.folder / VERDICT, to_yaml(content))
    _show(verdict, display)
    display.say(f"verdict: {trial.folder / VERDICT}")
    _sync(trial, display)
    return verdict.code


def _record(trial: Trial) -> RunRecord:
    """The record of a repetition, with the configuration of its last attempt."""
    record, attempts = record_trial(trial), trial.attempts()
    return replace(record, config=trial.read_attempt_config(int(attempts[-1].name))) if attempts else record


def _find_end(trial: Trial, steps: int | None, *, was_interrupted: bool) -> tuple[str, str | None]:
    """The status of a repetition, and the reason if it did not reach its last step."""
    (status, reason), step = rerun.status(trial), rerun.last_step(trial)
    if status == "finished" or (steps is not None and step >= steps):
        return "finished", None
    if was_interrupted or status in ("interrupted", "killed"):
        return "interrupted", f"it was interrupted after step {step}"
    return status, f"it {status}: {reason}"


def _data_lines(one: RunRecord, other: RunRecord) -> list[str]:
    """One line per split of the data that differs in the repetition."""
    before, now = one.data.get("splits") or {}, other.data.get("splits") or {}
    return [
        f"data: the split '{name}' has the digest {now[name]['digest']}, and the run read {before[name]['digest']}"
        for name in before
        if name in now and differ(now[name]["digest"], before[name]["digest"])
    ]


def _partial_lines(one: RunRecord, other: RunRecord) -> list[str]:
    """One line per split of the data that could be compared only in part."""
    before, now = one.data.get("splits") or {}, other.data.get("splits") or {}
    return [
        f"data: the split '{name}': {PARTIAL}"
        for name in before
        if name in now and is_partial(before[name]["digest"], now[name]["digest"])
    ]


def _show(verdict: Verdict, display: Display) -> None:
    differing = [one for one in verdict.divergences if one.first_step is not None or one.only_in[0]]
    if differing:
        display.console.print(streams_table(differing))
        display.say("A is the original, B the repetition")
    for reason in verdict.terms.reasons:
        display.say(f"compared with a tolerance: {reason}")
    display.console.print(verdict.sentence(), style="bold", highlight=False, markup=False, soft_wrap=True)


def _sync(trial: Trial, display: Display) -> None:
    """Write the verdict to MLflow, as tags and in the description, unless tracking is off."""
    if trial.config["tracking"]["sync"] == "off":
        return
    from experiments.tracking.run_sync import sync_run

    try:
        with display.waiting("writing the verdict to MLflow"):
            sync_run(trial)
    except StoreError as err:
        display.say(f"{err}")
        return
    display.say(f"MLflow run {read_mlflow_ids(trial).get('run_id')}")
