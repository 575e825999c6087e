"""The examples of docs/examples: resumed bit for bit, in one process and in two, with equal losses in both."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from modules.data.base import Tree
from modules.parallel.base import Rank
from tests.support.live import Live
from tests.support.ranks import run_on_ranks
from tests.support.variants import only_long

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
NAMES = sorted(path.stem for path in (EXAMPLES / "conf" / "experiment").glob("*.yaml"))
# Checkpoints after steps 4 and 7. The kill before step 6 loses step 5.
SMALL = (
    "tracking=off", "hardware.device=cpu", "max_steps=7", "eval_every_steps=4", "checkpoint.every_steps=4",
    "log_every_steps=1",
)  # fmt: skip
OWN = {
    "dqn": ("callback.target.every_steps=3", "data.explore_steps=4", "task.num_steps=50"),
    "gan": ("grad_clip_norm=1",),
    "digits_vae": (
        "callback=[samples,histograms,lr_finder]",
        "callback.lr_finder.num_steps=10",
        "batch_size_per_device=16",
    ),
}
LAYOUTS = {1: ("parallel=single",), 2: ("parallel=data", "hardware.devices_per_node=2")}


@dataclass
class Result:
    """What a run leaves."""

    metrics: dict[tuple[str, int], float]
    """By name and step, without those of the machine."""
    state: dict[str, bytes]
    """The files of the last checkpoint that hold tensors."""


class Killed(Exception):
    """Takes the place of a signal."""


def train(rank: Rank, name: str, folder: Path, *, is_killed: bool = False) -> Result:
    """Train an example, in two attempts if the first one is killed; only the first rank has a result."""
    if is_killed:
        with pytest.raises(Killed):
            _attempt(rank, name, folder, 1, kill_before=5)
    _attempt(rank, name, folder, 1 + is_killed)
    return read_result(folder) if rank.number == 0 else Result({}, {})


def read_result(folder: Path) -> Result:
    """What a run has left in its folder."""
    steps = sorted((folder / "checkpoints").glob("step_*"))
    return Result(
        {**dict(_points(folder)), **dict(_media(folder))},
        {path.name: path.read_bytes() for path in steps[-1].glob("*.safetensors")},
    )


def _attempt(rank: Rank, name: str, folder: Path, number: int, kill_before: int | None = None) -> None:
    from experiments.components.assemble import assemble
    from experiments.config.compose import compose
    from experiments.plan.plan import make_plan
    from experiments.run.checkpoint import Checkpoints
    from experiments.run.history import read_previous_attempts
    from experiments.run.journal import Journal
    from experiments.train.trainer import Trainer

    overrides = [*LAYOUTS[rank.local_world_size], f"experiment={name}", *SMALL, *OWN.get(name, ())]
    config = compose(overrides, config_dirs=[EXAMPLES / "conf"], trust=["ideas"]).config
    path = folder / "attempts" / str(number) / "journal.jsonl"
    with Journal(path if rank.number == 0 else Path("/dev/null")) as journal:
        trainer = Trainer(
            config, make_plan(config), assemble(config, ["ideas"]), journal, Checkpoints(folder, 1),
            lambda: None, lambda step, warning: None, read_previous_attempts(folder, number), rank,
        )  # fmt: skip
        engine: Any = trainer.components.engine
        train_step = engine.train_step

        def train_step_until(batch: Tree, step: int) -> Any:
            if step == kill_before:
                trainer.checkpointer.wait()
                engine.gather(0.0)  # the other rank may not read the checkpoint while it is written
                raise Killed
            return train_step(batch, step)

        engine.train_step = train_step_until
        assert trainer.run() == ("finished", None)


def _points(folder: Path) -> Iterator[tuple[tuple[str, int], float]]:
    """All points of all attempts, where a later attempt repeats those after its checkpoint."""
    from experiments.run.journal import journals, read
    from experiments.run.metrics import REPEATABLE

    for event in [event for path in journals(folder) for event in read(path)[0]]:
        if event["event"] == "metrics":
            yield from (
                ((name, event["step"]), value)
                for name, value in event["metrics"].items()
                if name.startswith(REPEATABLE)
            )


def _media(folder: Path) -> Iterator[tuple[tuple[str, int], float]]:
    """The numbers in the files of callbacks."""
    for path in sorted((folder / "media").rglob("*.json")):
        content, step = json.loads(path.read_text()), int(path.parent.name.removeprefix("step_"))
        if path.name == "range_test.json":
            yield from (((f"range test {number}", step), loss) for number, loss in enumerate(content["loss"]))
        else:
            yield from (((name, step), each["std"]) for name, each in content.items())


def train_all(rank: Rank, folder: Path) -> dict[str, tuple[Result, Result]]:
    """Train every example without and with a kill."""
    sys.path.insert(0, str(EXAMPLES))
    return {
        name: (train(rank, name, folder / name / "whole"), train(rank, name, folder / name / "killed", is_killed=True))
        for name in NAMES
    }


Results = dict[str, tuple[Result, Result]]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run_on_ranks(1, train_all, tmp_path_factory.mktemp("alone"))[0]


@pytest.fixture(scope="module")
def on_two(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run_on_ranks(2, train_all, tmp_path_factory.mktemp("on_two"))[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_example_that_is_killed_goes_on_bit_for_bit(name: str, alone: Results, on_two: Results) -> None:
    for whole, killed in (alone[name], on_two[name]):
        assert killed == whole
        assert {step for key, step in whole.metrics if key.startswith("train/")} == set(range(1, 8))
        assert (("range test 9", 0) in whole.metrics) == (name == "digits_vae")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_example_has_the_same_losses_on_two_replicas(name: str, alone: Results, on_two: Results) -> None:
    one, two = alone[name][0].metrics, on_two[name][0].metrics
    assert two == pytest.approx(one, rel=1e-5, abs=1e-5)


@only_long
@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_an_example_goes_on_bit_for_bit_after_kill_9_at_a_random_step(
    name: str, num_ranks: int, tmp_path: Path, preloaded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES))
    step, trust = random.randrange(1, 100), ("--trust", "ideas")
    command = (
        "run", "--config-dir", str(EXAMPLES / "conf"), *trust, *LAYOUTS[num_ranks], f"experiment={name}", *SMALL,
        *OWN.get(name, ()), "max_steps=400", "checkpoint.every_steps=20",
    )  # fmt: skip
    results = []
    for is_killed in (False, True):
        live = Live(tmp_path / str(is_killed), preloaded)
        live.folder.mkdir()
        process = live.start(*command)
        if is_killed:
            live.at_step(step)
            for pid in live.processes():
                os.kill(pid, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL, f"it ended before it was killed after step {step}"
            live.until_nothing_runs()
            process = live.start("resume", *trust, live.run_folder().name)
        assert process.wait() == 0, live.printed()
        results.append(read_result(live.run_folder()))
    assert results[1] == results[0], f"killed after step {step}"
