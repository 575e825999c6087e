"""Decides which replica computes which part of which global batch: the rules of asynchronous training."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from modules.parallel.asynchronous.server_shard import Policy


@dataclass(frozen=True)
class Chunk:
    """One part of a round's global batch; a pusher (a replica or a group) computes its gradient."""

    number: int
    """Counted over the whole training: ``round * chunks_per_round + index``."""
    update: int
    """The round whose update it belongs to."""


@dataclass
class WorkQueue:
    """Hands out chunks one by one, so that the other pushers take over the work of one that died."""

    per_round: int
    """Chunks per step."""
    policy: Policy
    max_staleness: int | None
    """Chunks by which a pusher may be ahead of the slowest living one; None: no bound."""
    warm_start_steps: int = 0
    """Rounds at the start that the first pusher makes alone."""
    first_round: int = 0
    limit: int = 0
    """No round from this number on may be started."""
    done: int = field(init=False)
    """Accepted chunks, including those of earlier attempts."""
    _next: int = field(init=False)
    _returned: list[int] = field(init=False, default_factory=list)
    _in_progress: dict[int, list[int]] = field(init=False, default_factory=dict)
    _progress: dict[int, int] = field(init=False, default_factory=dict)
    _last_round: dict[int, int] = field(init=False, default_factory=dict)
    """The last round of which each pusher took a chunk, for synchronous policies."""

    def __post_init__(self) -> None:
        self.done = self._next = self.first_round * self.per_round
        self.limit = max(self.limit, self.first_round)

    @property
    def alive(self) -> list[int]:
        return sorted(self._progress)

    def stop(self, rounds: int) -> int:
        """Start no further rounds after ``rounds``; returns the number of rounds that will be completed."""
        if self.policy == "each":
            begun = -(-self._next // self.per_round)
        else:
            begun = self.done // self.per_round + any(self._in_progress.values())
        self.limit = min(self.limit, max(begun, rounds))
        return self.limit

    def join(self, pusher: int) -> None:
        """Add a pusher that starts or comes back; its progress starts at that of the slowest."""
        self._progress[pusher] = min(self._progress.values(), default=0)
        self._in_progress[pusher] = []

    def leave(self, pusher: int) -> None:
        """Remove a pusher that exited; other pushers take over its chunks."""
        for number in self._in_progress.pop(pusher, []):
            heapq.heappush(self._returned, number)
        self._progress.pop(pusher, None)
        self._last_round.pop(pusher, None)

    def report(self, pusher: int, num_chunks: int, *, accepted: bool) -> list[int]:
        """Record that a pusher pushed the oldest of its chunks; returns their numbers."""
        finished, self._in_progress[pusher] = (
            self._in_progress[pusher][:num_chunks],
            self._in_progress[pusher][num_chunks:],
        )
        if self.done >= self.warm_start_steps * self.per_round:  # during the warm start the other pushers wait
            self._progress[pusher] += num_chunks
        if accepted:
            self.done += num_chunks
        else:
            for number in finished:
                heapq.heappush(self._returned, number)
        return finished

    def next(self, pusher: int) -> Chunk | None:
        """The next chunk for a pusher; None: it has to wait."""
        together = self.policy != "each"
        number = self._returned[0] if self._returned else self._next
        update = self.done // self.per_round if together else number // self.per_round
        if update >= self.limit or (self.policy == "round" and number // self.per_round > update):
            return None
        if update < self.warm_start_steps and pusher != self.alive[0]:
            return None
        if not self._may_take(pusher, update):
            return None
        if self._returned:
            heapq.heappop(self._returned)
        else:
            self._next += 1
        self._in_progress[pusher].append(number)
        self._last_round[pusher] = update
        return Chunk(number, update)

    def has_unpushed(self, pusher: int) -> bool:
        """True if a pusher has chunks that it has not pushed yet."""
        return bool(self._in_progress[pusher])

    def _may_take(self, pusher: int, update: int) -> bool:
        if self.policy != "each":
            # One chunk of a round each; a second one only after all living pushers have one, so no slow one loses its.
            others = [self._last_round.get(one, -1) for one in self._progress if one != pusher]
            is_alone = update < self.warm_start_steps
            return self._last_round.get(pusher, -1) < update or is_alone or all(taken >= update for taken in others)
        if self.max_staleness is None:
            return True
        return self._progress[pusher] - min(self._progress.values()) < self.max_staleness
