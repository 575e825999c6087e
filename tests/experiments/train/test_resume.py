"""Runs that are killed, stopped and damaged, as real processes: what is resumed equals what was never interrupted."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from experiments.run import journal
from experiments.run.metrics import REPEATABLE
from tests.support.live import Live
from tests.support.variants import only_long
from tests.support.waiting import PATIENCE_S

if TYPE_CHECKING:
    from tests.conftest import Lathe

SMALL = (
    "tracking=off", "model.conv_channels=[3,5]", "model.hidden_size=16", "model.dropout_prob=0.4", "max_steps=300",
    "batch_size_global=24", "log_every_steps=1",
)  # fmt: skip
# Everything at once that a resume could get wrong; 7 does not divide 25.
HARD = (*SMALL, "batch_size_per_device=8", "eval_every_steps=25", "checkpoint.every_steps=7", "schedule=cosine")
PLAIN = (*SMALL, "optimizer=sgd", "optimizer.lr=0.05", "checkpoint.every_steps=20", "eval_every_steps=20")

Stream = dict[tuple[str, int], float]


def stream(folder: Path) -> Stream:
    """Every point of a run but those of the machine."""
    found: Stream = {}
    for event in journal.replay(folder):
        if event["event"] == "metrics":
            for key, value in event["metrics"].items():
                if key.startswith(REPEATABLE):
                    assert (key, event["step"]) not in found, "a point came twice"
                    found[key, event["step"]] = value
    return found


def weights(folder: Path) -> bytes:
    return (folder / "checkpoints" / "step_00000300" / "model.safetensors").read_bytes()


def last_state(folder: Path) -> journal.StateEvent:
    events = journal.read(journal.journals(folder)[-1])[0]
    return [event for event in events if event["event"] == "state"][-1]


def steps_saved(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in (folder / "checkpoints").glob("step_*"))


def outcome(folder: Path) -> dict[str, object]:
    read: dict[str, object] = json.loads((folder / "outcome.json").read_text())
    return read


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[str, ...]], Path]:
    """The folder of a run that nothing interrupted; each configuration is run once."""
    known: dict[tuple[str, ...], Path] = {}

    def run(overrides: tuple[str, ...]) -> Path:
        if overrides not in known:
            place = tmp_path_factory.mktemp("whole")
            command = [sys.executable, "-P", "-m", "experiments.cli", "run", *overrides]
            subprocess.run(command, cwd=place, check=True, capture_output=True, timeout=PATIENCE_S)
            known[overrides] = next((place / "runs").glob("single/*"))
        return known[overrides]

    return run


Whole = Callable[[tuple[str, ...]], Path]


def assert_same_as(whole: Path, folder: Path) -> None:
    assert stream(folder) == stream(whole)
    assert weights(folder) == weights(whole)
    assert outcome(folder)["status"] == "finished"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "num_kills", "seed"),
    [(HARD, 2, 1), pytest.param(HARD, 5, 1, marks=only_long), pytest.param(PLAIN, 2, 2, marks=only_long)],
)
def test_a_run_whose_job_is_killed_again_and_again_ends_as_if_nothing_had_been(
    live: Live, whole: Whole, overrides: tuple[str, ...], num_kills: int, seed: int
) -> None:
    command: tuple[str, ...] = ("run", *overrides)
    for attempt, step in enumerate(sorted(random.Random(seed).sample(range(2, 280), num_kills)), start=1):
        process = live.start(*command)
        os.kill(live.at_step(step, attempt), signal.SIGKILL)
        assert process.wait(PATIENCE_S) == 1
        assert "Traceback" not in live.printed()
        assert f"lathe resume {live.run_folder().name}" in live.printed()
        assert outcome(live.run_folder())["status"] == "killed"
        # The same command with resume=true does what `lathe resume` does.
        command = ("run", *overrides, "resume=true") if attempt == 1 else ("resume", live.run_folder().name)
    assert live.start(*command).wait(PATIENCE_S) == 0, live.printed()
    assert len(journal.journals(live.run_folder())) == num_kills + 1
    assert_same_as(whole(overrides), live.run_folder())
    live.until_nothing_runs()


@pytest.mark.slow
def test_a_job_whose_launcher_is_killed_saves_and_stops(live: Live, whole: Whole) -> None:
    live.popen = subprocess.Popen
    launcher = live.start("run", *HARD)
    live.at_step(60)
    launcher.kill()
    launcher.wait(PATIENCE_S)
    live.until_nothing_runs()
    state = last_state(live.run_folder())
    assert (state["state"], state["reason"]) == (
        "interrupted",
        f"the launching process has ended after step {state['step']}, which is saved",
    )
    assert max(steps_saved(live.run_folder())) == state["step"] >= 60
    assert live.start("resume", live.run_folder().name).wait(PATIENCE_S) == 0
    assert_same_as(whole(HARD), live.run_folder())


@pytest.mark.slow
def test_ctrl_c_saves_a_checkpoint_stops_and_says_how_to_go_on(live: Live, whole: Whole) -> None:
    launcher = live.start("run", *HARD)
    live.at_step(30)
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(PATIENCE_S) == 1
    folder, printed = live.run_folder(), live.printed()
    state = last_state(folder)
    assert state["state"] == outcome(folder)["status"] == "interrupted"
    assert max(steps_saved(folder)) == state["step"] >= 30
    assert f"interrupted: SIGINT after step {state['step']}, which is saved" in printed
    assert f"lathe resume {folder.name}" in printed
    assert "Traceback" not in printed + (folder / "attempts" / "1" / "log.txt").read_text()
    live.until_nothing_runs()
    assert live.start("resume", folder.name).wait(PATIENCE_S) == 0
    assert f"resumed after step {state['step']}" in live.printed()
    assert_same_as(whole(HARD), folder)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_a_job_at_once_that_does_not_stop(live: Live) -> None:
    launcher = live.start("run", *SMALL)
    os.kill(live.at_step(1), signal.SIGSTOP)  # so that it answers nothing
    launcher.send_signal(signal.SIGINT)
    live.until(lambda: True if "stopping: the training ends after this step" in live.printed() else None)
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(PATIENCE_S) == 1
    assert "killed: ended by SIGKILL\n" in live.printed()
    assert "Traceback" not in live.printed()
    live.until_nothing_runs()


@pytest.mark.slow
def test_ctrl_c_before_the_first_step_ends_the_run_without_a_traceback(live: Live) -> None:
    live.popen = subprocess.Popen
    launcher = live.start("run", *SMALL)
    live.until(lambda: next(live.run_folder().glob("attempts/1"), None))
    launcher.send_signal(signal.SIGINT)  # as the launcher assigns, or just before; the job still imports torch
    assert launcher.wait(PATIENCE_S) == 1
    assert "SIGINT" in live.printed() or "interrupted" in live.printed()
    assert "Traceback" not in live.printed()
    live.until_nothing_runs()


@pytest.mark.slow
def test_a_finished_run_is_left_alone(lathe: Lathe, whole: Whole, tmp_path: Path) -> None:
    shutil.copytree(whole(HARD), tmp_path / "runs" / "single" / whole(HARD).name)
    for command in (("resume", whole(HARD).name), ("run", *HARD, "resume=true")):
        done = lathe(*command)
        assert (done.returncode, done.stderr) == (0, "")
        assert "is finished; nothing is left to do" in done.stdout
    assert len(journal.journals(tmp_path / "runs" / "single" / whole(HARD).name)) == 1


@pytest.mark.slow
def test_a_run_that_is_at_work_cannot_be_resumed(lathe: Lathe, live: Live) -> None:
    launcher = live.start("run", *SMALL, "max_steps=100000")
    folder = live.until(lambda: next(live.run_folder().glob("attempts/1"), None)).parents[1]
    refused = lathe("resume", folder.name)
    assert refused.returncode == 2
    assert f"run '{folder.name}' is still running" in refused.stderr
    pid = live.at_step(1)
    os.kill(pid, signal.SIGSTOP)
    launcher.kill()
    launcher.wait(PATIENCE_S)
    refused = lathe("resume", folder.name)  # only the training process holds the lock now
    assert refused.returncode == 2
    assert f"(process {pid} on " in refused.stderr
    assert len(journal.journals(folder)) == 1
    os.kill(pid, signal.SIGCONT)
    live.until_nothing_runs()
    assert last_state(folder)["state"] == "interrupted"


@pytest.mark.slow
@pytest.mark.parametrize("harm", [pytest.param("cut", marks=only_long), "overwrite"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(live: Live, whole: Whole, harm: str) -> None:
    launcher = live.start("run", *HARD, "checkpoint.keep_last=2")
    live.at_step(40)
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(PATIENCE_S) == 1
    folder = live.run_folder()
    newest = steps_saved(folder)[-1]
    assert f"interrupted: SIGTERM after step {newest}, which is saved" in live.printed()
    assert f"lathe resume {folder.name}" in live.printed()
    path = folder / "checkpoints" / f"step_{newest:08d}" / "optimizer.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:100] if harm == "cut" else b"\xff" * len(content))
    assert live.start("resume", folder.name).wait(PATIENCE_S) == 0, live.printed()
    printed = live.printed()
    assert f"warning: the checkpoint of step {newest}" in printed
    assert "is damaged and was" in printed
    assert f"the checkpoint of step {newest}" in (folder / "attempts" / "2" / "log.txt").read_text()
    assert f"resumed after step {newest}" not in printed
    assert "resumed after step" in printed
    assert stream(folder) == stream(whole(HARD))
    assert weights(folder) == weights(whole(HARD))
