"""The append-only event file of one attempt, and the replay of all attempts of a run."""

from __future__ import annotations

import json
import os
import socket
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Literal, TypedDict

from experiments.core import atomic, renamed
from experiments.core.files.read_file import MissingFileError, open_regular, parse_json, read_text
from experiments.run.event_fields import JOURNAL, is_valid

State = Literal["running", "finished", "failed", "interrupted"]
FINAL_STATES = frozenset({"finished", "failed", "interrupted"})
Scalar = str | int | float | bool | None
SEALED = "sealed"
"""File beside a journal; it holds the size at which the journal was sealed."""

INCOMPLETE = "journal.incomplete.jsonl"
"""New name of a journal that continues one of which lines are lost."""

_BLOCK_BYTES = 1 << 20  # memory of a replay, for runs of any length


class StateEvent(TypedDict):
    event: Literal["state"]
    time: float
    state: State
    step: int
    attempt: int
    host: str
    pid: int
    reason: str | None


class MetricsEvent(TypedDict):
    event: Literal["metrics"]
    time: float
    step: int
    metrics: dict[str, float]


class ParamsEvent(TypedDict):
    event: Literal["params"]
    time: float
    params: dict[str, Scalar]


class ArtifactEvent(TypedDict):
    event: Literal["artifact"]
    time: float
    path: str


class DataEvent(TypedDict):
    event: Literal["data"]
    time: float
    name: str
    digest: str
    num_examples: int
    split: str


Event = StateEvent | MetricsEvent | ParamsEvent | ArtifactEvent | DataEvent
_encode = json.JSONEncoder(separators=(",", ":")).encode  # floats by repr, so that reading gives back the same value


class JournalLostError(Exception):
    """The journal was removed or cut off while its attempt was training, so the curve of the run has lost points."""


class Journal:
    """Writes the events of one attempt. When a call returns, its event is in the file, also after kill -9.

    One process writes a journal. If a killed writer left a torn last line, the next writer removes it.

    Attributes:
        written: size of all lines so far in bytes, also of those that were lost.

    Raises:
        OSError: a line cannot be written, for example because the disk is full; the file ends with the line before it.
        JournalLostError: the file was removed or cut off.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self._host, self._pid = socket.gethostname(), os.getpid()
        cut_torn_tail(self._fd)
        self._size = self.written = os.fstat(self._fd).st_size

    def state(
        self, state: State, *, step: int, attempt: int, reason: str | None = None, failure: str | None = None,
        based_on: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        """Log the state of the attempt, with the process and host that run it.

        Args:
            failure: class of what went wrong, of `experiments.run.failure`.
            based_on: the journals that the restored checkpoint continues, as `measure` found them.
        """
        event = {"event": "state", "time": time.time(), "state": state, "step": step, "attempt": attempt}
        source = {"host": self._host, "pid": self._pid, "reason": reason}
        extra = {"failure": failure} if failure else {}
        self._append(event | source | extra | ({"based_on": dict(based_on)} if based_on else {}))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log the metrics of one step. A value is anything that `float` accepts, for example a tensor with one element."""
        metrics = {name: float(value) for name, value in values.items()}
        self._append({"event": "metrics", "time": time.time(), "step": int(step), "metrics": metrics})

    def params(self, params: Mapping[str, Scalar]) -> None:
        """Log derived values, such as the number of parameters of the model."""
        self._append({"event": "params", "time": time.time(), "params": dict(params)})

    def artifact(self, path: str) -> None:
        """Log a file or folder of the run, by its path relative to the run folder."""
        self._append({"event": "artifact", "time": time.time(), "path": path})

    def notification(self, on: str, channel: str, error: str | None) -> None:
        """Log that a message was sent by a channel, or why it was not."""
        self._append({"event": "notification", "time": time.time(), "on": on, "channel": channel, "error": error})

    def data(self, *, name: str, digest: str, num_examples: int, split: str) -> None:
        """Log the data that the attempt reads."""
        event = {"event": "data", "time": time.time(), "name": name, "digest": digest}
        self._append(event | {"num_examples": num_examples, "split": split})

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, event: Mapping[str, object]) -> None:
        line = (_encode(event) + "\n").encode("ascii")
        self._check_file()
        written = 0
        try:
            # On a full disk the first write is short, and the second one raises the error.
            while written < len(line):
                written += os.write(self._fd, line[written:])
        except OSError as err:
            if written:
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
            message = f"the journal cannot be written ({err.strerror}); free space and resume the run"
            raise OSError(err.errno, message, str(self.path)) from err
        self._size += written
        self.written += written

    def _check_file(self) -> None:
        """Raise an error if an earlier line is lost. This takes less than 1 us."""
        status = os.fstat(self._fd)
        if status.st_nlink == 0:
            raise JournalLostError(
                f"{self.path} was removed while the run was training; `lathe resume` starts it again"
            )
        if status.st_size < self._size and stat.S_ISREG(status.st_mode):
            cut_torn_tail(self._fd)  # so that the end of the attempt can be logged
            self._size = os.fstat(self._fd).st_size
            raise JournalLostError(
                f"{self.path} was cut off while the run was training; `lathe resume` starts it again"
            )


def cut_torn_tail(fd: int) -> None:
    """Shorten the file to its last complete line."""
    end = size = os.fstat(fd).st_size
    while end:
        start = max(0, end - 65536)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(fd, end)


def read(path: Path, offset: int = 0, max_bytes: int | None = None) -> tuple[list[Event], int]:
    """Read the complete, valid lines after an offset.

    A torn last line stays unread, and so does everything that was written after `seal`. A missing file has no lines.

    Args:
        path: the journal; another process may be writing it.
        offset: where the last read ended.
        max_bytes: stop after the line that passes this many bytes.

    Returns:
        The events, and the offset for the next read.

    Raises:
        DamagedFileError: the journal cannot be read.
    """
    lines, end = read_lines(path, offset, max_bytes)
    return [event for line in lines if (event := decode(line)) is not None], end


def read_lines(path: Path, offset: int = 0, max_bytes: int | None = None) -> tuple[list[bytes], int]:
    """Read lines as `read` does, but do not decode them.

    Raises:
        DamagedFileError: the journal cannot be read.
    """
    try:
        with open_regular(path) as file:
            file.seek(offset)
            lines = file.readlines(-1 if max_bytes is None else max_bytes)
    except MissingFileError:
        return [], offset
    if lines and (end := _sealed_at(path)) is not None:
        ends = accumulate(map(len, lines), initial=offset)
        lines = [line for line, start in zip(lines, ends, strict=False) if start + len(line) <= end]
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    return lines, offset + sum(map(len, lines))


def read_blocks(path: Path, offset: int = 0) -> Iterator[tuple[list[Event], int]]:
    """Read all events after an offset, about 1 MB at a time; each block comes with the offset behind it."""
    while True:
        events, end = read(path, offset, _BLOCK_BYTES)
        if end == offset:
            return
        yield events, end
        offset = end


def seal(path: Path) -> None:
    """End a journal at its current size, because its writer is considered dead. An orphan may still write to it.

    Raises:
        OSError: the disk is full.
    """
    if path.exists() and _sealed_at(path) is None:
        atomic.write_text(path.with_name(SEALED), f"{path.stat().st_size}\n")


def _sealed_at(path: Path) -> int | None:
    """Size at which a journal was sealed; None if it was not, or if a crash damaged the file that says so.

    Raises:
        DamagedFileError: the file cannot be read.
    """
    try:
        return int(read_text(path.with_name(SEALED)))
    except (MissingFileError, ValueError):
        return None


def decode(line: bytes) -> Event | None:
    """Decode one line, with current names; None if it is damaged or of a kind that only a later version knows."""
    try:
        event = parse_json(line)
    except ValueError:
        return None
    if isinstance(event, dict) and isinstance(event.get("state"), str):
        event["state"] = renamed.state(event["state"])
    if not is_valid(event, JOURNAL):
        return None
    if event["event"] == "state" and not isinstance(event.get("failure"), str | None):
        del event["failure"]
    elif event["event"] == "metrics" and b"_share" in line:
        event["metrics"] = {renamed.metric(name): value for name, value in event["metrics"].items()}
    return event  # type: ignore[no-any-return]


def attempt_folders(run_folder: Path) -> list[Path]:
    """The folders of a run's attempts, first to last. Other files there, such as `1.old`, are not attempts."""
    folders = [path for path in (run_folder / "attempts").glob("[0-9]*") if path.name.isdecimal()]
    return sorted(folders, key=lambda path: int(path.name))


def journals(run_folder: Path, before: int | None = None) -> list[Path]:
    """The journals of a run's attempts, first to last; with ``before`` only of the attempts before that one."""
    folders = attempt_folders(run_folder)
    paths = (folder / "journal.jsonl" for folder in folders if before is None or int(folder.name) < before)
    return [path for path in paths if path.exists()]


def measure(run_folder: Path) -> dict[str, int]:
    """Put the journals of a run on the disk; return their sizes in bytes, by attempt.

    What was written to an earlier journal after `seal` does not count. The newest one is that of the caller: if it has been
    sealed, `find_loss` finds that a part of it does not count.
    """
    sizes: dict[str, int] = {}
    paths = journals(run_folder)
    for path in paths:
        sizes[path.parent.name] = path.stat().st_size if path == paths[-1] else _count_bytes(path)
        for each in (path, path.parent, path.parent.parent):
            atomic.fsync(each)
    return sizes


def find_loss(run_folder: Path, sizes: Mapping[str, int]) -> str | None:
    """Find a journal that is missing or shorter than `measure` found it.

    Returns:
        A description; None if no line is lost.
    """
    for attempt, size in sizes.items():
        try:
            actual = _count_bytes(run_folder / "attempts" / attempt / "journal.jsonl")
        except FileNotFoundError:
            return f"the journal of attempt {attempt} is gone"
        if actual < size:
            return f"the journal of attempt {attempt} has {actual} bytes of {size}"
    return None


def _count_bytes(path: Path) -> int:
    with path.open("rb") as file:  # opening it asks the file server; stat alone may use a cache
        size = os.fstat(file.fileno()).st_size
    end = _sealed_at(path)
    return size if end is None else min(size, end)


def set_aside_incomplete(run_folder: Path) -> list[str]:
    """Rename the journals that continue one of which lines are lost. A replay would show only parts of their curves.

    Call it before a new attempt begins, which repeats their steps.

    Returns:
        One line for each of them.
    """
    lines: list[str] = []
    for path in journals(run_folder):
        events, _ = read(path, max_bytes=_BLOCK_BYTES)
        recorded: list[dict[str, int]] = [event["based_on"] for event in events if "based_on" in event]  # type: ignore[typeddict-item]
        based_on = recorded[0] if recorded else {}
        if loss := find_loss(run_folder, based_on):
            path.rename(path.with_name(INCOMPLETE))
            lines.append(
                f"{loss}, so attempt {path.parent.name} does not count: it is kept as {path.with_name(INCOMPLETE)}"
            )
    return lines


def replay(run_folder: Path, before: int | None = None) -> Iterator[Event]:
    """All events of a run in the order of its attempts, each point once: a pure function of the journals.

    A resumed attempt repeats the steps after its checkpoint. The value that was logged first counts: a point at or
    below the highest step that earlier attempts logged for its metric is left out.
    ``before`` as for `journals`.
    """
    paths = journals(run_folder, before)
    for number, path in enumerate(paths):
        highest = highest_steps(paths[:number])
        for events, _ in read_blocks(path):
            yield from first_writes(events, highest)


def highest_steps(paths: Iterable[Path]) -> dict[str, int]:
    """The highest step that these journals hold of each metric."""
    highest: dict[str, int] = {}
    for path in paths:
        for key, step in _highest_steps(path, path.stat().st_size).items():
            highest[key] = max(step, highest.get(key, step))
    return highest


@lru_cache(maxsize=64)  # a live sync calls it once a second, and the files only grow
def _highest_steps(path: Path, size: int) -> dict[str, int]:
    highest: dict[str, int] = {}
    for events, end in read_blocks(path):
        for event in events:
            if event["event"] == "metrics":
                step = event["step"]
                highest.update({key: step for key in event["metrics"] if step > highest.get(key, step - 1)})
        if end >= size:
            break
    return highest


def first_writes(events: Iterable[Event], highest: Mapping[str, int]) -> Iterator[Event]:
    """Leave out the points that earlier attempts logged already."""
    for event in events:
        if event["event"] != "metrics" or not highest:
            yield event
            continue
        step = event["step"]
        metrics = {key: value for key, value in event["metrics"].items() if step > highest.get(key, step - 1)}
        if metrics:
            yield {"event": "metrics", "time": event["time"], "step": step, "metrics": metrics}
