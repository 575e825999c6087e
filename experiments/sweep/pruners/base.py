"""The contract of a pruner: which trials of a sweep stop early."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.sweep.strategies.base import PointResult


class Pruner:
    """Judges a trial at each evaluation of `sweep.metric`. A point is judged once at a step, by its first seed that gets there.

    A decision is in the ledger: it holds for all seeds of the point and is never asked for again. Each worker has a pruner of its
    own, so a decision should follow from the arguments alone. An exception prunes nothing more and starts no more trials.

    Example: it stops a trial that is worse than all others at the same step.

        class Worst(Pruner):
            def __init__(self, first_step: int) -> None:
                self.first_step = first_step

            def should_prune(self, point, others):
                step, value = max(point.curve.items())
                peers = [one.curve[step] for one in others if step in one.curve]
                is_worst = value < min(peers) if self.mode == "max" else value > max(peers)
                return step >= self.first_step and len(peers) >= 3 and is_worst
    """

    mode: str
    """Set before the first call: ``max`` or ``min``, which values of the metric are better."""

    def should_prune(self, point: PointResult, others: Sequence[PointResult]) -> bool:
        """Decide whether to stop a point now.

        Args:
            point: its curve ends with the value to judge.
            others: all other points of the sweep, whatever their state.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method `should_prune`")
