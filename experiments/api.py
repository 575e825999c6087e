"""Lathe in a notebook or a script.

Example::

    from lathe import compose, freeze, run, runs, sweep, load_model

    result = run(freeze(compose(["model=mlp", "max_steps=100"])))
    print(result.metrics["test/accuracy_top1"])

    frame = sweep("lr_batch")
    best = frame.sort_values("delivered/val/accuracy_top1").iloc[-1]
    model = load_model(best["folder"])

The settings of the project of the current folder count, as for the commands, once you have trusted it with `lathe trust`: its
folders and packages come before `config_dirs` and `trust`.

Functions import what they need when they are called, so that importing this module is fast.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.core.runs_dir import choose_runs_dir

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from experiments.config.experiment import Experiment
    from experiments.launch.attempt_monitor import RunResult
    from experiments.results.search.index import IndexedRun
    from experiments.trial.trial import Trial


def compose(
    overrides: Sequence[str] = (), *, config_dirs: Sequence[str | Path] = (), trust: Sequence[str] = ()
) -> Experiment:
    """Compose an experiment from the defaults and overrides, and check it.

    Example::

        experiment = compose(["model=mlp", "optimizer.lr=0.01", "+tags.team=vision"])
        experiment.config["optimizer"]["lr"]

    Args:
        overrides: in Hydra's grammar, as on the command line; a single one may be a plain text.
        config_dirs: folders with your own groups and options.
        trust: your own packages whose classes `_target_` may name.

    Raises:
        InputError: with every problem of the configuration.
    """
    from experiments.config import compose

    overrides = [overrides] if isinstance(overrides, str) else overrides
    folders, packages = _with_project(config_dirs, trust)
    return compose.compose(overrides, config_dirs=folders, trust=packages)


def freeze(experiment: Experiment) -> Trial:
    """Write an experiment, with the code and the versions that it needs, into a new run folder.

    Example::

        trial = freeze(compose(["model=mlp"]))
        trial.folder

    Raises:
        InputError: the folder cannot be written.
    """
    from experiments.trial import trial

    return trial.freeze(experiment)


def run(trial: Trial, *, trust: Sequence[str] = (), here: bool = False) -> RunResult:
    """Train a frozen trial to its end; an interrupted trial continues from its last checkpoint.

    Example::

        result = run(freeze(compose(["model=mlp"])))
        result.status, result.metrics["test/accuracy_top1"]

    Args:
        trial: from `freeze`.
        trust: your own packages whose classes the trial may name.
        here: train in this process, so that breakpoints, profilers and `%debug` work; only on one device.

    Raises:
        InputError: the trial cannot run, or another process is running it.
        LaunchError: this machine cannot start the process.
        Exception: with ``here``, what your code raises.
    """
    from experiments.launch import run_trial

    return run_trial.run(trial, trust=_with_project((), trust)[1], here=here)


def sweep(
    sweep: str | Sequence[str],
    overrides: Sequence[str] = (),
    *,
    config_dirs: Sequence[str | Path] = (),
    trust: Sequence[str] = (),
    new: bool = False,
) -> pd.DataFrame:
    """Run a sweep, wait until it ends, and return its trials. If the same sweep has run before, it is continued.

    Example::

        frame = sweep("lr_batch", ["max_steps=200"])
        frame = sweep(["model=mlp", "optimizer.lr=0.1,0.01"])

    Args:
        sweep: the name or path of a sweep file; or overrides, of which some have several values.
        overrides: added to those of the sweep.
        config_dirs: folders with your own groups, options and sweep files.
        trust: your own packages whose classes `_target_` may name.
        new: start another sweep, also if there is the same one.

    Returns:
        A row for each trial, as `runs` returns; a trial whose result is reused has the row of the run that it is taken from.

    Raises:
        InputError: with every problem of the sweep and its trials.
        LaunchError: this machine or the scheduler refuses the workers.
    """
    from experiments.cli.sweep import show_attached, start
    from experiments.core.errors import InputError
    from experiments.results.search.search import search
    from experiments.sweep.create import prepare
    from experiments.sweep.spec import read, read_overrides

    folders, packages = _with_project(config_dirs, trust)
    if isinstance(sweep, str):
        spec = read(sweep, overrides, folders, packages)
    else:
        spec = read_overrides([*sweep, *overrides], folders, trust=packages)
    draft = prepare(spec, config_dirs=folders, trust=packages)
    if draft.templates.all[0].config["launcher"].get("dry_run"):
        raise InputError(
            ["launcher.dry_run=true starts no trial; leave it out, or use `lathe sweep` to see the job script"]
        )
    started = start(draft, is_new=new)
    show_attached(started)
    entries = started.ledger().read().entries.values()
    names = {
        entry.reused if entry.reused and "/" in entry.reused else f"{started.name}/{entry.id}" for entry in entries
    }
    found, _ = search(started.runs_dir, None)
    return _make_frame([run for run in found if f"{run.folder.parent.name}/{run.id}" in names])


def runs(condition: str | None = None, runs_dir: str | Path | None = None) -> pd.DataFrame:
    """Return the runs of a folder, newest first, as `lathe ls` finds them.

    Example::

        frame = runs("optimizer.lr<0.01 and state=finished")
        frame[["optimizer.lr", "delivered/val/accuracy_top1"]]

    Args:
        condition: as for `lathe ls`; None: all runs.
        runs_dir: default: the environment variable `LATHE_RUNS`, else `runs`.

    Returns:
        A row for each run, with its id as the index. The columns are `name`, `state`, `sweep`, `started` (UTC) and
        `folder`, then the parameters by dotted key (`optimizer.lr`), then the last value of each metric
        (`val/accuracy_top1`); `delivered/val/accuracy_top1` is the value of the weights that `load_model` loads.

    Raises:
        InputError: there is no such folder, the condition is not valid, or it names a key that no run has.
    """
    from experiments.results.search.search import search

    _with_project()
    return _make_frame(search(choose_runs_dir(runs_dir), condition)[0])


def _make_frame(matching: Sequence[IndexedRun]) -> pd.DataFrame:
    import pandas as pd

    facts = {
        "name": [run.name for run in matching],
        "state": [run.state for run in matching],
        "sweep": [run.sweep for run in matching],
        "started": pd.to_datetime([run.created for run in matching], unit="s", utc=True),
        "folder": [str(run.folder) for run in matching],
    }
    index = pd.Index([run.id for run in matching], name="run", dtype=object)
    parameters = sorted({key for run in matching for key in run.config} - {*facts})
    metrics = sorted({name for run in matching for name in run.metrics} - {*facts, *parameters})
    columns = {
        **facts,
        **{key: [run.config.get(key) for run in matching] for key in parameters},
        **{name: [run.metrics.get(name, float("nan")) for run in matching] for name in metrics},
    }
    return pd.DataFrame(columns, index=index)


def load_model(
    run: str | Path | Trial | RunResult,
    runs_dir: str | Path | None = None,
    *,
    trust: Sequence[str] = (),
    device: str = "auto",
) -> nn.Module:
    """Load the trained model of a finished run, in evaluation mode, with the weights that `lathe predict` uses.

    Example::

        model = load_model(run(freeze(compose(["model=mlp"]))))
        logits = model(images)

    Args:
        run: folder or id of the run, the beginning of the id, the trial, or the result of `run`.
        runs_dir: as for `runs`.
        trust: your own packages whose classes the run may name.
        device: as in torch; "auto": the first GPU if there is one, else the CPU.

    Raises:
        InputError: there is no such run, it is not finished, or its weights do not fit the code.
    """
    from experiments.components.adapter import whole_weights
    from experiments.config.allowlist import trusted
    from experiments.results.export.export import load_interface
    from experiments.tracking.model.final_model import describe_model, find_final_model
    from experiments.tracking.model.predictor import prepare
    from experiments.trial.lookup import find_run
    from experiments.trial.trial import Trial, find_code_changes

    _, packages = _with_project((), trust)
    named = getattr(run, "trial", run)
    trial = named if isinstance(named, Trial) else find_run(str(named), choose_runs_dir(runs_dir))
    chosen = find_final_model(trial)
    if find_code_changes(trial, packages):
        print("warning: the code has changed since this run; the model is built with today's code", file=sys.stderr)
    facts = describe_model(trial, chosen, load_interface(trial, trusted(packages)))
    with whole_weights(trial, chosen.weights, trusted(packages)) as weights:
        return prepare(facts, weights, device).model


def _with_project(config_dirs: Sequence[str | Path] = (), trust: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """The folders and packages of a call, after those of the project of the current folder.

    Raises:
        InputError: its project file is not valid.
    """
    from experiments.cli.project.project_file import find_project, is_trusted, set_variables, untrusted_note

    folders, packages = [str(folder) for folder in config_dirs], list(trust)
    project = find_project()
    if project is None:
        return folders, packages
    if not is_trusted(project):
        print(f"note: {untrusted_note(project)}", file=sys.stderr)
        return folders, packages
    project.check()
    set_variables(project)
    return list(dict.fromkeys([*project.folders("conf"), *folders])), list(dict.fromkeys([*project.trusted, *packages]))
