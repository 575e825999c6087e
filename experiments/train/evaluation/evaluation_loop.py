"""Evaluates the weights of a training on its splits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from experiments.components.assemble import Components
from experiments.core.errors import InputError
from experiments.train.callbacks.run_callbacks import RunCallbacks
from experiments.train.data_loading import DataShard, EvaluationLoader
from experiments.train.evaluation.evaluator_check import as_numbers
from modules.data.base import Split, Tree

Batches = Iterable[tuple[Tree, bool]]
"""Batches of an evaluation, and whether each counts."""


class EvaluationLoop:
    """Evaluates the weights that a run delivers. All ranks call each method, in the same order."""

    def __init__(
        self, components: Components, config: Mapping[str, Any], callbacks: RunCallbacks, shard: DataShard,
        sets: Mapping[str, Mapping[str, Split]], watch: Callable[[Batches], Batches] = lambda batches: batches,
    ) -> None:  # fmt: skip
        """
        Args:
            components: whose engine has the weights.
            config: of the trial.
            callbacks: of the run; they may deliver other weights than the trained ones.
            shard: the examples of this replica.
            sets: splits of further data by the split that they are evaluated with, then by name.
            watch: passes the batches on, and may raise an error to stop.
        """
        self.components, self.config, self.callbacks = components, config, callbacks
        self.shard, self.sets, self.watch = shard, sets, watch
        self._loaders: dict[str, EvaluationLoader] = {}

    def measure(self, name: str, split: Split) -> dict[str, float]:
        """Evaluate a split, and those of the further data.

        Returns:
            The metrics, such as ``val/loss_nats`` and ``val/NAME/loss_nats``.

        Args:
            name: of the split; its data workers live until `close`.
            split: the examples.

        Raises:
            InputError: the evaluator computes something else than numbers.
        """
        metrics = self._measure(name, split)
        for key, each in self.sets.get(name, {}).items():
            metrics |= self._measure(f"{name}/{key}", each)
        return metrics

    def _measure(self, name: str, split: Split) -> dict[str, float]:
        config, evaluator = self.config, self.components.evaluator
        if name not in self._loaders:
            self._loaders[name] = EvaluationLoader(
                split, config["batch_size_eval"], config["num_data_workers"], self.shard
            )
        with self.callbacks.delivered_weights():
            values = self.components.engine.evaluate(self.watch(self._loaders[name]), evaluator)
        try:
            return {f"{name}/{metric}": value for metric, value in as_numbers(evaluator, values).items()}
        except ValueError as err:
            raise InputError([str(err)], f"the plan for '{config['name']}'") from err

    def close(self) -> None:
        """End the data workers."""
        for loader in self._loaders.values():
            loader.close()
