"""Strategies and pruners of a user's own: they get every result, repeat their choices after a restart, and lose no trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.config.compose import compose
from experiments.core.errors import InputError
from experiments.sweep.spec import read, read_overrides
from experiments.sweep.status.progress import read_progress
from experiments.sweep.strategies.make_strategy import ADAPTIVE, is_adaptive, make_pruner, make_strategy
from experiments.sweep.study import StrategyError, Study
from experiments.sweep.submit import count_todo, retry_unfinished
from experiments.sweep.sweep import Sweep
from experiments.sweep.worker.claims import TrialQueue
from tests.support.own_strategy import Neighbour
from tests.support.workers import make_sweep

TRUST = ("tests",)
LRS = [0.1 / divisor for divisor in range(1, 40)]  # so many that no point is chosen twice
SPACE = {"optimizer.lr": LRS, "batch_size_global": [*range(32, 72)]}
TARGET = "tests.support.own_strategy"


def make_own_sweep(folder: Path, strategy: dict[str, Any], pruner: dict[str, Any] | None = None) -> Sweep:
    return make_sweep(
        folder, [], trust=TRUST, space=SPACE, strategy={"name": "mine", **strategy}, pruner=pruner,
        budget={"max_points": 5, "wall_h": None, "device_h": None},
    )  # fmt: skip


def make_queue(sweep: Sweep, worker: str = "w") -> TrialQueue:
    return TrialQueue(sweep, sweep.ledger(), sweep.templates(), sweep.study(), worker=worker, devices=1)


def finish(sweep: Sweep, queue: TrialQueue, value: float) -> dict[str, Any] | None:
    """Claim a trial and end it; return its values."""
    claim = queue.claim()
    if claim is None:
        return None
    with queue.ledger.locked():
        queue.ledger.end(claim.entry.id, claim.attempt, "finished", value=value)
    return dict(claim.entry.values)


def test_every_worker_and_a_restart_are_told_all_results(tmp_path: Path) -> None:
    sweep = make_own_sweep(tmp_path, {"_target_": f"{TARGET}.Neighbour", "seed": 3})
    first, second = make_queue(sweep, "a"), make_queue(sweep, "b")
    chosen = [
        finish(sweep, queue, value) for queue, value in ((first, 0.3), (second, 0.5), (first, 0.2), (second, 0.1))
    ]
    study = make_queue(sweep).study
    assert study is not None
    expected = study.ask()
    assert finish(sweep, first, 0.4) == expected
    assert finish(sweep, second, 0.4) is None  # max_points
    assert all(values is not None and values["optimizer.lr"] in LRS for values in chosen)
    strategy = study._strategy
    assert isinstance(strategy, Neighbour)
    assert [(one.number, one.state, one.value) for one in strategy.results.values()] == [
        (0, "finished", 0.3), (1, "finished", 0.5), (2, "finished", 0.2), (3, "finished", 0.1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("raise", "KeyError: 'no such key' (own_strategy.py:47)"),
        ("tell", "KeyError: 'no such key' (own_strategy.py:54)"),
        ("outside", "`ask` chose a wrong point: it has no value for batch_size_global"),
        ("missing", "`ask` chose a wrong point: it has no value for batch_size_global, optimizer.lr"),
        ("no map", "TypeError: 'int' object is not iterable"),
        ("no JSON", "TypeError: Object of type object is not JSON serializable"),
    ],
)
def test_a_fault_in_a_strategy_starts_no_more_trials_and_loses_none(tmp_path: Path, fault: str, reason: str) -> None:
    sweep = make_own_sweep(tmp_path, {"_target_": f"{TARGET}.Faulty", "fault": fault})
    queue = make_queue(sweep)
    running = queue.claim()
    assert running is not None
    finish(sweep, queue, 0.5)
    assert queue.claim() is None
    state = queue.ledger.read()
    assert state.closed is not None
    assert state.closed.startswith(f"sweep.strategy={TARGET}.Faulty failed: {reason}")
    assert "lathe resume probe" in state.closed
    with queue.ledger.locked():  # the other trial runs to its end
        queue.ledger.end(running.entry.id, running.attempt, "finished", value=0.1)
    assert read_progress(sweep, sweep.ledger()).state == "failed"
    spec = yaml.safe_load((sweep.folder / "sweep.yaml").read_text())
    del spec["strategy"]["fault"]
    (sweep.folder / "sweep.yaml").write_text(yaml.safe_dump(spec))  # as if its code was corrected
    corrected = Sweep(sweep.folder, TRUST)
    retry_unfinished(corrected)
    assert finish(corrected, make_queue(corrected), 0.7) is not None
    assert len(corrected.ledger().read().points) == 3


def test_an_own_pruner_judges_the_curves_of_all_points(tmp_path: Path) -> None:
    pruner = {"name": "Worst", "_target_": f"{TARGET}.Worst", "first_step": 20}
    sweep = make_own_sweep(tmp_path, {"_target_": f"{TARGET}.Neighbour"}, pruner)
    queue = make_queue(sweep)
    good, bad = queue.claim(), queue.claim()
    assert good is not None
    assert bad is not None
    study, other = queue.study, Study(sweep.folder, sweep.spec, trust=TRUST)
    assert study is not None
    assert not study.should_prune(queue.ledger, good.entry, 20, 0.5)
    assert not other.should_prune(sweep.ledger(), bad.entry, 10, 0.1)
    assert other.should_prune(sweep.ledger(), bad.entry, 20, 0.4)
    assert study.should_prune(queue.ledger, bad.entry, 40, 0.9)  # the decision holds


def test_a_fault_in_a_pruner_is_reported_with_its_line_and_leaves_the_ledger_as_it_was(tmp_path: Path) -> None:
    pruner = {"name": "Worst", "_target_": f"{TARGET}.Worst", "first_step": 20, "fails": True}
    sweep = make_own_sweep(tmp_path, {"_target_": f"{TARGET}.Neighbour"}, pruner)
    queue = make_queue(sweep)
    claim = queue.claim()
    assert claim is not None
    assert queue.study is not None
    before = queue.ledger.path.read_bytes()
    with pytest.raises(
        StrategyError, match=r"sweep\.pruner=.*Worst failed: KeyError: 'no such key' \(own_strategy\.py:65\)"
    ):
        queue.study.should_prune(queue.ledger, claim.entry, 20, 0.5)
    assert queue.ledger.path.read_bytes() == before
    assert queue.claim() is not None  # the study still follows the ledger


def test_an_option_of_your_own_is_chosen_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "strategy").mkdir()
    (tmp_path / "strategy" / "neighbour.yaml").write_text(f"_target_: {TARGET}.Neighbour\nseed: 5\n")
    overrides = ["optimizer.lr=0.1,0.01", "sweep.budget.max_points=3", "sweep.strategy=neighbour"]
    spec = read_overrides(overrides, [tmp_path], trust=TRUST)
    expected = {"name": "neighbour", "_target_": f"{TARGET}.Neighbour", "seed": 5}
    assert spec.values["strategy"] == expected
    assert is_adaptive(spec.values["strategy"])
    assert isinstance(make_strategy(spec.values["strategy"], TRUST), Neighbour)
    (tmp_path / "sweeps").mkdir()
    node = {
        "space": {"optimizer.lr": LRS},
        "budget": {"max_points": 2},
        "strategy": {"_target_": f"{TARGET}.Neighbour"},
    }
    (tmp_path / "sweeps" / "own.yaml").write_text(yaml.safe_dump(node))
    spec = read("own", [], [tmp_path], TRUST)
    assert spec.values["strategy"] == {"name": "Neighbour", "_target_": f"{TARGET}.Neighbour"}
    assert spec.count_points() == 2


@pytest.mark.parametrize("name", ["grid", "random", *ADAPTIVE])
def test_a_strategy_of_lathe_is_the_same_by_its_name_and_by_its_class(name: str) -> None:
    overrides = ["a.x=1,2", "a.y=1,2", "sweep.budget.max_points=3"] if name != "cmaes" else []
    overrides = overrides or ["a.x=interval(0,1)", "a.y=interval(0,1)", "sweep.budget.max_points=3"]
    by_name = read_overrides([*overrides, f"sweep.strategy={name}"]).values["strategy"]
    strategy = make_strategy(by_name)
    target = f"{type(strategy).__module__}.{type(strategy).__name__}"
    node = f"{{_target_: {target}, seed: 0}}"
    assert read_overrides([*overrides, f"sweep.strategy={node}"]).values["strategy"] == by_name
    assert set(by_name) == {"name", "seed", "startup_points"}


@pytest.mark.parametrize("name", ["asha", "hyperband", "median"])
def test_a_pruner_of_lathe_is_the_same_by_its_name_and_by_its_class(name: str) -> None:
    overrides = ["a.x=1,2", "sweep.pruner.first_step=9"]
    by_name = read_overrides([*overrides, f"sweep.pruner.name={name}"]).values["pruner"]
    pruner = make_pruner(by_name)
    node = f"{{_target_: {type(pruner).__module__}.{type(pruner).__name__}, first_step: 9}}"
    assert read_overrides(["a.x=1,2", f"sweep.pruner={node}"]).values["pruner"] == by_name


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sweep.strategy={_target_: tests.support.own_strategy.Neighbour}", "add `--trust tests`"),
        ("sweep.strategy={_target_: modules.model.mlp.Mlp}", "takes a component for strategy"),
        ("sweep.pruner={_target_: experiments.sweep.strategies.model_based.Tpe}", "takes a component for pruner"),
        ("sweep.strategy={_target_: os.system}", "is not on the list of code that may run"),
        ("sweep.strategy=nonesuch", "sweep.strategy.name=nonesuch is not one of"),
        ("sweep.strategy={_target_: experiments.sweep.strategies.model_based.Tpe, sed: 1}", "sed"),
    ],
)  # fmt: skip
def test_a_strategy_that_may_not_run_is_reported(override: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        read_overrides(["optimizer.lr=0.1,0.01", "sweep.budget.max_points=3", override])
    assert message in str(error.value)


def test_a_strategy_of_an_experiment_is_referred_to_the_sweep() -> None:
    with pytest.raises(InputError, match=r"strategy=tpe is a setting of a sweep; write `sweep\.strategy=tpe`"):
        compose(["strategy=tpe"])


def test_an_own_strategy_counts_the_points_that_it_may_still_choose(tmp_path: Path) -> None:
    sweep = make_own_sweep(tmp_path, {"_target_": f"{TARGET}.Neighbour"})
    assert count_todo(sweep.spec, sweep.ledger().read()) == 5


@pytest.mark.parametrize("group", ["strategy", "pruner"])
@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"name": "../../outside"}, "is unknown; write one of"),
        ({"name": "mine", "_target_": "os.system", "command": "id"}, "is not on the list of code that may run"),
        ({"name": "mine", "_target_": "modules.model.mlp.Mlp"}, "is in the wrong place"),
        ({"name": "mine", "_target_": f"{TARGET}.Neighbour", "seed": "${oc.env:HOME}"}, "could read your environment"),
    ],
)
def test_a_foreign_node_runs_no_code_and_reads_no_other_file(node: dict[str, Any], message: str, group: str) -> None:
    with pytest.raises(InputError, match=message):
        (make_strategy if group == "strategy" else make_pruner)(node, TRUST)
