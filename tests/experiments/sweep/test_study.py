"""The durable study: strategies, pruners, and what many processes that are killed at any moment do to it."""

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

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from experiments.core.errors import InputError
from experiments.sweep.ledger import Entry, Ledger, LedgerState, State
from experiments.sweep.samplers import random_points
from experiments.sweep.space_parser import parse
from experiments.sweep.spec import FILE, SweepSpec, from_overrides
from experiments.sweep.study import Study
from experiments.sweep.sweep import needs_study

FLAT = ("a.x=interval(-5,5)", "a.y=interval(-5,5)", "sweep.mode=min")


def asked(*overrides: str, points: int = 100) -> SweepSpec:
    return from_overrides([*overrides, f"sweep.budget.points={points}", "sweep.name=probe"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "provenance.yaml").write_text("run_key: 20261124-abc\n")
    return tmp_path


def add(
    standing: LedgerState, number: int, values: Mapping[str, Any], state: State = "running", value: float | None = None,
    seed: int = 0,
) -> Entry:  # fmt: skip
    """Let the ledger know of a trial."""
    entry = Entry(f"{number}-{seed}", number, dict(values), seed, number=number, state=state, value=value)
    standing.entries[entry.id] = entry
    return entry


def trials(study: Study) -> list[FrozenTrial]:
    return study._study.get_trials()


def states(study: Study) -> list[TrialState]:
    return [trial.state for trial in trials(study)]


def search(folder: Path, question: SweepSpec, measure: Callable[[dict[str, Any]], float], count: int) -> list[float]:
    """What so many points give, each of them asked for by a process that lives no longer."""
    standing, values = LedgerState(), []
    for _ in range(count):
        study = Study(folder, question.asked)
        study.tell(standing)
        number, point = study.ask()
        values.append(measure(point))
        add(standing, number, point, "finished", values[-1])
    assert len({repr(entry.values) for entry in standing.entries.values()}) == count
    return values


def bowl(point: dict[str, Any]) -> float:
    return float((point["a.x"] - 1) ** 2 + (point["a.y"] + 2) ** 2)


@pytest.mark.parametrize(("strategy", "count"), [("tpe", 40), ("cmaes", 40), ("gp", 16)])
def test_a_strategy_learns_from_what_was_measured(folder: Path, strategy: str, count: int) -> None:
    values = search(folder, asked(*FLAT, f"sweep.strategy={strategy}"), bowl, count)
    assert min(values[10:]) < 0.3 * min(values[:10])


def test_an_evolution_steps_on_whole_numbers(folder: Path) -> None:
    question = asked("a.x=int(interval(-20,20))", "a.y=range(-5,5,0.5)", "sweep.mode=min", "sweep.strategy=cmaes")
    study, standing, seen = Study(folder, question.asked), LedgerState(), []
    for _ in range(30):
        study.tell(standing)
        number, point = study.ask()
        assert type(point["a.x"]) is int
        assert point["a.y"] * 2 == round(point["a.y"] * 2)
        seen.append(bowl(point))
        add(standing, number, point, "finished", seen[-1])
    assert sum(seen[-10:]) < sum(seen[:10])


def test_an_option_brings_its_own_keys_and_values_of_any_kind_come_back(folder: Path) -> None:
    space = parse({
        "opt": {"a": {"x": "interval(0,1)", "k": "[8],[16,'x']"}, "b": {"x": "tag(log,interval(1e-3,1e-2))"}, "c": {}},
        "flag": "true,1,null,'1'",
        "n": "range(0,0.5,0.1)",
    })  # fmt: skip
    question = {**asked(*FLAT, "sweep.strategy=tpe").asked, "mode": "min"}
    study, standing, points = Study(folder, question, space), LedgerState(), []
    for _ in range(60):
        study.tell(standing)
        number, point = study.ask()
        points.append(point)
        add(standing, number, point, "finished", point.get("x", 2.0) + point["n"])
    assert {frozenset(point) for point in points} == {
        frozenset({"opt", "x", "k", "flag", "n"}), frozenset({"opt", "x", "flag", "n"}), frozenset({"opt", "flag", "n"}),
    }  # fmt: skip
    assert {repr(point["flag"]) for point in points} == {"True", "1", "None", "'1'"}
    assert {repr(point["k"]) for point in points if "k" in point} == {"[8]", "[16, 'x']"}
    assert {point["n"] for point in points} == {0.0, 0.1, 0.2, 0.3, 0.4}
    assert all(point["x"] <= 1e-2 for point in points if point["opt"] == "b")
    late = points[-20:]
    assert sum(point["opt"] == "b" for point in late) > 10


def test_studies_are_for_what_learns_or_prunes() -> None:
    assert not needs_study(asked("seed=1,2").asked)
    assert needs_study(asked("seed=1,2", "sweep.strategy=tpe").asked)
    assert needs_study(asked("seed=1,2", "sweep.pruner={name: asha, first_step: 3}").asked)


def test_the_study_follows_the_ledger_as_often_as_one_likes(folder: Path) -> None:
    study, standing = Study(folder, asked(*FLAT, "sweep.strategy=tpe").asked), LedgerState()
    asked_for = [study.ask() for _ in range(5)]
    (one, two), (three, four), rest = asked_for[:2], asked_for[2:4], asked_for[4]
    add(standing, *one, "finished", 3.0)
    add(standing, *two, "finished", None)  # its metric was never a number
    add(standing, *three, "pruned")
    add(standing, *four, "running")
    for _ in range(3):
        study.tell(standing)
        assert states(study) == [
            TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED, TrialState.RUNNING, TrialState.FAIL,
        ]  # fmt: skip
    assert trials(study)[0].value == 3.0
    assert rest[0] == 4  # its process ended between the study's word and the ledger's


def test_a_strategy_is_told_the_mean_over_seeds_once_all_have_ended(folder: Path) -> None:
    study, standing = Study(folder, asked(*FLAT, "sweep.strategy=tpe").asked), LedgerState()
    number, values = study.ask()
    add(standing, number, values, "finished", 1.0)
    other = add(standing, number, values, "running", seed=1)
    study.tell(standing)
    assert states(study) == [TrialState.RUNNING]
    other.state, other.value = "finished", 2.0
    study.tell(standing)
    assert trials(study)[0].value == 1.5
    third = add(standing, number, values, "waiting", seed=2)  # of an extension
    study.tell(standing)
    assert states(study) == [TrialState.COMPLETE]
    third.state, third.value = "finished", 6.0
    study.tell(standing)
    study.tell(standing)
    assert [trial.value for trial in trials(study)] == [1.5, 3.0]
    assert trials(study)[1].params == trials(study)[0].params


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_point_that_failed_and_is_given_another_attempt_counts_again(folder: Path, state: State) -> None:
    study, standing = Study(folder, asked(*FLAT, "sweep.strategy=tpe").asked), LedgerState()
    number, values = study.ask()
    entry = add(standing, number, values, state)
    study.tell(standing)
    entry.state = "waiting"
    study.tell(standing)
    study.tell(standing)
    assert states(study) == [TrialState.FAIL, TrialState.RUNNING]
    entry.state = "failed"
    study.tell(standing)
    entry.state, entry.value = "finished", 7.0
    for _ in range(2):
        study.tell(standing)
        assert states(study) == [TrialState.FAIL, TrialState.FAIL, TrialState.COMPLETE]
    assert trials(study)[2].value == 7.0
    assert trials(study)[2].params == trials(study)[0].params


def asha(folder: Path, *overrides: str, name: str = "asha") -> Study:
    pruner = f"sweep.pruner={{name: {name}, first_step: 10, factor: 3}}"
    return Study(folder, asked("a.x=range(0,50)", pruner, *overrides).asked)


def test_halving_ends_the_worse_at_a_rung_and_lets_the_best_go_on(folder: Path) -> None:
    study = asha(folder)
    numbers = [study.enroll({"a.x": index}) for index in range(9)]
    assert numbers == list(range(9))
    assert [trial.params for trial in trials(study)] == [{"a.x": index} for index in range(9)]
    assert not any(study.should_prune(number, 5, number / 10) for number in numbers)
    ended = [study.should_prune(number, 10, number / 10) for number in reversed(numbers)]
    assert ended == [False, True, True, True, True, True, True, True, True]
    assert not study.should_prune(8, 20, 0.8)
    assert not study.should_prune(8, 30, 0.9)


def test_a_minimum_is_sought_where_that_is_asked_for(folder: Path) -> None:
    study = asha(folder, "sweep.mode=min")
    good, bad = study.enroll({"a.x": 1}), study.enroll({"a.x": 2})
    assert not study.should_prune(good, 10, 0.1)
    assert study.should_prune(bad, 10, 0.2)


def test_a_step_that_a_resumed_trial_repeats_does_no_harm(folder: Path) -> None:
    study = asha(folder)
    first, second = study.enroll({"a.x": 1}), study.enroll({"a.x": 2})
    assert not study.should_prune(first, 10, 0.5)
    assert not study.should_prune(first, 20, 0.6)
    for step, value in ((10, 0.1), (20, 0.1), (15, 0.0)):  # other numbers, as of another machine
        assert not study.should_prune(first, step, value)
    assert trials(study)[first].intermediate_values[10] == 0.5
    assert study.should_prune(second, 10, 0.4)


def test_what_was_decided_is_remembered_by_all(folder: Path) -> None:
    study = asha(folder)
    good, bad = study.enroll({"a.x": 1}), study.enroll({"a.x": 2})
    assert not study.should_prune(good, 10, 0.5)
    assert study.should_prune(bad, 10, 0.4)
    other = asha(folder)  # of the worker that takes over, or that runs another seed of the point
    assert other.should_prune(bad, 10, 0.4)
    assert other.should_prune(bad, 20, 0.9)
    standing = LedgerState()
    add(standing, good, {"a.x": 1})
    add(standing, bad, {"a.x": 2}, "pruned")
    add(standing, bad, {"a.x": 2}, "running", seed=1)
    other.tell(standing)
    assert states(study) == [TrialState.RUNNING, TrialState.PRUNED]
    assert study.should_prune(bad, 30, 0.9)


def test_a_value_that_is_no_number_ends_a_trial(folder: Path) -> None:
    study = asha(folder)
    number = study.enroll({"a.x": 1})
    assert study.should_prune(number, 1, float("nan"))
    assert study.should_prune(number, 2, 0.5)


def test_a_trial_that_failed_and_runs_again_reports_before_the_ledger_is_read(folder: Path) -> None:
    study, standing = asha(folder), LedgerState()
    number = study.enroll({"a.x": 1})
    entry = add(standing, number, {"a.x": 1}, "failed")
    study.tell(standing)
    assert not study.should_prune(number, 10, 0.5)
    assert states(study) == [TrialState.FAIL, TrialState.RUNNING]
    entry.state, entry.value = "finished", 0.5
    study.tell(standing)
    assert states(study) == [TrialState.FAIL, TrialState.COMPLETE]
    assert not study.should_prune(number, 90, 0.5)


def test_a_median_ends_those_below_it_after_its_first_step(folder: Path) -> None:
    study, standing = asha(folder, name="median"), LedgerState()
    for index in range(6):
        number = study.enroll({"a.x": index})
        assert not any(study.should_prune(number, step, index / 10) for step in (5, 10, 20))
        add(standing, number, {"a.x": index}, "finished", index / 10)
        study.tell(standing)
    worse, better = study.enroll({"a.x": 7}), study.enroll({"a.x": 8})
    assert not study.should_prune(worse, 5, 0.0)
    assert study.should_prune(worse, 10, 0.1)
    assert not study.should_prune(better, 10, 0.4)


def test_hyperband_gives_some_trials_more_steps_before_they_are_judged(folder: Path) -> None:
    (folder / "templates.json").write_text(json.dumps([{"config": {"max_steps": 270}}]))
    study = asha(folder, name="hyperband")
    numbers = [study.enroll({"a.x": index}) for index in range(40)]
    ended: dict[int, int] = {}
    for step in (10, 30, 90):
        for number in numbers:
            if study.should_prune(number, step, -number):
                ended.setdefault(number, step)
    assert {*ended.values()} == {10, 30, 90}
    assert len(ended) < 40


def test_a_key_that_was_extended_is_drawn_from_all_its_values(folder: Path) -> None:
    question = asked("a.x=interval(-5,5)", "a.y=0,1,2", "sweep.mode=min", "sweep.strategy=tpe")
    search(folder, question, lambda point: float(point["a.x"] ** 2), 15)
    extended = question.extended(["a.y=3,4", "a.x=interval(-9,9)"])
    study = Study(folder, extended.asked)
    drawn = [study.ask()[1] for _ in range(40)]
    assert {point["a.y"] for point in drawn} == {0, 1, 2, 3, 4}
    assert any(abs(point["a.x"]) > 5 for point in drawn)
    assert set(trials(study)[-1].params) == {"a.x (version 2)", "a.y (version 2)"}
    before = Study(folder, question.asked)  # of a worker that does not know of it yet
    assert set(before.ask()[1]) == {"a.x", "a.y"}
    assert set(trials(study)[-1].params) == {"a.x", "a.y"}


def test_points_that_the_space_does_not_have_can_take_part(folder: Path) -> None:
    study = asha(folder)
    assert study.enroll({"a.x": 999, "a.z": 3}) == 0
    assert study.enroll({}) == 1
    assert [trial.params for trial in trials(study)] == [{}, {}]


def test_a_line_that_a_killed_process_left_half_written_is_cut_off(folder: Path) -> None:
    question = asked(*FLAT, "sweep.strategy=tpe").asked
    study, other = Study(folder, question), Study(folder, question)
    study.ask()
    with (folder / "study.log").open("ab") as log:
        log.write(b'{"op_code":4,"worker_id":"dea')
    assert other.ask()[0] == 1
    assert study.ask()[0] == 2
    assert len(trials(Study(folder, question))) == 3


def test_a_database_holds_the_studies_of_sweeps_apart(tmp_path: Path) -> None:
    question = asked(*FLAT, "sweep.strategy=tpe", f"sweep.strategy.storage=sqlite:///{tmp_path}/studies.db").asked
    for key, count in (("one", 3), ("two", 2)):
        (tmp_path / key).mkdir()
        (tmp_path / key / "provenance.yaml").write_text(f"run_key: {key}\n")
        for number in range(count):
            assert Study(tmp_path / key, question).ask()[0] == number
        assert not (tmp_path / key / "study.log").exists()
    names = optuna.get_all_study_names(f"sqlite:///{tmp_path}/studies.db")
    assert sorted(names) == ["probe-one", "probe-two"]


@pytest.mark.parametrize(
    ("storage", "told"),
    [
        ("sqlite:////nowhere/at/all.db", "cannot be reached"),
        ("${oc.env:NO_SUCH_STUDY}", "needs the environment variable NO_SUCH_STUDY; `export NO_SUCH_STUDY=...`"),
        ("${oc.env:STUDY}", "needs a package to reach its database"),
    ],
)
def test_a_database_that_cannot_be_reached_is_told_without_its_password(
    folder: Path, monkeypatch: pytest.MonkeyPatch, storage: str, told: str
) -> None:
    monkeypatch.setenv("STUDY", "postgresql+nosuch://" + "me:hunter2@host/studies")
    question = asked(*FLAT, "sweep.strategy=tpe", f"sweep.strategy.storage={storage}").asked
    with pytest.raises(InputError) as err:
        Study(folder, question)
    assert told in str(err.value)
    assert "hunter2" not in str(err.value)


def test_random_points_have_the_keys_of_their_option() -> None:
    space = parse({"opt": {"a": {"x": "interval(0,1)"}, "b": {}}, "y": "1,2"})
    points = random_points(space, 12, seed=3)
    assert len(points) == 12
    assert {frozenset(point) for point in points} == {frozenset({"opt", "x", "y"}), frozenset({"opt", "y"})}


LIFE = """
import random, sys, warnings
from pathlib import Path
warnings.simplefilter("error")
from experiments.sweep.ledger import Ledger
from experiments.sweep.spec import SweepSpec
from experiments.sweep.study import Study

folder, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
dice = random.Random(seed)
question = SweepSpec.load(folder)
study, ledger = Study(folder, question.asked), Ledger(folder)
print("ready", flush=True)
while True:
    with ledger.locked() as standing:
        waiting = [entry for entry in standing.entries.values() if entry.state == "waiting"]
        if not waiting:
            if len(standing.points()) >= count:
                break
            study.tell(standing)
            number, values = study.ask()
            assert all(entry.number != number for entry in standing.entries.values())
            told = {"trial": f"t{number}", "point": number, "values": values, "seed": 0, "number": number}
            ledger.add([{**told, "reused": None}])
            waiting = [standing.entries[f"t{number}"]]
        entry = waiting[0]
        attempt = ledger.claim(entry, worker=str(seed), host="here", devices=1)
    state = "finished"
    value = -entry.values["a.x"] ** 2
    for step in (1, 3, 9, 27):
        if study.should_prune(entry.number, step, value):
            state = "pruned"
            break
    with ledger.locked():
        ledger.end(entry.id, attempt, state, value=value, step=step)
with ledger.locked() as standing:
    study.tell(standing)
"""


def begin(folder: Path, question: SweepSpec) -> None:
    (folder / FILE).write_text(question.text())


def live(folder: Path, seed: int, count: int) -> subprocess.Popen[str]:
    """A process that asks, reports and tells until there are so many points."""
    return subprocess.Popen(
        [sys.executable, "-P", "-c", LIFE, str(folder), str(seed), str(count)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def check_agreement(folder: Path, question: SweepSpec, count: int) -> None:
    """The study says of every point what the ledger says, and nothing of others."""
    study, standing = Study(folder, question.asked), Ledger(folder).look()
    with Ledger(folder).locked() as now:
        study.tell(now)
    assert len(standing.points()) == count
    numbers = [entry.number for entry in standing.entries.values()]
    assert len({*numbers}) == len(numbers)
    latest = study._latest()
    for entry in standing.entries.values():
        assert entry.number is not None
        trial = latest[entry.number]
        assert trial.params == entry.values
        assert trial.state == {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED}[entry.state]
        if entry.state == "finished":
            assert trial.value == entry.value
    known = {*numbers}
    assert all(trial.state == TrialState.FAIL for number, trial in latest.items() if number not in known)


PRUNED = ("a.x=interval(-5,5)", "sweep.strategy=tpe", "sweep.pruner={name: asha, first_step: 1, factor: 3}")


@pytest.mark.parametrize("storage", ["null", "sqlite"])
def test_many_processes_share_a_study_and_say_nothing(folder: Path, storage: str) -> None:
    address = f"sqlite:///{folder}/study.db" if storage == "sqlite" else storage
    question = asked(*PRUNED, f"sweep.strategy.storage={address}")
    begin(folder, question)
    processes = [live(folder, seed, 24) for seed in range(3)]
    told = [process.communicate(timeout=120)[0] for process in processes]
    assert told == ["ready\n"] * 3
    check_agreement(folder, question, 24)
    assert "pruned" in {entry.state for entry in Ledger(folder).look().entries.values()}


def kill(folder: Path, process: subprocess.Popen[str], seed: int) -> None:
    """End a process without a warning, and give back what it had, as the watch over workers does."""
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    ledger = Ledger(folder)
    with ledger.locked() as standing:
        for entry in [*standing.entries.values()]:
            if entry.state == "running" and entry.worker == str(seed):
                ledger.end(entry.id, entry.attempt, "waiting", failure="node lost")


def test_processes_that_are_killed_at_any_moment_leave_a_whole_study(folder: Path) -> None:
    question, count = asked(*PRUNED), 80
    begin(folder, question)
    dice = random.Random(1)
    for deaths in range(5):
        pair = {seed: live(folder, seed, count) for seed in (2 * deaths, 2 * deaths + 1)}
        for process in pair.values():
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for seed, process in pair.items():
            time.sleep(dice.uniform(0.0, 0.06))
            kill(folder, process, seed)
    last = [live(folder, seed, count) for seed in (998, 999)]
    assert [process.communicate(timeout=120)[0] for process in last] == ["ready\n"] * 2
    check_agreement(folder, question, count)
