"""What the ranks of a training print, and what they said last where it failed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from experiments.core.atomic import write_text

SECONDARY = "this rank ends, as another has gone"


@dataclass(frozen=True)
class RankError:
    """Why one rank ended."""

    rank: int
    time: float
    reason: str
    follows: bool
    """Whether it only noticed that another rank had gone."""
    failure: str | None = None
    """Class of the fault, of `experiments.run.failure`."""


def log_name(rank: int) -> str:
    """File in an attempt's folder that holds what a rank prints."""
    return "log.txt" if rank == 0 else f"log_rank_{rank}.txt"


def write_error(folder: Path, rank: int, reason: str, *, follows: bool, failure: str | None = None) -> None:
    """Leave a last word in an attempt's folder.

    Raises:
        OSError: the disk is full.
    """
    word = RankError(rank, time.time(), reason, follows, failure)
    write_text(folder / f"last_word_rank_{rank}.json", json.dumps(asdict(word)) + "\n")


def root_cause(folder: Path, *, follows: bool = False) -> RankError | None:
    """The word of the rank that failed of itself before all others, or that first noticed others to be gone."""
    words = [RankError(**json.loads(path.read_text())) for path in folder.glob("last_word_rank_*.json")]
    return min((word for word in words if word.follows == follows), key=lambda word: word.time, default=None)


class RankLogs:
    """Follows what the ranks of an attempt print."""

    def __init__(self, folder: Path, num_ranks: int) -> None:
        self._paths = [folder / log_name(rank) for rank in range(num_ranks)]
        self._read = [0] * num_ranks

    def new_lines(self) -> Iterator[str]:
        """Whole lines since the last call, each with its rank: ``[rank 1] ...``; of ranks that only follow another last."""
        found = {rank: self._lines_of(rank) for rank in range(len(self._paths))}
        for rank in sorted(found, key=lambda rank: any(SECONDARY in line for line in found[rank])):
            yield from (f"[rank {rank}] {line}" for line in found[rank])

    def _lines_of(self, rank: int) -> list[str]:
        try:
            with self._paths[rank].open("rb") as file:
                file.seek(self._read[rank])
                told, _, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._read[rank] += len(told) + 1 if told else 0
        return told.decode(errors="replace").split("\n") if told else []
