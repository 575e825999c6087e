"""`lathe reproduce RUN`: run a run again with its own code, and say whether the same comes out."""

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
from experiments.core.atomic import write_text
from experiments.core.console import Display
from experiments.core.errors import InputError, did_you_mean
from experiments.core.signals import ended_as_interrupted
from experiments.results.compare.differences import differences
from experiments.results.compare.tables import streams_table
from experiments.results.reproduce import environment as surroundings
from experiments.results.reproduce import rerun
from experiments.results.reproduce.original import Original, original
from experiments.results.reproduce.verdict import Verdict, judge, terms
from experiments.run.verdict_file import VERDICT
from experiments.tracking.store_uri import StoreError
from experiments.trial import resume
from experiments.trial.code_restore import restored
from experiments.trial.lookup import find_run, mlflow_ids
from experiments.trial.record import CodeRecord, of_trial
from experiments.trial.trial import Trial, as_yaml

AS_BEFORE = "environment and hardware are the run's; the data is held against the run's as it is read"
CHANGEABLE = tuple(key for key in resume.CHANGEABLE if key != "launcher")
"""Keys of the root by which the place differs, not what is computed."""


def reproduce(asked: Namespace) -> int:
    """Restore the code of a run, run it again under the same plan, and compare.

    Returns:
        0 where the metrics are identical or within tolerance, 1 where they differ or the run failed, else 2.

    Raises:
        InputError: it cannot be tried as it was asked.
    """
    _check(asked)
    with ended_as_interrupted(), original(asked) as found:
        steps = _steps(found, asked)
        if asked.check is not None:
            return _compare(found, asked, steps)
        return _again(found, asked, steps)


def _check(asked: Namespace) -> None:
    problems = []
    if asked.steps is not None and asked.steps < 1:
        problems.append(f"--steps {asked.steps} is no number of steps; write 1 or more")
    if asked.tolerance is not None and not 0 <= asked.tolerance < float("inf"):
        problems.append(f"--tolerance {asked.tolerance} is no distance; write 0, 1e-6 or the like")
    if asked.check is not None and asked.overrides:
        problems.append(
            f"--check runs nothing, so that {asked.overrides[0]} says nothing; leave the one or the other out"
        )
    problems += [
        f"{word}: of a repetition only the place can be another ({', '.join(CHANGEABLE)}), and {key} is none of these; "
        f"{did_you_mean(key, CHANGEABLE, otherwise='`lathe run` starts another run')}"
        for word in asked.overrides
        if (key := re.split(r"[.=]", word.lstrip("+~"), maxsplit=1)[0]) not in CHANGEABLE
    ]
    if problems:
        raise InputError(problems)


def _check_choices(overrides: Sequence[str], config_dirs: Sequence[str]) -> None:
    """Tell of options that there are not before any code is restored."""
    known = options.groups([Path(folder) for folder in config_dirs])
    chosen = [(word, *word.partition("=")[::2]) for word in overrides if word.partition("=")[0] in known]
    problems = [
        f"{word}: there is no such option; {did_you_mean(option, known[group])}"
        for word, group, option in chosen
        if option not in known[group]
    ]
    if problems:
        raise InputError(problems)


def _steps(found: Original, asked: Namespace) -> int | None:
    """The last step that is compared; None: all there are."""
    if found.is_finished:
        return None if asked.steps is None else int(asked.steps)
    return found.last_step if asked.steps is None else min(asked.steps, found.last_step)


def _compare(found: Original, asked: Namespace, steps: int | None) -> int:
    """Hold a run that is there against the original."""
    trial = find_run(asked.check, Path(asked.runs_dir))
    other = _record(trial)
    if not other.streams:
        raise InputError([f"--check {asked.check} has no metrics yet; let it run first"])
    ended, why = _ended(trial, steps, was_interrupted=False)
    on = terms(found.record, other, tolerance=asked.tolerance, up_to=steps, mixed=found.mixed)
    lines = _data_lines(found.record, other)
    verdict = judge(found.record, other, on, ended=ended, why=why, data=lines)
    display = Display(sys.stdout)
    for line in lines:
        display.say(line)
    groups = [group for group, rows in differences(found.record, other).groups.items() if rows]
    if groups:
        display.say(f"the two differ in {', '.join(groups)}; `lathe diff {asked.run} {asked.check}` says by what")
    _show(verdict, display)
    return verdict.code


def _again(found: Original, asked: Namespace, steps: int | None) -> int:
    """Run it, and compare."""
    display, record = Display(sys.stdout), found.record
    runs_dir = Path(asked.runs_dir).expanduser().resolve()
    trust = [*found.trust, *asked.trust]
    _check_nodes(record, asked.overrides)
    _check_choices(asked.overrides, found.config_dirs)
    with restored(
        record.code, found.files, trust, runs_dir, keep=asked.keep_code, only_merged=not found.is_trusted
    ) as code:
        variables, unlike = surroundings.variables(record, _ranks(record.config))
        if asked.overrides:
            variables = {}
            unlike = [f"hardware: it runs with {' '.join(asked.overrides)}, so it is compared with a tolerance"]
        amiss = [*found.amiss, *code.amiss, *surroundings.environment(record), *unlike]
        amiss += surroundings.data(record.config, record.data)
        display.say(f"reproducing {asked.run}: {record.config['name']}")
        for line in [*code.told, *amiss, *([AS_BEFORE] if not amiss else [])]:
            display.say(line)
        environment = rerun.surroundings(code, variables)
        trial = rerun.new_run(found, code, runs_dir, steps)
        ended = rerun.execute(trial, environment, trust, asked.overrides, steps)
        if asked.keep_code:
            commands = (f"`git worktree remove --force {shlex.quote(str(root))}`" for root in code.roots)
            display.say(f"the restored code stays until {' and '.join(commands)}")
    return _close(found, trial, ended, asked, steps, amiss)


def _ranks(config: Mapping[str, Any]) -> int:
    return int(config["hardware"]["nodes"]) * int(config["hardware"]["devices_per_node"])


def _check_nodes(record: CodeRecord, overrides: Sequence[str]) -> None:
    nodes = record.config["hardware"]["nodes"]
    if nodes > 1 and not any(word.startswith("hardware") for word in overrides):
        raise InputError(
            [
                f"the run took hardware.nodes={nodes}, and is run again on this machine alone; say where it runs instead, "
                "as in `parallel=single hardware=local`"
            ]
        )


def _close(
    found: Original, trial: Trial, ended: rerun.Ended, asked: Namespace, steps: int | None, amiss: Sequence[str]
) -> int:
    """Say what came out, to the person, to the run's folder and to MLflow."""
    display = Display(sys.stdout)
    if not trial.folder.exists() or not trial.attempts():
        rerun.discard(trial)
        display.say(
            "stopped before it began" if ended.was_interrupted else "the restored code does not run this; see above"
        )
        return 1 if ended.was_interrupted else ended.code or 1
    other = _record(trial)
    how, why = _ended(trial, steps, was_interrupted=ended.was_interrupted)
    on = terms(found.record, other, tolerance=asked.tolerance, up_to=steps, mixed=found.mixed)
    lines = _data_lines(found.record, other)
    verdict = judge(found.record, other, on, ended=how, why=why, data=lines)
    for line in lines:
        display.say(line)
    told = verdict.plain() | {"reproduces": dict(found.link), "overrides": asked.overrides, "amiss": [*amiss, *lines]}
    write_text(trial.folder / VERDICT, as_yaml(told))
    _show(verdict, display)
    display.say(f"it stands in {trial.folder / VERDICT}")
    _sync(trial, display)
    return verdict.code


def _record(trial: Trial) -> CodeRecord:
    """A repetition, with the configuration of its last attempt."""
    record, attempts = of_trial(trial), trial.attempts()
    return replace(record, config=trial.config_of(int(attempts[-1].name))) if attempts else record


def _ended(trial: Trial, steps: int | None, *, was_interrupted: bool) -> tuple[str, str | None]:
    """Whether a repetition has come as far as it was to, and what it said where it has not."""
    (status, reason), step = rerun.status(trial), rerun.last_step(trial)
    if status == "finished" or (steps is not None and step >= steps):
        return "finished", None
    if was_interrupted or status in ("stopped", "killed"):
        return "stopped", f"it was stopped after step {step}"
    return status, f"it {status}: {reason}"


def _data_lines(one: CodeRecord, other: CodeRecord) -> list[str]:
    """The splits of the data that were others to the repetition."""
    before, now = one.data.get("splits") or {}, other.data.get("splits") or {}
    return [
        f"data: the split '{name}' has the digest {now[name]['digest'][:12]}, and the run read {before[name]['digest'][:12]}"
        for name in before
        if name in now and now[name]["digest"] != before[name]["digest"]
    ]


def _show(verdict: Verdict, display: Display) -> None:
    apart = [one for one in verdict.partings if one.first_step is not None or one.only_in[0]]
    if apart:
        display.console.print(streams_table(apart))
        display.say("A is the original, B its repetition")
    for reason in verdict.terms.reasons:
        display.say(f"not held to the same bits: {reason}")
    display.console.print(verdict.sentence(), style="bold", highlight=False, markup=False, soft_wrap=True)


def _sync(trial: Trial, display: Display) -> None:
    """Bring the verdict to MLflow, as tags and as a line of the note, where the run goes there at all."""
    if trial.config["tracking"]["sync"] == "off":
        return
    from experiments.tracking.run_sync import sync_run

    try:
        with display.waiting("bringing the verdict to MLflow"):
            sync_run(trial)
    except StoreError as err:
        display.say(f"{err}")
        return
    display.say(f"MLflow run {mlflow_ids(trial).get('run_id')}")
