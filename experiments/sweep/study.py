"""The strategy and pruner of a sweep, with an Optuna study in memory, which follow from the sweep's ledger alone."""

from __future__ import annotations

import json
import math
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.trial import FrozenTrial, TrialState, create_trial

from experiments.components.instantiate import describe_error
from experiments.sweep.expand import list_averaged, select_point, select_space
from experiments.sweep.ledger import ENDED, Entry, Event, Ledger
from experiments.sweep.pruners.optuna_pruners import OptunaPruner, read_max_steps
from experiments.sweep.samplers import PerTrialSampler, draw_point, find_fault, to_optuna
from experiments.sweep.space import Space
from experiments.sweep.space_parser import parse
from experiments.sweep.strategies.base import PointResult
from experiments.sweep.strategies.make_strategy import make_pruner, make_strategy
from experiments.sweep.strategies.model_based import CmaEs, ModelBased

UNDECIDED = NopPruner()
"""Used instead of Hyperband until the first finished point shows how many steps a trial has."""
T = TypeVar("T")
RESULTS: Mapping[TrialState, Literal["running", "finished", "pruned", "failed"]] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


class StrategyError(Exception):
    """The code of a strategy or a pruner failed; the message has its file and line."""


class Study:
    """One process's copy of a sweep's study, rebuilt from the ledger.

    Each event of the ledger is applied once, in order, so every process and every restart has the same study and asks
    for the same next point. A point is one trial of the study, however many seeds it has: its value is their mean, and
    the first seed that reaches a step reports for the point there. A decision to prune holds for all its seeds.
    """

    def __init__(
        self, folder: Path, spec: Mapping[str, Any], space: Space | None = None, trust: Collection[str] = ()
    ) -> None:
        """
        Args:
            folder: of the sweep.
            spec: by the keys of `experiments.config.schema.SweepSchema`.
            space: the parsed space of the spec, if you have it.
            trust: packages whose strategies and pruners the user trusts.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space = select_space(spec, parse(spec["space"]) if space is None else space)
        self._folder, self._spec, self._trust = folder, spec, trust
        self._restart()

    def _restart(self) -> None:
        self._ledger, self._is_behind = Ledger(self._folder), False  # behind: an error of user code left events out
        self._numbers: dict[int, int] = {}
        """Number of the study's trial by point."""
        self._pruned: set[int] = set()
        """Points that are to be pruned; their attempts may still run."""
        self._expected: Event = {}
        """What this process has already applied, and the ledger's next event must therefore be."""
        self._strategy = make_strategy(self._spec["strategy"], self._trust)
        self._pruner = make_pruner(self._spec["pruner"], self._trust) if self._spec["pruner"] else None
        self._results: dict[int, PointResult] = {}
        """The last result of each point that the strategy has received."""
        self._strategy.space, self._strategy.mode = self.space, str(self._spec["mode"])
        if self._pruner is not None:
            self._pruner.mode = str(self._spec["mode"])
        self._study = optuna.create_study(
            study_name=str(self._spec["name"]),  # Hyperband derives a trial's bracket from it
            direction="maximize" if self._spec["mode"] == "max" else "minimize",
            sampler=PerTrialSampler(self._strategy, self.space),
            pruner=self._make_optuna_pruner(read_max_steps(self._folder)),
        )

    def _make_optuna_pruner(self, max_steps: int | None) -> BasePruner:
        if not isinstance(self._pruner, OptunaPruner):
            return NopPruner()
        pruner: BasePruner | None = self._pruner.make(max_steps)
        return pruner or UNDECIDED

    def ask(self) -> dict[str, Any]:
        """Choose the next point: its values by key. Hold the ledger's lock until the point is in the ledger.

        Raises:
            StrategyError: the strategy failed, or chose a point that is not in the space.
        """
        self._follow()
        if isinstance(self._strategy, ModelBased):
            values = draw_point(self._study, self.space)
        else:
            values = self._call("strategy", self._ask_strategy)
        self._expected = {"event": "trial", "values": {**values, **list_averaged(self._spec)[0]}}
        return values

    def _ask_strategy(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(json.dumps(dict(self._strategy.ask())))  # as the ledger will have it
        if (fault := find_fault(self.space, values)) is not None:
            raise ValueError(f"`ask` chose a wrong point: {fault}")
        return values

    def _call(self, part: str, work: Callable[[], T]) -> T:
        """Call code of the strategy or the pruner, which may be a user's."""
        try:
            return work()
        except Exception as err:  # a user's strategy or pruner may raise anything
            self._is_behind = True
            traceback.print_exc()  # to the log of the worker
            target = self._spec[part].get("_target_", self._spec[part]["name"])
            code = self._folder / "code"
            raise StrategyError(
                f"sweep.{part}={target} failed: {describe_error(err)}; correct the copy of its code in {code} and "
                f"run `lathe resume {self._folder.name}`, or correct yours and start a sweep with sweep.reuse=true"
            ) from err

    def should_prune(self, ledger: Ledger, entry: Entry, step: int, value: float) -> bool:
        """Report a value of the metric to the ledger, and decide whether to prune the trial.

        A step at or below the last reported one is not reported again: a resumed attempt repeats steps.

        Raises:
            StrategyError: the strategy or the pruner failed.
        """
        with ledger.locked():
            self._follow()
            number = self._numbers[entry.point]
            trial = self._trials()[number]
            if entry.point in self._pruned or trial.state.is_finished():
                return entry.point in self._pruned or trial.state == TrialState.PRUNED
            if trial.last_step is not None and step <= trial.last_step and not math.isnan(value):
                return False
            self._expected = {"event": "reported", "trial": entry.id, "step": step}
            should_prune = math.isnan(value)
            if not should_prune:
                trial.intermediate_values[step] = value
                should_prune = self._judge(trial, entry.point)
            attrs = self._trials()[number].system_attrs
            rungs = {key: attrs[key] for key in attrs.keys() - trial.system_attrs.keys()}
            ledger.record_report(entry.id, step=step, value=value, prune=should_prune, rungs=rungs)
        return should_prune

    def _judge(self, trial: FrozenTrial, point: int) -> bool:
        """Ask the pruner."""
        pruner = self._pruner
        if pruner is None or isinstance(pruner, OptunaPruner):
            return bool(self._study.pruner.prune(self._study, trial))  # of NumPy in Optuna
        results = {number: self._make_result(number) for number in self._numbers}
        judged = results.pop(point)
        return self._call("pruner", lambda: bool(pruner.should_prune(judged, [*results.values()])))

    def _make_result(self, point: int) -> PointResult:
        trial = self._trials()[self._numbers[point]]
        values = select_point(self._spec, self._ledger.state.points[point][0].values)
        return PointResult(point, values, RESULTS[trial.state], trial.value, dict(trial.intermediate_values))

    def _tell(self, point: int) -> None:
        """Tell the strategy what is new of a point. Optuna's strategies read the study."""
        if isinstance(self._strategy, ModelBased):
            return
        result, before = self._make_result(point), self._results.get(point)
        if before is None or (before.state, before.value) != (result.state, result.value):
            self._results[point] = result
            self._call("strategy", lambda: self._strategy.tell(result))

    def _follow(self) -> None:
        """Apply the new events of the ledger."""
        if self._is_behind:
            self._restart()
        expected, events = self._expected, self._ledger.read_events()
        self._expected = {}
        if expected:
            first = next(events, {})
            if any(first.get(key) != value for key, value in expected.items()):  # its write to the ledger failed
                self._restart()
                events = self._ledger.read_events()
            else:
                self._apply(first)
        for event in events:
            self._apply(event)

    def _apply(self, event: Event) -> None:
        state = self._ledger.state
        entry = state.entries.get(event.get("trial", ""))
        if entry is None:
            return
        if entry.point not in self._numbers:
            self._add(entry)
        trial = self._trials()[self._numbers[entry.point]]
        if event["event"] == "reported":
            if not math.isnan(event["value"]):
                trial.intermediate_values[event["step"]] = event["value"]
            trial.system_attrs |= event["rungs"]
            if event["prune"]:
                self._pruned.add(entry.point)
            return
        if event["event"] == "again":
            self._pruned.discard(entry.point)
        trial.state, trial.value = _outcome(state.points[entry.point])
        if self._study.pruner is UNDECIDED and trial.last_step is not None and trial.state == TrialState.COMPLETE:
            self._study.pruner = self._make_optuna_pruner(trial.last_step)
        self._tell(entry.point)

    def _add(self, entry: Entry) -> None:
        """Add a point as a trial, or complete the trial that `draw_point` has just made.

        CMA-ES writes its state to the attributes of trials when it chooses a point, so it chooses again here.
        """
        number = self._numbers[entry.point] = len(self._numbers)
        params, distributions = to_optuna(self.space, select_point(self._spec, entry.values))
        is_cmaes = isinstance(self._strategy, CmaEs)
        if number == len(self._trials()):
            if is_cmaes:
                self._study.ask()
            else:
                self._study.add_trial(create_trial(state=TrialState.RUNNING))
        trial = self._trials()[number]
        trial.params, trial.distributions = params, distributions
        if not is_cmaes:
            trial.system_attrs = {}

    def _trials(self) -> list[FrozenTrial]:
        """The study's own objects, not copies."""
        return self._study.get_trials(deepcopy=False)


def _outcome(entries: Sequence[Entry]) -> tuple[TrialState, float | None]:
    """State and value of a point's trial, from the trials of its seeds."""
    states = {entry.state for entry in entries}
    if "pruned" in states:
        return TrialState.PRUNED, None
    if not states <= ENDED:
        return TrialState.RUNNING, None
    values = [entry.value for entry in entries if entry.value is not None and math.isfinite(entry.value)]
    if states == {"finished"} and len(values) == len(entries):
        return TrialState.COMPLETE, math.fsum(values) / len(values)
    return TrialState.FAIL, None
