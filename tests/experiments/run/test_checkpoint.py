"""Checkpoints are atomic, pruned, checked before use, and intact when the disk is full."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from experiments.core.errors import InputError
from experiments.run import folder_watch
from experiments.run.checkpoint import Checkpoint, CheckpointError, Checkpoints
from experiments.run.journal import Journal, JournalLostError
from modules.parallel import checkpoint_format as state


def write(num_bytes: int = 7) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"m" * num_bytes)
        (folder / "shards").mkdir()
        (folder / "shards" / "0.safetensors").write_bytes(b"s" * 3)

    return fill


def refuse(number: int) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(number, os.strerror(number))

    return fill


def _make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def step_of(checkpoint: Checkpoint | None) -> int | None:
    return checkpoint.step if checkpoint else None


def test_a_checkpoint_comes_back_with_the_state_of_the_run(tmp_path: Path) -> None:
    saved = Checkpoints(tmp_path, keep_last=1).save(123, write(), {"epoch": 4, "nested": {"a": [1, 2.5, None]}})
    latest = Checkpoints(tmp_path, keep_last=1).latest()
    assert latest == saved
    assert latest == Checkpoint(
        123, tmp_path / "checkpoints" / "step_00000123", {"epoch": 4, "nested": {"a": [1, 2.5, None]}}
    )
    assert (latest.folder / "model.safetensors").read_bytes() == b"mmmmmmm"
    sealed = json.loads((latest.folder / "state.json").read_text())
    assert {name: size for name, (size, _) in sealed["files"].items()} == {
        "model.safetensors": 7,
        "shards/0.safetensors": 3,
    }


def test_changed_bytes_of_the_same_size_are_damage(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=2)
    checkpoints.save(5, write(), {})
    damaged = checkpoints.save(9, write(), {})
    (damaged.folder / "model.safetensors").write_bytes(b"mmmXmmm")
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.step == 5
    assert "model.safetensors has the wrong checksum" in checkpoints.warnings[0]


def test_a_changed_bit_of_the_state_is_damage(tmp_path: Path) -> None:
    state = {"epoch": 4, "weights": {2: 0.5, 10: float("nan")}, "name": "ä"}
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    path = checkpoints.save(1, write(), state).folder / "state.json"
    content = path.read_bytes()
    assert step_of(checkpoints.latest()) == 1
    unseen = []
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 7
        path.write_bytes(changed)
        latest = checkpoints.latest()
        if latest is not None and repr(latest.state) != repr(json.loads(json.dumps(state))):
            unseen.append(position)
    assert unseen == []


def test_a_run_without_checkpoints_has_no_latest_and_no_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=2)
    assert checkpoints.latest() is None
    assert checkpoints.best() is None
    assert not checkpoints.warnings


def test_keep_last_of_zero_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep_last of at least 1, but got 0"):
        Checkpoints(tmp_path, keep_last=0)


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=2)
    for step, value in [(5, 0.3), (10, 0.9), (15, 0.4), (20, 0.5), (25, float("nan"))]:
        checkpoints.save(step, write(), {})
        assert checkpoints.mark_best(step, "val/accuracy_top1", value, "max") == (step <= 10)
    assert names(tmp_path) == ["best.json", "step_00000010", "step_00000020", "step_00000025"]
    assert step_of(checkpoints.best()) == 10
    assert step_of(checkpoints.latest()) == 25
    best = json.loads((tmp_path / "checkpoints" / "best.json").read_text())
    assert best == {"step": 10, "metric": "val/accuracy_top1", "value": 0.9}


def test_the_best_may_be_the_lowest_and_of_another_metric(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=3)
    for step in (1, 2, 3):
        checkpoints.save(step, write(), {})
    assert checkpoints.mark_best(1, "val/loss_nats", 2.0, "min")
    assert not checkpoints.mark_best(2, "val/loss_nats", 2.0, "min")
    assert checkpoints.mark_best(2, "val/loss_nats", 1.5, "min")
    assert checkpoints.mark_best(3, "val/accuracy_top1", 0.1, "max")


def test_nan_is_never_better(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    assert not checkpoints.is_better("val/loss_nats", float("nan"), "min")
    assert checkpoints.is_better("val/loss_nats", 3.0, "min")
    checkpoints.save(1, write(), {})
    checkpoints.mark_best(1, "val/loss_nats", 3.0, "min")
    assert not checkpoints.is_better("val/loss_nats", 3.0, "min")
    assert checkpoints.is_better("val/loss_nats", 2.9, "min")


def test_only_complete_checkpoints_count(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    assert not checkpoints.has(5)
    checkpoints.save(5, write(), {})
    assert checkpoints.has(5)
    (tmp_path / "checkpoints" / "step_00000005" / "model.safetensors").unlink()
    assert not checkpoints.has(5)


def test_only_a_saved_checkpoint_can_be_the_best(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no checkpoint of step 5; save it first"):
        Checkpoints(tmp_path, keep_last=1).mark_best(5, "val/loss_nats", 1.0, "min")


def test_saving_a_step_again_replaces_its_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    checkpoints.save(5, write(7), {"attempt": 1})
    checkpoints.save(5, write(8), {"attempt": 2})
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.state == {"attempt": 2}
    assert names(tmp_path) == ["step_00000005"]


def test_leftovers_of_a_crash_are_removed_at_the_next_save(tmp_path: Path) -> None:
    leftover = tmp_path / "checkpoints" / ".partial-7"
    leftover.mkdir(parents=True)
    (leftover / "model.safetensors").write_bytes(b"half")
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    assert checkpoints.latest() is None
    checkpoints.save(7, write(), {})
    assert names(tmp_path) == ["step_00000007"]


def test_a_process_killed_while_writing_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    script = f"""
import os, pathlib, signal
from experiments.run.checkpoint import Checkpoints
checkpoints = Checkpoints(pathlib.Path({str(tmp_path)!r}), keep_last=1)
checkpoints.save(4, lambda folder: (folder / "a").write_text("whole") and None, {{}})
def die(folder):
    (folder / "a").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
checkpoints.save(8, die, {{}})
"""
    assert subprocess.run([sys.executable, "-P", "-c", script], check=False).returncode == -9
    assert names(tmp_path) == [".partial-8", "step_00000004"]
    assert step_of(Checkpoints(tmp_path, keep_last=1).latest()) == 4


@pytest.mark.parametrize(
    ("damage", "warning_text"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: os.truncate(folder / "model.safetensors", 5), "model.safetensors has 5 bytes of 7"),
        (lambda folder: shutil.rmtree(folder / "shards"), "0.safetensors is missing"),
        (lambda folder: (folder / "state.json").unlink(), "state.json is missing"),
        (lambda folder: os.truncate(folder / "state.json", 9), "state.json is not readable"),
        (lambda folder: (folder / "state.json").write_text("[]"), "state.json is not readable"),
        (lambda folder: _make_fifo(folder / "model.safetensors"), "model.safetensors is not a file"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_with_a_warning(
    tmp_path: Path, damage: Callable[[Path], object], warning_text: str
) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=3)
    for step in (5, 10, 15):
        checkpoints.save(step, write(), {})
    damage(tmp_path / "checkpoints" / "step_00000015")
    assert step_of(checkpoints.latest()) == 10
    (warning,) = checkpoints.warnings
    assert "the checkpoint of step 15 in" in warning
    assert warning_text in warning
    assert not Checkpoints(tmp_path, keep_last=3).warnings


def test_a_damaged_checkpoint_does_not_count_towards_keep_last(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=2)
    for step in (5, 10):
        checkpoints.save(step, write(), {})
    (tmp_path / "checkpoints" / "step_00000010" / "model.safetensors").unlink()
    checkpoints.save(7, write(), {})  # the run went on from 5
    assert names(tmp_path) == ["step_00000005", "step_00000007"]


def test_a_damaged_best_checkpoint_gives_none_and_a_warning(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    checkpoints.save(5, write(), {})
    checkpoints.mark_best(5, "val/loss_nats", 1.0, "min")
    (tmp_path / "checkpoints" / "step_00000005" / "model.safetensors").unlink()
    assert checkpoints.best() is None
    assert "step 5" in checkpoints.warnings[0]


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "free space, then `lathe resume"),
        (errno.EDQUOT, "free space in your quota, then `lathe resume"),
        (errno.EACCES, "writable, then `lathe resume"),
    ],
)
def test_a_failed_write_names_the_intact_checkpoint(tmp_path: Path, number: int, hint: str) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    checkpoints.save(100, write(), {})
    with pytest.raises(CheckpointError) as caught:
        checkpoints.save(120, refuse(number), {})
    message = str(caught.value)
    folder = tmp_path / "checkpoints" / "step_00000120"
    assert message.startswith(f"checkpoint of step 120 in {folder} could not be written: {os.strerror(number)}")
    assert "; step 100 is intact; " in message
    assert message.endswith(f"{hint} {tmp_path.name}`")
    assert caught.value.step == 120
    assert names(tmp_path) == ["step_00000100"]
    assert step_of(checkpoints.latest()) == 100


def test_a_failed_first_write_says_that_there_is_no_earlier_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"\(more than 0.0 MB needed, .* free\); there is no earlier one; free"):
        Checkpoints(tmp_path, keep_last=1).save(120, refuse(errno.ENOSPC), {})


def test_an_error_of_the_writer_is_raised_and_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    checkpoints = Checkpoints(tmp_path, keep_last=1)
    checkpoints.save(4, write(), {})
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(8, fail, {})
    assert names(tmp_path) == ["step_00000004"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small disk needs root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting a small disk is not allowed here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_costs_only_the_checkpoint_that_did_not_fit(small_disk: Path) -> None:
    checkpoints = Checkpoints(small_disk / "fa1c0", keep_last=1)
    (small_disk / "fa1c0").mkdir()
    checkpoints.save(100, write(1_500_000), {"epoch": 1})
    with pytest.raises(CheckpointError) as caught:
        checkpoints.save(120, write(1_500_000), {"epoch": 2})
    assert "No space left on device (1.5 MB needed, 0.6 MB free); step 100 is intact" in str(caught.value)
    assert str(caught.value).endswith("free space, then `lathe resume fa1c0`")
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.state == {"epoch": 1}
    assert (latest.folder / "model.safetensors").stat().st_size == 1_500_000
    assert names(small_disk / "fa1c0") == ["step_00000100"]
    checkpoints.save(140, write(400_000), {})
    assert step_of(checkpoints.latest()) == 140


def test_a_full_disk_in_the_engine_is_reported_alike(small_disk: Path) -> None:
    model = nn.Linear(1000, 700)
    written = state.TrainingState(state.name_tensors(model), "SGD", {})
    with pytest.raises(CheckpointError, match="No space left on device"):
        Checkpoints(small_disk, keep_last=1).save(3, lambda folder: written.write(folder), {})
    assert names(small_disk) == []


def test_only_needed_files_have_to_be_there(tmp_path: Path) -> None:
    saved = Checkpoints(tmp_path, keep_last=1).save(5, write(), {})
    shutil.rmtree(saved.folder / "shards")
    assert Checkpoints(tmp_path, 1).latest() is None
    assert Checkpoints(tmp_path, 1, needed=("model.safetensors",)).latest() == saved


@pytest.mark.parametrize("name", ["state.json", "best.json", "model.safetensors", "0.safetensors"])
def test_a_file_that_this_user_may_not_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    checkpoints.save(5, write(), {})
    checkpoints.mark_best(5, "loss", 1.0, "min")

    def refusing(open_file: Callable[..., Any]) -> Callable[..., Any]:  # not by chmod: root may read everything
        def refuse_it(path: Path, *args: Any, **options: Any) -> Any:
            if Path(path).name == name:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return open_file(path, *args, **options)

        return refuse_it

    monkeypatch.setattr(os, "open", refusing(os.open))
    monkeypatch.setattr(Path, "open", refusing(Path.open))
    with pytest.raises(InputError, match=rf"{name} cannot be read \(Permission denied\); ask its owner"):
        checkpoints.best()
    assert not checkpoints.warnings


@pytest.mark.parametrize("harm", ["removed", "cut off", "whole folder"])
def test_a_checkpoint_does_not_count_without_the_journal_that_it_continues(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "attempts" / "1" / "journal.jsonl"
    with Journal(path) as journal:
        journal.metrics(1, {"a": 1.0})
        checkpoints = Checkpoints(tmp_path, keep_last=2, attempt=1)
        checkpoints.save(1, write(), {})
        size = path.stat().st_size
        journal.metrics(2, {"a": 2.0})
        checkpoints.save(2, write(), {})
    folder = tmp_path / "checkpoints" / "step_00000002"
    assert checkpoints.latest() == Checkpoint(2, folder, {}, {"1": path.stat().st_size})
    if harm == "cut off":
        os.truncate(path, size)
    else:
        path.unlink() if harm == "removed" else shutil.rmtree(path.parents[1])
        with pytest.raises(JournalLostError, match="of attempt 1 was removed"):
            checkpoints.save(3, write(), {})
    assert step_of(checkpoints.latest()) == (1 if harm == "cut off" else None)
    assert "journal of attempt 1" in checkpoints.warnings[0]
    assert step_of(Checkpoints(tmp_path, 1, needed=("model.safetensors",)).latest()) == 2  # for export and init_from


def test_a_removed_folder_of_checkpoints_is_made_again(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=2)
    checkpoints.save(1, write(), {})

    def remove_once(folder: Path) -> None:
        if not (tmp_path / "removed").exists():
            (tmp_path / "removed").touch()
            shutil.rmtree(tmp_path / "checkpoints")
        write()(folder)

    checkpoints.save(2, remove_once, {})
    assert names(tmp_path) == ["step_00000002"]


def test_a_removed_run_folder_stays_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_watch, "GONE_S", 0.0)
    with pytest.raises(CheckpointError, match="No such file"):
        Checkpoints(tmp_path / "run", keep_last=2).save(1, write(), {})
    assert not (tmp_path / "run").exists()
