"""Measures a row of the zoo: its experiment with several seeds, as a sweep, which can be stopped and gone on with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments.config.allowlist import HOUSE
from experiments.config.compose import compose
from experiments.config.experiment import Experiment
from experiments.core.data_files import find_missing
from experiments.core.errors import PlanError
from experiments.core.format import format_duration
from experiments.core.git import GitError, git
from experiments.plan.plan import make_plan
from experiments.results.report.metric_history import History, read_history
from experiments.results.zoo.record import MeasuredRecord, rounded
from experiments.results.zoo.rows import Row
from experiments.run import journal
from experiments.run.metrics import read_metric_events
from experiments.sweep.create import prepare, write
from experiments.sweep.ledger import ENDED, Entry
from experiments.sweep.spec import read_overrides
from experiments.sweep.status.selection import cancel
from experiments.sweep.status.tables import live
from experiments.sweep.submit import retry_unfinished, submit
from experiments.sweep.sweep import Sweep
from experiments.tracking import follow_sweep
from experiments.tracking.mlflow_view import ui_hint
from experiments.trial.code_snapshot import PACKAGES
from experiments.trial.trial import EXCLUDED, resolve_runs_dir, trial_id
from launchers.base import DONE

TRY_STEPS = 20
"""Steps from which it is told how many a budget has room for."""
MOST_POINTS = 40
"""Of a curve in a record."""
WORDS = {"pending": "waits", "running": "does not end", "cancelled": "was cancelled"}


class Refused(Exception):
    """A row cannot be measured here; the message says why."""


class Failed(Exception):
    """A run of a row has failed; the message says why.

    Attributes:
        sweep: where it lies; its logs tell more.
    """

    def __init__(self, told: str, sweep: Sweep) -> None:
        super().__init__(told)
        self.sweep = sweep


@dataclass(frozen=True)
class MeasureOptions:
    """How rows are measured."""

    seeds: int = 3
    budget_s: float | None = None
    """Of one run; None: it goes on to its end."""
    again: bool = False
    """Measure also what was measured."""
    overrides: tuple[str, ...] = ()
    """Of every run, such as launcher=slurm."""
    config_dirs: tuple[str, ...] = ()
    trust: tuple[str, ...] = ()

    def compose(self, row: Row, *more: str) -> Experiment:
        """What a row's command would run."""
        return compose([*row.words, *self.overrides, *more], config_dirs=self.config_dirs, trust=self.trust)


def measure(row: Row, terms: MeasureOptions) -> MeasuredRecord:
    """Train a row to its end, or as far as the budget has room for, once a seed.

    Raises:
        Refused: it cannot be measured here.
        Failed: a run of it has failed.
        KeyboardInterrupt: it was stopped; the same call goes on with it.
        LaunchError: the machine, or the scheduler, refuses.
    """
    if row.metric is None:
        raise Refused("its header has no Measure line, such as `# Measure: test/accuracy_top1`")
    experiment = terms.compose(row)
    if told := missing_data(experiment.config["data"]):
        raise Refused(told)
    try:
        steps_in_all = make_plan(experiment.config).num_steps
        shorter = _fitting(row, terms, experiment, steps_in_all)
        sweep = _run(row, terms, f"zoo-{row.name}", shorter)
    except PlanError as err:
        raise Refused(err.problems[0]) from err
    return _record(row, terms, sweep, trial_id(experiment.config), steps_in_all, shorter)


def missing_data(data: dict[str, Any]) -> str | None:
    """What of a row's data is not here, in words that name no machine's folders; None where all of it is."""
    if "folder" not in data or "root" not in data:
        return None  # it comes with a package
    try:
        found = find_missing(data)
    except KeyError as err:
        return f"its data is not here: data.root={data['root']} needs {err.args[0]}; `export {err.args[0]}=...`"
    if found is None:
        return None
    what = f"{', '.join(found.files)} of " if found.files else ""
    return f"its data is not here: {what}data.folder={data['folder']}; `lathe data` names the source"


def _fitting(row: Row, terms: MeasureOptions, experiment: Experiment, steps_in_all: int) -> list[str]:
    """Overrides that let a run end within the budget: fewer steps, and as many evaluations as before among them.

    The schedule then ends where the run ends. What a step and an evaluation take is told by runs of `TRY_STEPS`, as many
    beside each other as there will be later.
    """
    if terms.budget_s is None or steps_in_all <= TRY_STEPS:
        return []
    short = _length(experiment, TRY_STEPS, steps_in_all, TRY_STEPS)
    tried = _run(row, terms, f"zoo-{row.name}-try", [*short, f"log_every_steps={TRY_STEPS // 2}"])
    every = int(experiment.config["eval_every_steps"])
    evaluations = -(-steps_in_all // every)
    fitting = min(
        _steps_in(terms.budget_s, read_history(tried.trial(entry).folder), tried.trial(entry).folder, evaluations)
        for entry in _finished(tried)
    )
    if fitting >= steps_in_all:
        return []
    if fitting < TRY_STEPS:
        raise Refused(
            f"a budget of {format_duration(terms.budget_s)} has no room for {TRY_STEPS} steps of it; give more"
        )
    return _length(experiment, fitting, steps_in_all, max(1, every * fitting // steps_in_all))


def _length(experiment: Experiment, steps: int, steps_in_all: int, eval_every_steps: int) -> list[str]:
    """Overrides by which a run has fewer steps; its warm-up stays the same part of it."""
    every = f"eval_every_steps={eval_every_steps}", f"checkpoint.every_steps={eval_every_steps}"
    warmup = experiment.config["schedule"].get("warmup_steps")
    shorter = [f"schedule.warmup_steps={warmup * steps // steps_in_all}"] if warmup else []
    return [f"max_steps={steps}", "max_epochs=null", *every, *shorter]


def _steps_in(budget_s: float, history: History, folder: Path, evaluations: int) -> int:
    """Steps that there is time for, beside the start, the evaluations on the way and the one at the end."""
    last = history.series["perf/step_time_ms"].last
    assert last is not None
    step_s = last[1] / 1e3
    rest_s = max(0.0, history.duration_s - TRY_STEPS * step_s)
    evaluation_s = _evaluation_s(folder)
    return int((budget_s - rest_s - (evaluations - 1) * evaluation_s) / step_s)


def _evaluation_s(folder: Path) -> float:
    """Seconds of the evaluation on the validation split: from the last point of the training to its own."""
    trained = 0.0
    for event in read_metric_events(folder):
        if "perf/step_time_ms" in event["metrics"]:
            trained = event["time"]
        elif any(name.startswith("val/") for name in event["metrics"]):
            return event["time"] - trained
    return 0.0


def _run(row: Row, terms: MeasureOptions, name: str, shorter: Sequence[str]) -> Sweep:
    """Run the seeds of a row to their end; those that were begun and stopped go on.

    Raises:
        PlanError: it cannot run as it stands.
        Failed: one of them has failed.
        KeyboardInterrupt: it was stopped.
    """
    words = [*row.words, *terms.overrides, *shorter]
    checkpoint = terms.compose(row).config["checkpoint"]
    metric, mode = (
        checkpoint["best_metric"] or "val/loss_nats",
        checkpoint["best_mode"] if checkpoint["best_metric"] else "min",
    )
    told = [f"sweep.metric={metric}", f"sweep.mode={mode}", f"sweep.num_seeds={terms.seeds}"]
    question = read_overrides([*words, *told], terms.config_dirs, name)
    found = prepare(question, config_dirs=terms.config_dirs, trust=terms.trust)
    begun = (
        None
        if terms.again
        else _begun(resolve_runs_dir(found.experiment.config), name, {one["trial"] for one in found.trials})
    )
    sweep = begun or write(found)
    retry_unfinished(sweep)
    if submit(sweep) is not None:
        follow_sweep.start_follower(sweep)
        executor = sweep.executor()
        code = live(sweep, executor, ui_hint, is_attached=False)
        if code == DONE and any(entry.state not in ENDED for entry in _entries(sweep)):
            cancel(sweep, executor, say=lambda line: print(line, flush=True))
            raise KeyboardInterrupt
    for entry in _entries(sweep):
        if entry.state != "finished":
            why = entry.reason or "no worker is left that would run it"
            raise Failed(f"the run of seed {entry.seed} {WORDS.get(entry.state, entry.state)}: {why}", sweep)
    return sweep


def _begun(runs_dir: Path, name: str, trials: set[str]) -> Sweep | None:
    """The newest sweep of the very same trials, whatever came of them."""
    folders = sorted(
        (path.parent for path in runs_dir.glob(f"{name}*/sweep.yaml")), key=lambda path: path.stat().st_ctime
    )
    same = [sweep for sweep in map(Sweep, folders) if {entry.id for entry in _entries(sweep)} == trials]
    return same[-1] if same else None


def _entries(sweep: Sweep) -> list[Entry]:
    return sorted(sweep.ledger().read().entries.values(), key=lambda entry: entry.seed)


def _finished(sweep: Sweep) -> list[Entry]:
    return [entry for entry in _entries(sweep) if entry.state == "finished"]


def _record(
    row: Row, terms: MeasureOptions, sweep: Sweep, trial: str, steps_in_all: int, shorter: list[str]
) -> MeasuredRecord:
    """What the journals of a finished sweep say.

    Raises:
        Failed: they say nothing of the row's metric.
    """
    assert row.metric is not None
    entries = _finished(sweep)
    histories = [read_history(sweep.trial(entry).folder) for entry in entries]
    known = sorted({name for history in histories for name in history.series if name.startswith(("val/", "test/"))})
    if any(row.metric not in history.series for history in histories):
        raise Failed(f"it measures no {row.metric}, which its header names; known: {', '.join(known)}", sweep)
    params = _params(sweep.trial(entries[0]).folder)
    hardware, code = sweep.config["hardware"], sweep.provenance["code"][0]
    devices = int(hardware["nodes"] * hardware["devices_per_node"])
    curve_metric = _of_validation(row.metric, known, sweep.spec["metric"])
    steps, curves = _curves(histories, curve_metric)
    ended = max(span[1] for history in histories for span in history.spans.values())
    return MeasuredRecord(
        row=row.name,
        trial=trial,
        overrides=[word for word in terms.overrides if not _is_of_the_machine(word)],
        metric=row.metric,
        seeds=[entry.seed for entry in entries],
        values=[rounded(_last(history, row.metric)) for history in histories],
        steps=max(entry.step for entry in entries),
        steps_in_all=steps_in_all,
        budget_s=terms.budget_s,
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
    )


def _is_of_the_machine(override: str) -> bool:
    """Whether it says only where and beside what a run takes place, which is no part of a result."""
    key = override.lstrip("+~").partition("=")[0]
    return any(key == other or key.startswith(f"{other}.") for other in EXCLUDED)


def _last(history: History, metric: str) -> float:
    last = history.series[metric].last
    assert last is not None
    return last[1]


def _side_by_side(histories: Sequence[History]) -> int:
    """The most runs that were at work at one moment."""
    spans = [span for history in histories for span in history.spans.values()]
    return max(sum(begin <= start < end for begin, end in spans) for start, _ in spans)


def _differs(sha: str) -> bool:
    """Whether the code itself is not that of a commit: records that were just written make a checkout dirty too."""
    try:
        return bool(git(HOUSE, "diff", "--name-only", sha, "--", *PACKAGES)) or bool(
            git(HOUSE, "ls-files", "--others", "--exclude-standard", "--", *PACKAGES)
        )
    except GitError:
        return True


def _params(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for event in journal.replay(folder):
        if event["event"] == "params":
            found |= event["params"]
    return found


def _of_validation(metric: str, known: Sequence[str], otherwise: str) -> str:
    """The curve that belongs to a metric: the same of the validation split, else what the best checkpoint goes by."""
    same = f"val/{metric.partition('/')[2]}"
    return same if same in known else otherwise


def _curves(histories: Sequence[History], metric: str) -> tuple[list[int], list[list[float]]]:
    """Steps, thinned, and the values of every seed there."""
    curves = [dict(history.series[metric].curve()) if metric in history.series else {} for history in histories]
    shared = sorted(step for step in curves[0] if all(step in curve for curve in curves))
    every = -(-len(shared) // MOST_POINTS) or 1
    steps = shared[::-1][::every][::-1]  # the last one among them
    return steps, [[rounded(curve[step]) for step in steps] for curve in curves]
