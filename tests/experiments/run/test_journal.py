from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.run.checkpoint import Checkpoints
from experiments.run.journal import (
    Event,
    Journal,
    JournalLostError,
    find_loss,
    first_writes,
    highest_steps,
    journals,
    measure,
    read,
    replay,
    seal,
    set_aside_incomplete,
)

WRITER = """
import sys
from pathlib import Path
from experiments.run.journal import Journal

journal = Journal(Path(sys.argv[1]))
step = 0
while True:
    journal.metrics(step, {"train/loss_nats": step / 3})
    print(step, flush=True)
    step += 1
"""

FULL_DISK = """
import resource, sys
from pathlib import Path
from experiments.run.journal import Journal

journal = Journal(Path(sys.argv[1]))
journal.metrics(1, {"a": 1.0})
resource.setrlimit(resource.RLIMIT_FSIZE, (journal.path.stat().st_size + 10, -1))
try:
    journal.metrics(2, {"a": 2.0})
except OSError as err:
    print(err)
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
journal.metrics(3, {"a": 3.0})
"""


def points(events: list[Event]) -> list[tuple[str, int, float]]:
    return [(k, e["step"], v) for e in events if e["event"] == "metrics" for k, v in e["metrics"].items()]


def attempt(run: Path, number: int, key: str, steps: range, offset: float = 0.0) -> Path:
    path = run / "attempts" / str(number) / "journal.jsonl"
    with Journal(path) as journal:
        for step in steps:
            journal.metrics(step, {key: step + offset})
    return path


def test_every_kind_of_event_is_read_back(tmp_path: Path) -> None:
    with Journal(tmp_path / "new" / "journal.jsonl") as journal:
        journal.state("running", step=0, attempt=2)
        journal.metrics(7, {"train/loss_nats": 0.1})
        journal.params({"model.num_parameters": 1234, "device": "cpu", "scale": None})
        journal.artifact("checkpoints/7")
        journal.data(name="blobs", digest="ab12", num_examples=300, split="train")
        journal.state("failed", step=7, attempt=2, reason="ValueError: ünfit\nline 2")
    events, _ = read(journal.path)
    bare = [{k: v for k, v in event.items() if k not in ("time", "host", "pid")} for event in events]
    assert bare == [
        {"event": "state", "state": "running", "step": 0, "attempt": 2, "reason": None},
        {"event": "metrics", "step": 7, "metrics": {"train/loss_nats": 0.1}},
        {"event": "params", "params": {"model.num_parameters": 1234, "device": "cpu", "scale": None}},
        {"event": "artifact", "path": "checkpoints/7"},
        {"event": "data", "name": "blobs", "digest": "ab12", "num_examples": 300, "split": "train"},
        {"event": "state", "state": "failed", "step": 7, "attempt": 2, "reason": "ValueError: ünfit\nline 2"},
    ]
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)
    assert events[0]["event"] == "state"
    assert events[0]["pid"] == os.getpid()


def test_floats_are_exact_and_nan_and_inf_survive(tmp_path: Path) -> None:
    values = {"a": 0.1 + 0.2, "b": 5e-324, "c": math.inf, "d": -math.inf, "e": math.nan, "f": -0.0, "g": 1e308, "h": 3}
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.metrics(1, values)
    read_values = {key: value for key, _, value in points(read(journal.path)[0])}
    assert {key: math.copysign(1, value) for key, value in read_values.items()} == {
        k: math.copysign(1, values[k]) for k in read_values
    }
    assert math.isnan(read_values.pop("e"))
    assert read_values == {key: value for key, value in values.items() if key != "e"}


@pytest.mark.parametrize("tail", [b'{"event": "metr', b"\0" * 4096, b"x" * 200_000])
def test_a_torn_line_stays_unread_and_the_next_writer_removes_it(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.metrics(1, {"a": 1.0})
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(tail)
    events, offset = read(path)
    assert (points(events), offset) == ([("a", 1, 1.0)], size)
    with Journal(path) as journal:
        assert path.stat().st_size == size
        journal.metrics(2, {"a": 2.0})
    assert points(read(path, offset)[0]) == [("a", 2, 2.0)]


def test_a_file_with_only_a_torn_line_becomes_empty(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"no line at all")
    Journal(path).close()
    assert path.read_bytes() == b""


@pytest.mark.parametrize(
    "line", ["not json", "[1]", '{"event": "metrics"}', '{"event": "from a later version", "time": 1}']
)
def test_damaged_and_unknown_lines_are_skipped(tmp_path: Path, line: str) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(line + "\n")
    with Journal(path) as journal:
        journal.metrics(1, {"a": 1.0})
    events, offset = read(path)
    assert points(events) == [("a", 1, 1.0)]
    assert offset == path.stat().st_size


def test_reading_continues_where_it_ended_and_in_blocks(tmp_path: Path) -> None:
    path = attempt(tmp_path, 1, "a", range(5))
    first, offset = read(path, max_bytes=1)
    assert points(first) == [("a", 0, 0.0)]
    rest, end = read(path, offset)
    assert [step for _, step, _ in points(rest)] == [1, 2, 3, 4]
    assert read(path, end) == ([], end)
    assert read(tmp_path / "missing.jsonl", 0) == ([], 0)


def test_kill_9_of_the_writer_loses_no_written_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    with writer.stdout:
        seen = [int(writer.stdout.readline()) for _ in range(500)]
        writer.send_signal(signal.SIGKILL)
        seen += [int(line) for line in writer.stdout]
    writer.wait()
    steps = [step for _, step, _ in points(read(path)[0])]
    assert steps[: len(seen)] == seen
    assert len(steps) <= len(seen) + 1  # the last one may have been written and not yet said


def test_a_failed_write_leaves_only_complete_lines(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True)
    assert "the journal cannot be written (File too large); free space and resume the run" in done.stdout
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 3]


def test_of_repeated_steps_the_first_value_counts(tmp_path: Path) -> None:
    attempt(tmp_path, 1, "loss", range(10))
    attempt(tmp_path, 2, "loss", range(5, 8), offset=0.25)  # rewound to step 5, killed before it caught up
    attempt(tmp_path, 3, "loss", range(5, 12), offset=0.5)
    attempt(tmp_path, 10, "loss", range(11, 14), offset=0.75)  # sorted by number, not as text
    with Journal(tmp_path / "attempts" / "3" / "journal.jsonl") as journal:
        journal.metrics(4, {"val/accuracy": 0.5, "loss": 9.9})
    assert sorted(points(list(replay(tmp_path)))) == [
        *[("loss", step, float(step)) for step in range(10)],
        ("loss", 10, 10.5),
        ("loss", 11, 11.5),
        ("loss", 12, 12.75),
        ("loss", 13, 13.75),
        ("val/accuracy", 4, 0.5),
    ]
    assert list(replay(tmp_path)) == list(replay(tmp_path))


def test_points_of_one_attempt_are_never_dropped(tmp_path: Path) -> None:
    with Journal(tmp_path / "attempts" / "1" / "journal.jsonl") as journal:
        for value in (1.0, 2.0):
            journal.metrics(3, {"a": value})
    assert points(list(replay(tmp_path))) == [("a", 3, 1.0), ("a", 3, 2.0)]


def test_highest_steps_count_only_earlier_attempts(tmp_path: Path) -> None:
    attempt(tmp_path, 1, "a", range(-3, -1))
    attempt(tmp_path, 2, "a", range(2))
    first, second = journals(tmp_path)
    assert highest_steps([first]) == {"a": -2}
    assert highest_steps([first, second]) == {"a": 1}
    assert points(list(first_writes(read(second)[0], highest_steps([first])))) == [("a", 0, 0.0), ("a", 1, 1.0)]


def remove(path: Path) -> None:
    path.unlink()


def remove_folder(path: Path) -> None:
    shutil.rmtree(path.parents[2])


def remove_attempts(path: Path) -> None:
    shutil.rmtree(path.parents[1])


def replace(path: Path) -> None:
    """As an editor does."""
    path.with_name("new").write_text(path.read_text())
    path.with_name("new").rename(path)


def cut_off(path: Path) -> None:
    os.truncate(path, 10)


@pytest.mark.parametrize("harm", [remove, remove_folder, remove_attempts, replace, cut_off])
def test_a_writer_notices_that_its_journal_is_lost(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    path = tmp_path / "run" / "attempts" / "1" / "journal.jsonl"
    with Journal(path) as journal:
        journal.metrics(1, {"a": 1.0})
        harm(path)
        with pytest.raises(JournalLostError, match=r"was (removed|cut off) while the run was training"):
            journal.metrics(2, {"a": 1.0})
        if harm is cut_off:
            journal.state("failed", step=2, attempt=1)  # the end is still logged
            assert read(path)[0][-1]["event"] == "state"


def test_a_writer_whose_folder_was_renamed_goes_on(tmp_path: Path) -> None:
    with Journal(tmp_path / "run" / "attempts" / "1" / "journal.jsonl") as journal:
        journal.metrics(1, {"a": 1.0})
        (tmp_path / "run").rename(tmp_path / "away")
        journal.metrics(2, {"a": 2.0})
    assert [step for _, step, _ in points(read(journals(tmp_path / "away")[0])[0])] == [1, 2]


def test_an_attempt_that_continues_lost_lines_does_not_count(tmp_path: Path) -> None:
    def write(number: int, steps: range, based_on: dict[str, int]) -> None:
        with Journal(tmp_path / "attempts" / str(number) / "journal.jsonl") as journal:
            journal.state("running", step=steps.start, attempt=number, based_on=based_on)
            for step in steps:
                journal.metrics(step, {"a": float(number)})

    write(1, range(4), {})
    write(2, range(3, 8), measure(tmp_path))
    write(3, range(8, 9), measure(tmp_path))
    assert set_aside_incomplete(tmp_path) == []
    assert find_loss(tmp_path, sizes := measure(tmp_path)) is None
    seal(tmp_path / "attempts" / "3" / "journal.jsonl")
    with (tmp_path / "attempts" / "3" / "journal.jsonl").open("a") as file:  # an orphan, whose checkpoints do not count
        file.write("{}\n")
    assert "attempt 3 has" in str(find_loss(tmp_path, measure(tmp_path)))
    assert find_loss(tmp_path, sizes) is None
    (tmp_path / "attempts" / "2" / "journal.jsonl").unlink()
    assert "attempt 3 does not count" in set_aside_incomplete(tmp_path)[0]
    write(4, range(3, 10), {"1": (tmp_path / "attempts" / "1" / "journal.jsonl").stat().st_size})
    assert [(step, value) for _, step, value in points(list(replay(tmp_path)))] == [
        *[(step, 1.0) for step in range(4)],
        *[(step, 4.0) for step in range(4, 10)],
    ]


@pytest.mark.parametrize("is_noticed", [False, True])
def test_a_journal_that_is_cut_off_while_a_checkpoint_is_written_has_lost_lines(
    tmp_path: Path, is_noticed: bool
) -> None:
    path = tmp_path / "attempts" / "1" / "journal.jsonl"
    with Journal(path) as journal:
        checkpoints = Checkpoints(tmp_path, keep_last=2, attempt=1, writer=journal)
        journal.metrics(1, {"a": 1.0})

        def cut(folder: Path) -> None:
            os.truncate(path, path.stat().st_size // 2)
            if is_noticed:  # by the training, which logs its end
                with pytest.raises(JournalLostError):
                    journal.metrics(2, {"a": 2.0})
                journal.state("failed", step=2, attempt=1)

        with pytest.raises(JournalLostError, match="of attempt 1 was cut off"):
            checkpoints.save(1, cut, {})
    assert checkpoints.latest() is None
