"""Which part of which global batch goes to which replica: the rules of asynchronous training, without its processes."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from modules.parallel.asynchronous.server_shard import Policy


@dataclass(frozen=True)
class Chunk:
    """A pusher's part of one round."""

    number: int
    """Over the whole training: its round and its place in it, as digits to the base of chunks a round."""
    update: int
    """The round to whose update it belongs."""


@dataclass
class WorkQueue:
    """Hands chunks out one by one, so that the share of one that died is taken over by the others of itself."""

    per_round: int
    """Chunks whose gradients make a step."""
    policy: Policy
    max_staleness: int | None
    """Chunks that a pusher may be ahead of the slowest that lives; None: any number."""
    warm_start_steps: int = 0
    """Rounds that the first pusher does alone."""
    first_round: int = 0
    limit: int = 0
    """Rounds that may be begun: until here all are done."""
    done: int = field(init=False)
    """Chunks that were accepted, those of earlier attempts among them."""
    _next: int = field(init=False)
    _returned: list[int] = field(init=False, default_factory=list)
    _out: dict[int, list[int]] = field(init=False, default_factory=dict)
    _clocks: dict[int, int] = field(init=False, default_factory=dict)
    _taken: dict[int, int] = field(init=False, default_factory=dict)
    """The last round that each pusher took a chunk of, where rounds are made together."""

    def __post_init__(self) -> None:
        self.done = self._next = self.first_round * self.per_round
        self.limit = max(self.limit, self.first_round)

    @property
    def living(self) -> list[int]:
        return sorted(self._clocks)

    def stop(self, rounds: int) -> int:
        """Begin no further round, once at least so many are done; the rounds that will be."""
        if self.policy == "each":
            begun = -(-self._next // self.per_round)
        else:
            begun = self.done // self.per_round + any(self._out.values())
        self.limit = min(self.limit, max(begun, rounds))
        return self.limit

    def join(self, pusher: int) -> None:
        """A pusher has come, or come back: it begins beside the slowest."""
        self._clocks[pusher] = min(self._clocks.values(), default=0)
        self._out[pusher] = []

    def leave(self, pusher: int) -> None:
        """A pusher has gone: what it had goes to others."""
        for number in self._out.pop(pusher, []):
            heapq.heappush(self._returned, number)
        self._clocks.pop(pusher, None)
        self._taken.pop(pusher, None)

    def report(self, pusher: int, num_chunks: int, *, accepted: bool) -> list[int]:
        """A pusher has pushed the oldest of its chunks; their numbers."""
        finished, self._out[pusher] = self._out[pusher][:num_chunks], self._out[pusher][num_chunks:]
        if self.done >= self.warm_start_steps * self.per_round:  # before, the others could not follow
            self._clocks[pusher] += num_chunks
        if accepted:
            self.done += num_chunks
        else:
            for number in finished:
                heapq.heappush(self._returned, number)
        return finished

    def next(self, pusher: int) -> Chunk | None:
        """What a pusher does next; None: it waits."""
        together = self.policy != "each"
        number = self._returned[0] if self._returned else self._next
        update = self.done // self.per_round if together else number // self.per_round
        if update >= self.limit or (self.policy == "round" and number // self.per_round > update):
            return None
        if update < self.warm_start_steps and pusher != self.living[0]:
            return None
        if not self._may(pusher, update):
            return None
        if self._returned:
            heapq.heappop(self._returned)
        else:
            self._next += 1
        self._out[pusher].append(number)
        self._taken[pusher] = update
        return Chunk(number, update)

    def holds(self, pusher: int) -> bool:
        """Whether it has chunks that it has not pushed."""
        return bool(self._out[pusher])

    def _may(self, pusher: int, update: int) -> bool:
        if self.policy != "each":
            # One chunk of a round each, and a second where all that live have one: so nobody takes the slower one's.
            others = [self._taken.get(one, -1) for one in self._clocks if one != pusher]
            is_alone = update < self.warm_start_steps
            return self._taken.get(pusher, -1) < update or is_alone or all(taken >= update for taken in others)
        if self.max_staleness is None:
            return True
        return self._clocks[pusher] - min(self._clocks.values()) < self.max_staleness
