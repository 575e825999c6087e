"""Strategies and pruners: the study is rebuilt from the ledger, also after processes restart or are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from experiments.sweep.ledger import Entry, Ledger, State
from experiments.sweep.samplers import draw_random_points
from experiments.sweep.space import Space
from experiments.sweep.space_parser import parse
from experiments.sweep.spec import FILE, SweepSpec, read_overrides
from experiments.sweep.study import Study
from tests.support.waiting import PATIENCE_S

FLAT = ("a.x=interval(-5,5)", "a.y=interval(-5,5)", "sweep.mode=min")


def make_spec(*overrides: str, points: int = 100) -> SweepSpec:
    return read_overrides([*overrides, f"sweep.budget.max_points={points}", "sweep.name=probe"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


class Points:
    """The ledger of a sweep without workers: the test adds points and ends their trials."""

    def __init__(self, folder: Path, spec: SweepSpec | dict[str, Any], space: Space | None = None) -> None:
        self.folder, self.space = folder, space
        self.spec = spec.values if isinstance(spec, SweepSpec) else spec
        self.ledger = Ledger(folder)

    def study(self) -> Study:
        return Study(self.folder, self.spec, self.space)

    def ask(self, study: Study) -> tuple[int, dict[str, Any]]:
        """Ask for a point and add it."""
        with self.ledger.locked():
            values = study.ask()
            return self._add(values, 1), values

    def add(self, values: Mapping[str, Any], seeds: int = 1) -> int:
        with self.ledger.locked():
            return self._add(values, seeds)

    def _add(self, values: Mapping[str, Any], seeds: int) -> int:
        point = len(self.ledger.read().points)
        self.ledger.add(self._event(point, values, seed) for seed in range(seeds))
        for seed in range(seeds):
            self._claim(point, seed)
        return point

    def extend(self, point: int) -> None:
        """Add a pending seed."""
        with self.ledger.locked() as state:
            entries = state.points[point]
            self.ledger.add([self._event(point, entries[0].values, len(entries))])

    def _event(self, point: int, values: Mapping[str, Any], seed: int) -> dict[str, Any]:
        return {"trial": f"{point}-{seed}", "point": point, "values": dict(values), "seed": seed, "reused": None}

    def _claim(self, point: int, seed: int) -> None:
        self.ledger.claim(self.entry(point, seed), worker="w", host="here", devices=1)

    def entry(self, point: int, seed: int = 0) -> Entry:
        return self.ledger.read().entries[f"{point}-{seed}"]

    def end(self, point: int, state: State, value: float | None = None, seed: int = 0) -> None:
        with self.ledger.locked():
            if self.entry(point, seed).state == "pending":
                self._claim(point, seed)
            entry = self.entry(point, seed)
            self.ledger.end(entry.id, entry.attempt, state, value=value)

    def retry(self, point: int, seed: int = 0) -> None:
        with self.ledger.locked():
            self.ledger.retry([f"{point}-{seed}"])

    def should_prune(self, study: Study, point: int, step: int, value: float, seed: int = 0) -> bool:
        return study.should_prune(self.ledger, self.entry(point, seed), step, value)


def trials(study: Study) -> list[FrozenTrial]:
    study._follow()
    return study._trials()


def states(study: Study) -> list[TrialState]:
    return [trial.state for trial in trials(study)]


def search(
    folder: Path, spec: SweepSpec | dict[str, Any], measure: Callable[[dict[str, Any]], float], count: int,
    space: Space | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Choose `count` points one after another, and finish each."""
    points, chosen = Points(folder, spec, space), []
    study = points.study()
    for _ in range(count):
        point, values = points.ask(study)
        chosen.append(values)
        points.end(point, "finished", measure(values))
    return chosen


def bowl(point: dict[str, Any]) -> float:
    return float((point["a.x"] - 1) ** 2 + (point["a.y"] + 2) ** 2)


@pytest.mark.parametrize(("strategy", "count"), [("tpe", 40), ("cmaes", 40), ("gp", 16)])
def test_strategy_improves_with_results(folder: Path, strategy: str, count: int) -> None:
    chosen = search(folder, make_spec(*FLAT, f"sweep.strategy={strategy}"), bowl, count)
    assert len({repr(point) for point in chosen}) == count
    values = [bowl(point) for point in chosen]
    assert min(values[10:]) < 0.3 * min(values[:10])


def test_cmaes_supports_integers_and_ranges(folder: Path) -> None:
    spec = make_spec("a.x=int(interval(-20,20))", "a.y=range(-5,5,0.5)", "sweep.mode=min", "sweep.strategy=cmaes")
    chosen = search(folder, spec, bowl, 30)
    assert all(type(point["a.x"]) is int and point["a.y"] * 2 == round(point["a.y"] * 2) for point in chosen)
    values = [bowl(point) for point in chosen]
    assert sum(values[-10:]) < sum(values[:10])


def test_options_have_their_own_keys_and_values_keep_their_type(folder: Path) -> None:
    space = parse({
        "opt": {"a": {"x": "interval(0,1)", "k": "[8],[16,'x']"}, "b": {"x": "tag(log,interval(1e-3,1e-2))"}, "c": {}},
        "flag": "true,1,null,'1'",
        "n": "range(0,0.5,0.1)",
    })  # fmt: skip
    study_points = Points(folder, {**make_spec(*FLAT, "sweep.strategy=tpe").values, "mode": "min"}, space)
    study, points = study_points.study(), []
    for _ in range(60):
        number, point = study_points.ask(study)
        points.append(point)
        study_points.end(number, "finished", point.get("x", 2.0) + point["n"])
    assert {frozenset(point) for point in points} == {
        frozenset({"opt", "x", "k", "flag", "n"}), frozenset({"opt", "x", "flag", "n"}), frozenset({"opt", "flag", "n"}),
    }  # fmt: skip
    assert {repr(point["flag"]) for point in points} == {"True", "1", "None", "'1'"}
    assert {repr(point["k"]) for point in points if "k" in point} == {"[8]", "[16, 'x']"}
    assert {point["n"] for point in points} == {0.0, 0.1, 0.2, 0.3, 0.4}
    assert all(point["x"] <= 1e-2 for point in points if point["opt"] == "b")
    late = points[-20:]
    assert sum(point["opt"] == "b" for point in late) > 10


def test_study_trial_has_the_state_of_its_point(folder: Path) -> None:
    points = Points(folder, make_spec(*FLAT, "sweep.strategy=tpe"))
    study = points.study()
    numbers = [points.ask(study)[0] for _ in range(4)]
    points.end(numbers[0], "finished", 3.0)
    points.end(numbers[1], "finished", None)  # without a finite metric
    points.end(numbers[2], "pruned")
    for one in (study, points.study()):
        assert states(one) == [TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED, TrialState.RUNNING]
        assert trials(one)[0].value == 3.0


def test_value_of_a_point_is_the_mean_after_all_seeds_have_ended(folder: Path) -> None:
    points = Points(folder, make_spec(*FLAT, "sweep.strategy=tpe"))
    study, point = points.study(), points.add({"a.x": 1.0, "a.y": 2.0}, seeds=2)
    points.end(point, "finished", 1.0)
    assert states(study) == [TrialState.RUNNING]
    points.end(point, "finished", 2.0, seed=1)
    assert trials(study)[0].value == 1.5
    points.extend(point)
    assert states(study) == [TrialState.RUNNING]
    points.end(point, "finished", 6.0, seed=2)
    assert [trial.value for trial in trials(study)] == [3.0]
    assert trials(study)[0].params == {"a.x": 1.0, "a.y": 2.0}


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_point_that_failed_and_is_retried_counts_again(folder: Path, state: State) -> None:
    points = Points(folder, make_spec(*FLAT, "sweep.strategy=tpe"))
    study, point = points.study(), points.add({"a.x": 1.0, "a.y": 2.0})
    points.end(point, state)
    assert states(study) == [TrialState.FAIL]
    points.retry(point)
    assert states(study) == [TrialState.RUNNING]
    points.end(point, "finished", 7.0)
    assert states(study) == [TrialState.COMPLETE]
    assert trials(study)[0].value == 7.0


def test_point_missing_in_the_ledger_is_chosen_again(folder: Path) -> None:
    points = Points(folder, make_spec(*FLAT, "sweep.strategy=cmaes", "sweep.strategy.startup_points=3"))
    study = points.study()
    for _ in range(12):
        lost = study.ask()
        assert study.ask() == lost
        point, values = points.ask(study)
        assert values == lost
        points.end(point, "finished", bowl(values))
    study.ask()
    points.end(points.ask(points.study())[0], "failed")  # another worker, before this one chooses again
    assert study.ask() == points.study().ask()
    assert len(trials(study)) == 13


def asha(folder: Path, *overrides: str, name: str = "asha") -> tuple[Points, Study]:
    pruner = f"sweep.pruner={{name: {name}, first_step: 10, factor: 3}}"
    points = Points(folder, make_spec("a.x=range(0,50)", pruner, *overrides))
    return points, points.study()


def test_halving_prunes_all_but_the_best_at_a_rung(folder: Path) -> None:
    points, study = asha(folder)
    numbers = [points.add({"a.x": index}) for index in range(9)]
    assert [trial.params for trial in trials(study)] == [{"a.x": index} for index in range(9)]
    assert not any(points.should_prune(study, number, 5, number / 10) for number in numbers)
    ended = [points.should_prune(study, number, 10, number / 10) for number in reversed(numbers)]
    assert ended == [False, True, True, True, True, True, True, True, True]
    assert not points.should_prune(study, 8, 20, 0.8)
    assert not points.should_prune(study, 8, 30, 0.9)


def test_mode_min_keeps_the_smaller_value(folder: Path) -> None:
    points, study = asha(folder, "sweep.mode=min")
    good, bad = points.add({"a.x": 1}), points.add({"a.x": 2})
    assert not points.should_prune(study, good, 10, 0.1)
    assert points.should_prune(study, bad, 10, 0.2)


def test_repeated_step_of_a_resumed_trial_is_not_reported_again(folder: Path) -> None:
    points, study = asha(folder)
    first, second = points.add({"a.x": 1}), points.add({"a.x": 2})
    assert not points.should_prune(study, first, 10, 0.5)
    assert not points.should_prune(study, first, 20, 0.6)
    for step, value in ((10, 0.1), (20, 0.1), (15, 0.0)):  # different values, as on another machine
        assert not points.should_prune(study, first, step, value)
    assert trials(study)[first].intermediate_values == {10: 0.5, 20: 0.6}
    assert points.should_prune(study, second, 10, 0.4)


def test_a_decision_holds_for_every_worker_and_every_seed(folder: Path) -> None:
    points, study = asha(folder)
    good, bad = points.add({"a.x": 1}), points.add({"a.x": 2}, seeds=2)
    assert not points.should_prune(study, good, 10, 0.5)
    assert points.should_prune(study, bad, 10, 0.4)
    other = points.study()
    assert points.should_prune(other, bad, 10, 0.6, seed=1)
    assert points.should_prune(other, bad, 20, 0.9, seed=1)
    points.end(bad, "pruned")
    assert states(other) == [TrialState.RUNNING, TrialState.PRUNED]
    assert points.should_prune(study, bad, 30, 0.9, seed=1)


def test_nan_prunes_a_trial(folder: Path) -> None:
    points, study = asha(folder)
    point = points.add({"a.x": 1})
    assert points.should_prune(study, point, 1, float("nan"))
    assert points.should_prune(points.study(), point, 2, 0.5)


def test_a_retried_trial_is_judged_anew(folder: Path) -> None:
    points, study = asha(folder)
    point = points.add({"a.x": 1})
    assert points.should_prune(study, point, 10, float("nan"))
    points.end(point, "failed")
    points.retry(point)
    for one in (study, points.study()):
        assert not points.should_prune(one, point, 10, 0.5)


def test_report_missing_in_the_ledger_is_ignored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points, study = asha(folder)
    first, second = points.add({"a.x": 1}), points.add({"a.x": 2})
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "_write", full_disk)
        with pytest.raises(OSError, match="full"):
            points.should_prune(study, first, 10, 0.9)
    assert not points.should_prune(study, second, 10, 0.1)
    assert trials(study)[first].intermediate_values == {}


def full_disk(*_: Any) -> None:
    raise OSError("the disk is full")


def test_median_pruner_prunes_trials_below_the_median_after_first_step(folder: Path) -> None:
    points, study = asha(folder, name="median")
    for index in range(6):
        point = points.add({"a.x": index})
        assert not any(points.should_prune(study, point, step, index / 10) for step in (5, 10, 20))
        points.end(point, "finished", index / 10)
    worse, better = points.add({"a.x": 7}), points.add({"a.x": 8})
    assert not points.should_prune(study, worse, 5, 0.0)
    assert points.should_prune(study, worse, 10, 0.1)
    assert not points.should_prune(study, better, 10, 0.4)


def test_hyperband_gives_some_trials_more_steps_before_they_are_judged(folder: Path) -> None:
    template = {"choices": {}, "config": {"max_steps": 270}, "links": {}, "overrides": []}
    (folder / "templates.json").write_text(json.dumps([template]))
    points, study = asha(folder, name="hyperband")
    numbers = [points.add({"a.x": index}) for index in range(40)]
    ended: dict[int, int] = {}
    for step in (10, 30, 90):
        for number in numbers:
            if points.should_prune(study, number, step, -number):
                ended.setdefault(number, step)
    assert {*ended.values()} == {10, 30, 90}
    assert len(ended) < 40


def test_extended_key_is_sampled_from_all_its_values(folder: Path) -> None:
    spec = make_spec("a.x=interval(-5,5)", "a.y=0,1,2", "sweep.mode=min", "sweep.strategy=tpe")
    search(folder, spec, lambda point: float(point["a.x"] ** 2), 15)
    points = Points(folder, spec.extend(["a.y=3,4", "a.x=interval(-9,9)"]))
    study = points.study()
    drawn = [points.ask(study)[1] for _ in range(40)]
    assert {point["a.y"] for point in drawn} == {0, 1, 2, 3, 4}
    assert any(abs(point["a.x"]) > 5 for point in drawn)
    before = Points(folder, spec)  # a worker that still has the smaller space
    assert {abs(point["a.x"]) <= 5 and point["a.y"] <= 2 for _, point in [before.ask(before.study())]} == {True}


def test_values_outside_the_space_are_ignored(folder: Path) -> None:
    points, study = asha(folder)
    points.add({"a.x": 999, "a.z": 3})
    points.add({})
    assert [trial.params for trial in trials(study)] == [{}, {}]


def test_random_points_have_the_keys_of_their_option() -> None:
    space = parse({"opt": {"a": {"x": "interval(0,1)"}, "b": {}}, "y": "1,2"})
    points = draw_random_points(space, 12, seed=3)
    assert len(points) == 12
    assert {frozenset(point) for point in points} == {frozenset({"opt", "x", "y"}), frozenset({"opt", "y"})}


LAST_STEP = 27


def run_random_workers(
    folder: Path, spec: SweepSpec, seeds: int, count: int, *, restarts: bool
) -> list[dict[str, Any]]:
    """Choose, report, end, fail and retry in a random order; returns the events of the ledger without their times.

    Args:
        folder: folder of the sweep.
        spec: spec of the sweep.
        seeds: number of trials per point.
        count: number of points.
        restarts: whether each step uses a new study, as after a restart.
    """
    generator, points = random.Random(7), Points(folder, spec)
    study, steps = points.study(), dict[str, int]()
    while True:
        study = points.study() if restarts else study
        entries = [*points.ledger.read().entries.values()]
        todo = [entry for entry in entries if entry.state in ("pending", "running")]
        num_points = len(points.ledger.read().points)
        if num_points < count and (len(todo) < 4 or generator.random() < 0.2):
            with points.ledger.locked():
                points._add(study.ask(), seeds)
            continue
        if not todo:
            return [{**json.loads(line), "time": 0, "until": 0} for line in points.ledger.path.read_text().splitlines()]
        entry = generator.choice(todo)
        step = steps[entry.id] = steps.get(entry.id, 0) + 3
        value = bowl(entry.values) + 9 / step + entry.seed
        if spec.values["pruner"] and points.should_prune(study, entry.point, step, value, entry.seed):
            points.end(entry.point, "pruned", value, entry.seed)
        elif step >= LAST_STEP:
            points.end(entry.point, "finished", value, entry.seed)
        elif generator.random() < 0.03:
            points.end(entry.point, "pending", value, entry.seed)
            steps[entry.id] = 0
        elif generator.random() < 0.03:
            points.end(entry.point, "failed", value, entry.seed)
            if generator.random() < 0.5:
                points.retry(entry.point, entry.seed)


MIXED = ("a.x=int(interval(-20,20))", "a.y=range(-5,5,0.3)", "sweep.mode=min")


@pytest.mark.parametrize(
    ("strategy", "space", "pruner", "seeds", "count"),
    [
        ("tpe", FLAT, None, 1, 25),
        ("tpe", (*MIXED, "a.z=1,[2],x"), "asha", 2, 25),
        ("cmaes", FLAT, None, 1, 40),
        ("cmaes", MIXED, "median", 1, 25),
        ("cmaes", (*FLAT, "a.z=interval(0,1)"), "asha", 2, 40),
        ("gp", FLAT, None, 1, 14),
        ("gp", MIXED, "hyperband", 2, 14),
        ("tpe", FLAT, "hyperband", 1, 40),
        ("tpe", FLAT, "median", 2, 20),
    ],
)
def test_restarted_workers_choose_and_prune_like_one_that_keeps_running(
    tmp_path: Path, strategy: str, space: tuple[str, ...], pruner: str | None, seeds: int, count: int
) -> None:
    rules = [f"sweep.pruner={{name: {pruner}, first_step: 3, factor: 3}}"] if pruner else []
    spec = make_spec(*space, f"sweep.strategy={{name: {strategy}, startup_points: 5}}", *rules)
    events = {}
    for restarts in (False, True):
        folder = tmp_path / str(restarts)
        folder.mkdir()
        events[restarts] = run_random_workers(folder, spec, seeds, count, restarts=restarts)
    assert events[True] == events[False]
    assert not pruner or any(event.get("prune") for event in events[True])


WORKER = """
import random, sys, warnings
from pathlib import Path
warnings.simplefilter("error")
from experiments.sweep.ledger import Ledger
from experiments.sweep.spec import SweepSpec
from experiments.sweep.study import Study

folder, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
generator = random.Random(seed)
spec = SweepSpec.load(folder)
study, ledger = Study(folder, spec.values), Ledger(folder)
print("ready", flush=True)
while True:
    with ledger.locked() as ledger_state:
        waiting = [entry for entry in ledger_state.entries.values() if entry.state == "pending"]
        if not waiting:
            if len(ledger_state.points) >= count:
                break
            values, point = study.ask(), len(ledger_state.points)
            ledger.add([{"trial": f"t{point}", "point": point, "values": values, "seed": 0, "reused": None}])
            waiting = [ledger_state.entries[f"t{point}"]]
        entry = waiting[0]
        attempt = ledger.claim(entry, worker=str(seed), host="here", devices=1)
    state = "finished"
    value = -entry.values["a.x"] ** 2
    for step in (1, 3, 9, 27):
        if study.should_prune(ledger, entry, step, value):
            state = "pruned"
            break
    with ledger.locked():
        ledger.end(entry.id, attempt, state, value=value, step=step)
"""


def create_folder(folder: Path, spec: SweepSpec) -> None:
    (folder / FILE).write_text(spec.to_yaml())


def start_process(folder: Path, seed: int, count: int) -> subprocess.Popen[str]:
    """A process that asks, reports and tells until there are so many points."""
    return subprocess.Popen(
        [sys.executable, "-P", "-c", WORKER, str(folder), str(seed), str(count)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def check_agreement(folder: Path, spec: SweepSpec, count: int) -> None:
    """Every point and every decision in the ledger is what one process makes of the events before it."""
    (folder / "again").mkdir()
    points = Points(folder / "again", spec)
    study = points.study()
    events = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    for event in events:
        if event["event"] == "trial":
            assert study.ask() == event["values"]
        if event["event"] == "reported":
            entry = points.ledger.read().entries[event["trial"]]
            assert study.should_prune(points.ledger, entry, event["step"], event["value"]) == event["prune"]
        else:
            with points.ledger.locked():
                points.ledger._write([event])
    for one in (study, Study(folder, spec.values)):
        for trial, entry in zip(trials(one), Ledger(folder).read().entries.values(), strict=True):
            assert trial.params == entry.values
            assert trial.state == {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED}[entry.state]
            assert trial.value == (entry.value if entry.state == "finished" else None)
    assert [event["point"] for event in events if event["event"] == "trial"] == [*range(count)]


PRUNED = ("a.x=interval(-5,5)", "sweep.strategy=tpe", "sweep.pruner={name: asha, first_step: 1, factor: 3}")


def test_many_processes_share_a_study_and_print_nothing(folder: Path) -> None:
    spec = make_spec(*PRUNED)
    create_folder(folder, spec)
    processes = [start_process(folder, seed, 24) for seed in range(3)]
    assert [process.communicate(timeout=PATIENCE_S)[0] for process in processes] == ["ready\n"] * 3
    check_agreement(folder, spec, 24)
    assert "pruned" in {entry.state for entry in Ledger(folder).read().entries.values()}


def kill_process(folder: Path, process: subprocess.Popen[str], seed: int) -> None:
    """End a process without a warning, and give back what it had, as the watch over workers does."""
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE_S)
    ledger = Ledger(folder)
    with ledger.locked() as ledger_state:
        for entry in [*ledger_state.entries.values()]:
            if entry.state == "running" and entry.worker == str(seed):
                ledger.end(entry.id, entry.attempt, "pending", failure="node lost")


def test_processes_killed_at_random_leave_a_consistent_study(folder: Path) -> None:
    spec, count = make_spec(*PRUNED), 80
    create_folder(folder, spec)
    generator = random.Random(1)
    for deaths in range(5):
        pair = {seed: start_process(folder, seed, count) for seed in (2 * deaths, 2 * deaths + 1)}
        for process in pair.values():
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for seed, process in pair.items():
            time.sleep(generator.uniform(0.0, 0.06))
            kill_process(folder, process, seed)
    last = [start_process(folder, seed, count) for seed in (998, 999)]
    assert [process.communicate(timeout=PATIENCE_S)[0] for process in last] == ["ready\n"] * 2
    check_agreement(folder, spec, count)
