"""`lathe evaluate`: evaluates a checkpoint of a run on its own or other data, and adds the result to the record of the run."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import sys
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from experiments.config.allowlist import trusted
from experiments.core.console import Display, make_console
from experiments.core.errors import MAX_LISTED, InputError
from experiments.launch.attempt_monitor import RunResult
from experiments.launch.run_here import check_here
from experiments.launch.run_trial import prestart
from experiments.launch.run_trial import run as run_trial
from experiments.plan.plan import make_plan
from experiments.results.evaluate.configuration import compose_evaluation
from experiments.run.checkpoint import WEIGHTS, Checkpoint, Checkpoints
from experiments.run.evaluations import PREFIX
from experiments.run.history import read_previous_attempts
from experiments.run.lock import lock_run
from experiments.run.rank_reports import HAS_TRACEBACK
from experiments.run.split_digest import differ
from experiments.sweep.sweep import find_by_full_name
from experiments.tracking.model.final_model import read_interface
from experiments.trial.evaluation import check_name, create_evaluation
from experiments.trial.initial_weights import FILE
from experiments.trial.lookup import find_run, read_mlflow_ids
from experiments.trial.own_runs import check_own
from experiments.trial.trial import Trial, find_code_changes


def evaluate(args: argparse.Namespace) -> int:
    """Run the command; returns 1 if the evaluation failed or was interrupted.

    Raises:
        InputError: the run has no such checkpoint, an override would change the model, or the data do not fit it.
    """
    trial = _find_run(args.run, Path(args.runs_dir))
    check_own(trial.folder, Path(args.runs_dir), trust_code=args.trust_code)
    _check_name(args.name)
    _check_not_running(trial)
    checkpoint, chosen = choose_checkpoint(trial, args.checkpoint)
    launcher = None if args.here else prestart()  # it starts while the configuration is composed
    try:
        config = compose_evaluation(trial, args.overrides, args.config_dir, args.trust)
        plan = make_plan(config)
        if {**config["data"], "root": None} != {**trial.config["data"], "root": None}:
            from experiments.results.evaluate.same_encoding import find_other_tokens

            if problem := find_other_tokens(trial.config["data"], config["data"], trusted(args.trust)):
                raise InputError([problem], f"the evaluation of '{trial.folder.name}'")
        if args.here:
            check_here(config, plan)
        if args.name is not None:
            check_name(trial, args.name, args.overrides)
        interface = read_interface(trial)
        evaluates = {
            "name": args.name, "split": args.split, "chosen": chosen, "overrides": list(args.overrides),
            "inputs": interface.to_dict()["inputs"] if interface is not None else None,
            "class_names": interface.to_dict()["class_names"] if interface is not None else None,
        }  # fmt: skip
        from experiments.components.adapter import whole_weights

        with whole_weights(trial, checkpoint.weights, trusted(args.trust)) as weights:
            evaluation = create_evaluation(trial, config, checkpoint, weights, evaluates)
        display = Display(sys.stderr if args.json else sys.stdout)
        display.say(f"evaluating run {trial.folder.name} of '{config['name']}', step {checkpoint.step} ({chosen})")
        if find_code_changes(trial, args.trust):
            display.say(
                "warning: the code has changed since this run was frozen, and the evaluation uses the current code"
            )
        result = run_trial(evaluation, trust=args.trust, display=display, launcher=launcher, here=args.here)
    finally:
        if launcher is not None:
            launcher.discard()
    (evaluation.folder / FILE).unlink(missing_ok=True)  # a link would keep the weights after their checkpoint is gone
    if result.status != "finished":
        return _report_failure(result)
    _warn_of_other_data(trial, evaluation, args, display)
    _sync(trial, args, display)
    _show(trial, evaluation, result, as_json=args.json)
    return 0


def _find_run(name: str, runs_dir: Path) -> Trial:
    """
    Raises:
        InputError: no run has this name.
    """
    if (sweep := find_by_full_name(name, runs_dir)) is not None:
        trials = ", ".join(sorted(path.parent.name for path in sweep.folder.glob("*/trial.yaml"))[:MAX_LISTED])
        raise InputError([f"'{name}' is a sweep; name one of its trials: {trials or 'none has started'}"])
    return find_run(name, runs_dir)


def _check_name(name: str | None) -> None:
    """
    Raises:
        InputError: the name is not valid, or could be mistaken for a number.
    """
    if name is not None and not re.fullmatch(r"[A-Za-z][\w.-]{0,49}", name, re.ASCII):
        raise InputError(
            [f"--name {name} is not a valid name; use up to 50 letters, digits, '_', '-' and '.', with a letter first"]
        )


def _check_not_running(trial: Trial) -> None:
    """
    Raises:
        InputError: another process trains the run, or its folder is not writable.
    """
    name = trial.folder.name
    try:
        lock_run(trial.folder, first=True).close()
    except BlockingIOError as err:
        raise InputError(
            [f"run '{name}' is still running, and its checkpoints come and go; wait for its end, or stop it"]
        ) from err
    except OSError as err:
        raise InputError(
            [f"run '{name}' cannot be locked: {err.strerror} ({err.filename}); make it writable, or evaluate a copy"]
        ) from err


def choose_checkpoint(trial: Trial, named: str | None) -> tuple[Checkpoint, str]:
    """Choose a checkpoint of a run; returns also why it was chosen.

    Args:
        trial: the run.
        named: ``best``, ``last`` or a step; None: the one that the run delivers.

    Raises:
        InputError: there is no such checkpoint, or it is damaged.
    """
    checkpoints = Checkpoints(trial.folder, 1, needed=WEIGHTS)
    if named not in (None, "best", "last") and not named.isdecimal():
        raise InputError([f"--checkpoint {named} is not a checkpoint; write best, last, or the number of a step"])
    if named is None:
        found, chosen = checkpoints.delivered(), "best" if checkpoints.has_best else "last"
    elif named == "best":
        found, chosen = checkpoints.best(), "best"
    elif named == "last":
        found, chosen = checkpoints.latest(), "last"
    else:
        found, chosen = checkpoints.at(int(named)), "as chosen"
    steps = checkpoints.list_steps()
    if found is None and not steps:
        raise InputError(
            [f"run '{trial.folder.name}' has no checkpoint in {checkpoints.folder}; `lathe resume {trial.reference}`"]
        )
    if found is None and named == "best" and not checkpoints.has_best:
        raise InputError(
            [
                f"--checkpoint best: run '{trial.folder.name}' has none, because its checkpoint.best_metric is null or was never "
                "a number; use --checkpoint last"
            ]
        )
    if found is None and named is not None and named.isdecimal() and int(named) not in steps:
        kept = f"checkpoint.keep_last={trial.config['checkpoint']['keep_last']} keeps the last ones and the best"
        raise InputError(
            [
                f"--checkpoint {named}: there is none of this step, but of {', '.join(map(str, steps))} ({kept}); use one of them"
            ]
        )
    if found is None:
        raise InputError([f"{warning}; name another --checkpoint" for warning in checkpoints.warnings])
    metric = str(trial.config["checkpoint"]["best_metric"])
    value = found.state.get("val", {}).get(metric) if chosen == "best" else None
    return found, chosen if value is None else f"best by {metric}={value:.6g}"


def _report_failure(result: RunResult) -> int:
    """Print why the evaluation has no result; its folder stays only if the log in it helps."""
    print(result.reason if result.exit_code == 2 else f"{result.status}: {result.reason}", file=sys.stderr)
    if (HAS_TRACEBACK not in str(result.reason) and result.status != "failed") or result.exit_code == 2:
        shutil.rmtree(result.trial.folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # other evaluations are in it
            result.trial.folder.parent.rmdir()
    return result.exit_code


def _warn_of_other_data(trial: Trial, evaluation: Trial, args: argparse.Namespace, display: Display) -> None:
    """Warn if the split is no longer the one that the run itself was evaluated with."""
    before, now = (read_previous_attempts(each.folder, 0).digests.get(args.split) for each in (trial, evaluation))
    has_other = any(override.lstrip("+~").startswith("data") for override in args.overrides)
    if not has_other and before is not None and now is not None and differ(before, now):
        display.say(
            f"warning: the split '{args.split}' has changed since the run: its digest was {before} and is {now} now"
        )


def _sync(trial: Trial, args: argparse.Namespace, display: Display) -> None:
    """Copy the new metrics to the trackers of the run, unless it is copied only by `lathe sync`."""
    if trial.config["tracking"]["sync"] == "off":
        return
    from experiments.tracking.sweep_sync import sync_all

    with display.waiting("copying the evaluation to the trackers of the run"):
        summary = sync_all(trial.runs_dir, [str(trial.folder)], trusted(args.trust), trust_code=True)
    for problem in (*summary.warnings, *summary.failures):
        display.say(f"warning: {problem}")


def _show(trial: Trial, evaluation: Trial, result: RunResult, *, as_json: bool) -> None:
    """Print the metrics, and where they are recorded."""
    evaluates, mlflow = evaluation.evaluates or {}, read_mlflow_ids(trial).get("run_id")
    prefix = f"{PREFIX}{evaluates['name']}/"
    values = {name: value for name, value in sorted(result.metrics.items()) if name.startswith(prefix)}
    if as_json:
        document = {"run": trial.folder.name, **evaluates, "folder": str(evaluation.folder), "metrics": values}
        del document["inputs"]
        print(json.dumps(document, indent=1))
        return
    table = Table(title=escape(f"{evaluation.config['name']}: evaluated"), show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(escape(name), f"{value:.6g}")
    table.add_section()
    table.add_row("run", trial.folder.name)
    table.add_row("step", f"{evaluates['step']} ({evaluates['chosen']})")
    if evaluates["overrides"]:
        table.add_row("overrides", escape(" ".join(evaluates["overrides"])))
    table.add_row("folder", escape(str(evaluation.folder)))
    if mlflow and trial.config["tracking"]["sync"] != "off":
        table.add_row("MLflow run", mlflow)
    make_console().print(table)
