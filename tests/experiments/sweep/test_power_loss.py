"""Power losses: a sweep goes on from copies of its disk, which were made at random moments."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from experiments.run import journal
from experiments.sweep.sweep import Sweep
from tests.support.variants import only_long
from tests.support.waiting import PATIENCE_S, wait_until
from tests.support.workers import age_heartbeats, kill_worker, make_sweep, read_entries, start_worker

NUM_LOSSES, DISK_MB = 20, 32
LONG = ("max_steps=2000", "eval_every_steps=200", "checkpoint.every_steps=20", "log_every_steps=20")


@contextmanager
def mounted(disk: Path, folder: Path) -> Iterator[Path]:
    """Mount a file that is the image of a disk; skip the test where that is not allowed."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-o", "loop", disk, folder], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs the right to mount: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        wait_until(
            lambda: subprocess.run(["umount", folder], capture_output=True, check=False).returncode == 0,
            "the end of the processes that work on the disk",
        )


def read_curve(sweep: Sweep) -> list[tuple[int, str, float]]:
    """The points of the sweep's only trial that do not depend on time."""
    (entry,) = read_entries(sweep)
    events = [event for event in journal.replay(sweep.folder / entry.id) if event["event"] == "metrics"]
    points = [(event["step"], key, value) for event in events for key, value in event["metrics"].items()]
    return sorted(point for point in points if point[1].startswith(("train/", "val/", "test/")))


@pytest.mark.slow
@only_long
@pytest.mark.timeout(1200)
def test_a_sweep_continues_after_power_losses(tmp_path: Path) -> None:
    generator, disk, folder = random.Random(7), tmp_path / "disk", tmp_path / "mounted"
    with disk.open("wb") as file:
        file.truncate(DISK_MB << 20)
    subprocess.run(["mkfs.ext4", "-q", disk], check=True)
    twin = make_sweep(tmp_path / "twin", [{}], *LONG)
    assert start_worker(twin).wait(timeout=PATIENCE_S) == 0
    with mounted(disk, folder):
        make_sweep(folder, [{}], *LONG, max_attempts=1000)
    for number in range(NUM_LOSSES):
        with mounted(disk, folder):
            sweep = Sweep(folder / "probe")
            age_heartbeats(sweep)
            worker = start_worker(sweep, f"w{number}")
            time.sleep(generator.uniform(0.5, 4.0))
            shutil.copyfile(disk, tmp_path / "copy")  # what is on the disk now, without what only the memory has
            kill_worker(worker)
        (tmp_path / "copy").replace(disk)
    with mounted(disk, folder):
        sweep = Sweep(folder / "probe")
        age_heartbeats(sweep)
        assert start_worker(sweep, "last").wait(timeout=PATIENCE_S) == 0
        assert [entry.state for entry in read_entries(sweep)] == ["finished"]
        assert read_curve(sweep) == read_curve(twin)
