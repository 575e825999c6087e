"""A real full disk: the error is one line, and everything that was saved can be used once there is space."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from experiments.run import journal
from experiments.run.checkpoint import Checkpoints
from tests.support.live import Live
from tests.support.variants import only_long
from tests.support.waiting import PATIENCE_S

if TYPE_CHECKING:
    from tests.conftest import Lathe

TINY = (
    "tracking=off", "model.conv_channels=[3,5]", "model.hidden_size=16", "max_steps=2000", "batch_size_global=24",
    "runs_dir=small", "checkpoint.best_metric=null", "eval_every_steps=2000",
)  # fmt: skip
NUM_MIB = 4


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of a few MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={NUM_MIB}m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("this machine has no mount command")
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Fill the disk to the last byte."""
    path = folder / "filler"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    for size in (1 << 16, 1 << 12, 1):
        try:
            while os.write(descriptor, b"x" * size):
                pass
        except OSError:
            continue
    os.close(descriptor)
    return path


def run_folder(live: Live) -> Path:
    return live.until(lambda: next((live.folder / "small").glob("single/*/trial.yaml"), None)).parent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("log_every_steps=2000", "checkpoint.every_steps=20"), "CheckpointError: checkpoint of step"),
        pytest.param(("log_every_steps=1", "checkpoint.every_steps=50"), "is full; free space", marks=only_long),
        (("log_every_steps=1", "checkpoint.every_steps=10000"), "is full; free space"),
    ],
)
def test_nothing_that_was_saved_is_lost_when_the_disk_fills_up(
    live: Live, small_disk: Path, overrides: tuple[str, ...], message: str
) -> None:
    process = live.start("run", *TINY, *overrides)
    folder = run_folder(live)
    saved = Checkpoints(folder, 1)
    if "checkpoint.every_steps=10000" in overrides:
        path = folder / "attempts" / "1" / "journal.jsonl"
        live.until(lambda: True if any(e["event"] == "metrics" for e in journal.read(path)[0]) else None)
    else:
        live.until(saved.latest)
    filler = fill(small_disk)
    assert process.wait(PATIENCE_S) == 1
    printed = live.printed()
    assert "Traceback" not in printed
    lines = [line for line in printed.splitlines() if line.startswith("failed: ")]
    assert len(lines) == 1, printed
    assert message in lines[0] or "the journal cannot be written (No space left on device)" in lines[0], printed
    filler.unlink()
    checkpoint = saved.latest()
    assert live.start("resume", str(folder)).wait(PATIENCE_S) == 0, live.printed()
    if checkpoint is not None:
        assert f"resumed after step {checkpoint.step}" in live.printed()
    assert json.loads((folder / "outcome.json").read_text())["status"] == "finished"
    live.until_nothing_runs()


@pytest.mark.slow
def test_no_partial_run_is_left_on_a_full_disk(lathe: Lathe, live: Live, small_disk: Path, tmp_path: Path) -> None:
    filler = fill(small_disk)
    refused = lathe("run", *TINY)
    assert refused.returncode == 2, refused.stderr
    assert f"runs_dir={small_disk} cannot be written: No space left on device; free space there" in refused.stderr
    assert "Traceback" not in refused.stderr
    left = list(small_disk.glob("single/*"))
    assert [path.name for path in left] in ([], [".gitignore"])
    assert all(path.read_text() == "*\n" for path in left)
    filler.unlink()
    live.until_nothing_runs()


@pytest.mark.slow
def test_a_full_disk_is_reported_while_the_store_is_on_another_disk(live: Live, small_disk: Path) -> None:
    store = live.folder / "store.db"
    tracking = ("tracking=sqlite", f"tracking.store=sqlite:///{store}")
    launcher = live.start(
        "run", *(override for override in TINY if override != "tracking=off"), *tracking, "max_steps=100000"
    )
    live.until(lambda: True if list(run_folder(live).glob("attempts/1/sync.log")) else None)
    fill(small_disk)
    assert launcher.wait(PATIENCE_S) == 1
    assert "Traceback" not in live.printed()
    assert "failed: " in live.printed()
    live.until_nothing_runs()
