"""The logs of the ranks of an attempt, and the errors that they report."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from experiments.core.atomic import write_text
from experiments.core.files.field_types import Check, is_bool, is_count, is_text, is_time, matches, optional
from experiments.core.files.read_file import DamagedFileError, read_json_map

SECONDARY = "this rank ends, because another rank has ended"
HAS_TRACEBACK = "; the traceback is in "
"""In a reason, followed by the path of the log."""
BACKGROUND_LOG = "background.txt"
"""In the folder of an attempt that `--detach` started: the progress and what the training printed."""
ERROR_FOLLOWS = "-- the error that ended this process --"
"""A line of a log. Above it is what the user's code printed, below it the whole traceback and the reason."""


@dataclass(frozen=True)
class RankError:
    """The error that ended one rank."""

    rank: int
    time: float
    reason: str
    follows: bool
    """Whether the error only follows from the loss of another rank."""
    failure: str | None = None
    """Failure class, of `experiments.run.failure`."""


_FIELDS: Mapping[str, Check] = {
    "rank": is_count, "time": is_time, "reason": is_text, "follows": is_bool, "failure": optional(is_text),
}  # fmt: skip


def log_name(rank: int) -> str:
    """Name of a rank's log in the folder of an attempt."""
    return "log.txt" if rank == 0 else f"log_rank_{rank}.txt"


def write_error(folder: Path, rank: int, reason: str, *, follows: bool, failure: str | None = None) -> None:
    """Write the error of a rank to the folder of an attempt.

    Raises:
        OSError: the disk is full.
    """
    error = RankError(rank, time.time(), reason, follows, failure)
    write_text(folder / f"error_rank_{rank}.json", json.dumps(asdict(error)) + "\n")


def root_cause(folder: Path, *, follows: bool = False) -> RankError | None:
    """The first error; with ``follows`` the first one that only follows from the loss of another rank."""
    paths = [
        *folder.glob("error_rank_*.json"),
        *folder.glob("last_word_rank_*.json"),
    ]  # the second: of earlier versions
    errors = [error for path in paths if (error := _read_error(path)) is not None]
    return min((error for error in errors if error.follows == follows), key=lambda error: error.time, default=None)


def _read_error(path: Path) -> RankError | None:
    """None if a crash damaged the file; the log of the rank holds the error too."""
    try:
        fields = read_json_map(path)
        return RankError(**fields) if matches(fields, _FIELDS) else None
    except (DamagedFileError, TypeError):  # TypeError: a field of a later version
        return None


class RankLogs:
    """Follows the logs of the ranks of an attempt, up to the error that ends a rank, which the attempt reports itself."""

    def __init__(self, folder: Path, num_ranks: int) -> None:
        self._paths = [folder / log_name(rank) for rank in range(num_ranks)]
        self._offsets = [0] * num_ranks
        self._has_error = [False] * num_ranks

    def new_lines(self, *, has_ended: bool = False) -> Iterator[str]:
        """Lines since the last call; secondary errors come last. With several ranks a line begins with ``[rank 1]``.

        Args:
            has_ended: whether the ranks have ended, so that an incomplete last line is complete.
        """
        lines = {rank: self._read_lines(rank, has_ended) for rank in range(len(self._paths))}
        for rank in sorted(lines, key=lambda rank: any(SECONDARY in line for line in lines[rank])):
            prefix = f"[rank {rank}] " if len(lines) > 1 else ""
            yield from (f"{prefix}{line}" for line in lines[rank])

    def _read_lines(self, rank: int, has_ended: bool) -> list[str]:
        try:
            with self._paths[rank].open("rb") as file:
                file.seek(self._offsets[rank])
                text = file.read()
        except FileNotFoundError:
            return []
        text = text if has_ended else text[: text.rfind(b"\n") + 1]
        self._offsets[rank] += len(text)
        lines = [] if self._has_error[rank] else text.decode(errors="replace").removesuffix("\n").split("\n")
        if ERROR_FOLLOWS in lines:
            self._has_error[rank] = True
            lines = lines[: lines.index(ERROR_FOLLOWS)]
        return lines if text else []
