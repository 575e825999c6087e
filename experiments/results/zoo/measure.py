"""Measures a row of the zoo: its experiment with several seeds, as a sweep that can be interrupted and resumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments.config.compose import compose
from experiments.config.experiment import Experiment
from experiments.core.data_files import find_missing
from experiments.core.errors import PlanError
from experiments.core.files.packages import PACKAGES, PROJECT_ROOT
from experiments.core.format import format_duration
from experiments.core.git import GitError, git
from experiments.plan.plan import make_plan
from experiments.results.report.metric_history import History, read_history
from experiments.results.zoo.record import DELIVERED_WEIGHTS, MeasuredRecord, round_value
from experiments.results.zoo.rows import Row
from experiments.run import journal
from experiments.run.metrics import delivered_value, read_metric_events
from experiments.sweep.create import prepare, write
from experiments.sweep.ledger import ENDED, Entry
from experiments.sweep.spec import read_overrides
from experiments.sweep.status.selection import cancel
from experiments.sweep.status.tables import show_live
from experiments.sweep.submit import retry_unfinished, submit
from experiments.sweep.sweep import Sweep
from experiments.tracking import follow_sweep
from experiments.tracking.mlflow_view import ui_hint
from experiments.trial.debug_run import list_notes
from experiments.trial.trial import EXCLUDED, resolve_runs_dir, trial_id
from launchers.base import DONE

TRY_STEPS = 20
"""Steps of the trial run that estimates how many steps fit into a budget."""
MAX_POINTS = 40
"""Of a curve in a record."""
STATE_TEXTS = {"pending": "waits", "running": "does not end", "cancelled": "was cancelled"}


class NotMeasured(Exception):
    """A row cannot be measured here; the message says why."""


class RunFailed(Exception):
    """A run of a row failed; the message says why.

    Attributes:
        sweep: the sweep of the run, which has its logs.
    """

    def __init__(self, message: str, sweep: Sweep) -> None:
        super().__init__(message)
        self.sweep = sweep


@dataclass(frozen=True)
class MeasureOptions:
    """How rows are measured."""

    seeds: int = 3
    budget_s: float | None = None
    """Of one run; None: no limit."""
    again: bool = False
    """Also measure rows that have a record."""
    overrides: tuple[str, ...] = ()
    """For every run, such as launcher=slurm."""
    config_dirs: tuple[str, ...] = ()
    trust: tuple[str, ...] = ()

    def compose(self, row: Row, *more: str) -> Experiment:
        """The experiment that the command of a row runs."""
        return compose(
            [*row.overrides_of_command, *self.overrides, *more], config_dirs=self.config_dirs, trust=self.trust
        )


def measure(row: Row, options: MeasureOptions) -> MeasuredRecord:
    """Train a row once per seed, to the end or as far as the budget allows.

    Raises:
        NotMeasured: it cannot be measured on this machine.
        RunFailed: one of its runs failed.
        KeyboardInterrupt: it was interrupted; the same call resumes it.
        LaunchError: the machine or the scheduler refused a run.
    """
    if row.metric is None:
        raise NotMeasured("its header has no Measure line, such as `# Measure: test/accuracy_top1`")
    experiment = options.compose(row)
    if notes := list_notes(experiment.config):
        raise NotMeasured(notes[0])
    if problem := missing_data(experiment.config["data"]):
        raise NotMeasured(problem)
    try:
        steps_in_all = make_plan(experiment.config).num_steps
        shorter = _overrides_within_budget(row, options, experiment, steps_in_all)
        sweep = _run(row, options, f"zoo-{row.name}", shorter)
    except PlanError as err:
        raise NotMeasured(err.problems[0]) from err
    return _record(row, options, sweep, trial_id(experiment.config), steps_in_all, shorter)


def missing_data(data: dict[str, Any]) -> str | None:
    """The data of a row that is missing here, without the names of local folders; None if nothing is missing."""
    if "folder" not in data or "root" not in data:
        return None  # the data is part of a package
    try:
        absent = find_missing(data)
    except KeyError as err:
        return f"its data is missing: data.root={data['root']} needs {err.args[0]}; `export {err.args[0]}=...`"
    if absent is None:
        return None
    files = f"{', '.join(absent.files)} of " if absent.files else ""
    return f"its data is missing: {files}data.folder={data['folder']}; `lathe data` shows the source"


def _overrides_within_budget(row: Row, options: MeasureOptions, experiment: Experiment, steps_in_all: int) -> list[str]:
    """Overrides with which a run ends within the budget: fewer steps, with the same number of evaluations.

    The schedule ends with the run. Runs of `TRY_STEPS` steps measure the time of a step and of an evaluation, with as many
    runs in parallel as later.
    """
    if options.budget_s is None or steps_in_all <= TRY_STEPS:
        return []
    short = _length(experiment, TRY_STEPS, steps_in_all, TRY_STEPS)
    tried = _run(row, options, f"zoo-{row.name}-try", [*short, f"log_every_steps={TRY_STEPS // 2}"])
    every = int(experiment.config["eval_every_steps"])
    evaluations = -(-steps_in_all // every)
    num_steps = min(
        _steps_in(options.budget_s, read_history(tried.trial(entry).folder), tried.trial(entry).folder, evaluations)
        for entry in _finished(tried)
    )
    if num_steps >= steps_in_all:
        return []
    if num_steps < TRY_STEPS:
        raise NotMeasured(
            f"a budget of {format_duration(options.budget_s)} is too short for {TRY_STEPS} steps; write a longer one"
        )
    return _length(experiment, num_steps, steps_in_all, max(1, every * num_steps // steps_in_all))


def _length(experiment: Experiment, steps: int, steps_in_all: int, eval_every_steps: int) -> list[str]:
    """Overrides for fewer steps, with the same fraction of warm-up."""
    every = f"eval_every_steps={eval_every_steps}", f"checkpoint.every_steps={eval_every_steps}"
    warmup = experiment.config["schedule"].get("warmup_steps")
    shorter = [f"schedule.warmup_steps={warmup * steps // steps_in_all}"] if warmup else []
    return [f"max_steps={steps}", "max_epochs=null", *every, *shorter]


def _steps_in(budget_s: float, history: History, folder: Path, evaluations: int) -> int:
    """The number of steps that fit into a budget, besides the start and all evaluations."""
    last = history.series["perf/step_time_ms"].last
    assert last is not None
    step_s = last[1] / 1e3
    rest_s = max(0.0, history.duration_s - TRY_STEPS * step_s)
    evaluation_s = _evaluation_s(folder)
    return int((budget_s - rest_s - (evaluations - 1) * evaluation_s) / step_s)


def _evaluation_s(folder: Path) -> float:
    """Duration of the evaluation on the validation split: from the last training metric to its metrics."""
    trained = 0.0
    for event in read_metric_events(folder):
        if "perf/step_time_ms" in event["metrics"]:
            trained = event["time"]
        elif any(name.startswith("val/") for name in event["metrics"]):
            return event["time"] - trained
    return 0.0


def _run(row: Row, options: MeasureOptions, name: str, shorter: Sequence[str]) -> Sweep:
    """Run the seeds of a row to the end; interrupted ones are resumed.

    Raises:
        PlanError: the configuration cannot run.
        RunFailed: one of them failed.
        KeyboardInterrupt: it was interrupted.
    """
    overrides = [*row.overrides_of_command, *options.overrides, *shorter]
    checkpoint = options.compose(row).config["checkpoint"]
    metric, mode = (
        checkpoint["best_metric"] or "val/loss_nats",
        checkpoint["best_mode"] if checkpoint["best_metric"] else "min",
    )
    sweep_overrides = [
        f"sweep.metric={metric}",
        f"sweep.mode={mode}",
        f"sweep.num_seeds={options.seeds}",
        "sweep.reuse=false",
    ]
    spec = read_overrides([*overrides, *sweep_overrides], options.config_dirs, name)
    draft = prepare(spec, config_dirs=options.config_dirs, trust=options.trust)
    runs_dir, trials = resolve_runs_dir(draft.experiment.config), {one["trial"] for one in draft.trials}
    begun = None if options.again else _begun(runs_dir, name, trials, draft.templates.trust)
    sweep = begun or write(draft)
    retry_unfinished(sweep)
    if submit(sweep) is not None:
        follow_sweep.start_follower(sweep)
        executor = sweep.executor()
        code = show_live(sweep, executor, ui_hint, is_attached=False)
        if code == DONE and any(entry.state not in ENDED for entry in _entries(sweep)):
            cancel(sweep, executor, say=lambda line: print(line, flush=True))
            raise KeyboardInterrupt
    for entry in _entries(sweep):
        if entry.state != "finished":
            reason = entry.reason or "no worker is left to run it"
            raise RunFailed(
                f"the run of seed {entry.seed} {STATE_TEXTS.get(entry.state, entry.state)}: {reason}", sweep
            )
    return sweep


def _begun(runs_dir: Path, name: str, trials: set[str], trust: tuple[str, ...] = ()) -> Sweep | None:
    """The newest sweep with exactly these trials, in any state."""
    folders = sorted(
        (path.parent for path in runs_dir.glob(f"{name}*/sweep.yaml")), key=lambda path: path.stat().st_ctime
    )
    sweeps = [Sweep(folder, trust) for folder in folders]
    same = [sweep for sweep in sweeps if {entry.id for entry in _entries(sweep)} == trials]
    return same[-1] if same else None


def _entries(sweep: Sweep) -> list[Entry]:
    return sorted(sweep.ledger().read().entries.values(), key=lambda entry: entry.seed)


def _finished(sweep: Sweep) -> list[Entry]:
    return [entry for entry in _entries(sweep) if entry.state == "finished"]


def _record(
    row: Row, options: MeasureOptions, sweep: Sweep, trial: str, steps_in_all: int, shorter: list[str]
) -> MeasuredRecord:
    """The record of a finished sweep, from its journals.

    Raises:
        RunFailed: they lack the metric of the row.
    """
    assert row.metric is not None
    entries = _finished(sweep)
    histories = [read_history(sweep.trial(entry).folder) for entry in entries]
    known = sorted({name for history in histories for name in history.series if name.startswith(("val/", "test/"))})
    if any(row.metric not in history.series for history in histories):
        raise RunFailed(f"it has no metric {row.metric}, which its header names; known: {', '.join(known)}", sweep)
    found = [delivered_value(history.series, row.metric, sweep.spec["mode"]) for history in histories]
    values = [value for value in found if value is not None]
    if len(values) < len(found):
        raise RunFailed(f"its metric {row.metric} is not a number", sweep)
    params = _params(sweep.trial(entries[0]).folder)
    hardware, code = sweep.config["hardware"], sweep.provenance["code"][0]
    devices = int(hardware["nodes"] * hardware["devices_per_node"])
    curve_metric = _find_curve_metric(row.metric, known, sweep.spec["metric"])
    steps, curves = _curves(histories, curve_metric)
    ended = max(span[1] for history in histories for span in history.spans.values())
    return MeasuredRecord(
        row=row.name,
        trial=trial,
        overrides=[text for text in options.overrides if not _is_of_machine(text)],
        metric=row.metric,
        seeds=[entry.seed for entry in entries],
        values=[round_value(value) for value in values],
        steps=max(entry.step for entry in entries),
        steps_in_all=steps_in_all,
        budget_s=options.budget_s,
        wall_s=[round(3600 * _last(history, "cost/device_h") / devices, 1) for history in histories],
        cpu_s=[round(_last(history, "cost/cpu_s"), 1) for history in histories],
        device=str(params["env.device_name"]),
        devices=devices,
        threads=int(params["plan.cpu_threads"]),
        side_by_side=_side_by_side(histories),
        torch=str(params["env.torch"]),
        revision=code["git_sha"],
        dirty=bool(code.get("dirty")) and _differs(code["git_sha"]),
        date=f"{datetime.fromtimestamp(ended, UTC):%Y-%m-%d}",
        runs=[f"{sweep.name}/{entry.id}" for entry in entries],
        curve_metric=curve_metric,
        curve_steps=steps,
        curves=curves,
        shorter=shorter,
        weights=DELIVERED_WEIGHTS,
    )


def _is_of_machine(override: str) -> bool:
    """True for an override of a setting of the machine, which does not affect the result."""
    key = override.lstrip("+~").partition("=")[0]
    return any(key == other or key.startswith(f"{other}.") for other in EXCLUDED)


def _last(history: History, metric: str) -> float:
    last = history.series[metric].last
    assert last is not None
    return last[1]


def _side_by_side(histories: Sequence[History]) -> int:
    """The largest number of runs at the same time."""
    spans = [span for history in histories for span in history.spans.values()]
    return max(sum(begin <= start < end for begin, end in spans) for start, _ in spans)


def _differs(sha: str) -> bool:
    """True if the code differs from that of a commit; new records alone do not count."""
    try:
        return bool(git(PROJECT_ROOT, "diff", "--name-only", sha, "--", *PACKAGES)) or bool(
            git(PROJECT_ROOT, "ls-files", "--others", "--exclude-standard", "--", *PACKAGES)
        )
    except GitError:
        return True


def _params(folder: Path) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for event in journal.replay(folder):
        if event["event"] == "params":
            params |= event["params"]
    return params


def _find_curve_metric(metric: str, known: Sequence[str], otherwise: str) -> str:
    """The metric of the curve: that of the validation split, else the one that selects the best checkpoint."""
    same = f"val/{metric.partition('/')[2]}"
    return same if same in known else otherwise


def _curves(histories: Sequence[History], metric: str) -> tuple[list[int], list[list[float]]]:
    """Up to 40 steps, and the values of every seed at these steps."""
    curves = [dict(history.series[metric].curve()) if metric in history.series else {} for history in histories]
    shared = sorted(step for step in curves[0] if all(step in curve for curve in curves))
    every = -(-len(shared) // MAX_POINTS) or 1
    steps = shared[::-1][::every][::-1]  # keeps the last one
    return steps, [[round_value(curve[step]) for step in steps] for curve in curves]
