"""Layers on different ranks, with micro-batches flowing through them, under DeepSpeed's pipeline engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final, Literal

import torch
from torch import Tensor

from modules.data.base import Batch, Tensors
from modules.evaluator.base import AnyEvaluator
from modules.parallel import checkpoint_format as state
from modules.parallel.base import EngineConfig, TrainingTask
from modules.parallel.deepspeed.engine import DeepSpeedEngine
from modules.parallel.forward import MetricAccumulator, average_metrics, evaluation_mode, split_micro_batches
from modules.parallel.topology import Degree

STAGE: Final = 1
"""Of ZeRO. Under stage 0 DeepSpeed 0.19.8 clips by the norm of the first stage alone, without a word."""


class Pipeline(DeepSpeedEngine):
    """Runs any model that is a list of layers in stages; the replicas of a stage share its optimizer's state (ZeRO 1).

    Source: Narayanan et al. 2019, doi:10.1145/3341301.3359646; one forward, one backward pass in turn.
    """

    def __init__(
        self,
        pipe: Degree,
        data: Degree,
        model: Degree,
        partition: Literal["parameters", "uniform", "time"] | Sequence[int],
        deepspeed_extra: Mapping[str, Any],
    ) -> None:
        """
        Args:
            pipe: stages; "auto": what the others leave of the devices.
            data: replicas of the whole pipeline.
            model: ranks over which the layers of one stage are split.
            partition: what the stages have nearly the same of: parameters, layers ("uniform") or the time of a forward
                and backward pass, measured before training; or the first layer of every stage, by hand: [0, 3, 5].
            deepspeed_extra: keys of DeepSpeed's configuration that change speed, memory or what is printed.
        """
        super().__init__(STAGE, "none", deepspeed_extra)  # the degrees come with the recipe, resolved
        self.partition = partition

    def prepare(self, task: TrainingTask, config: EngineConfig) -> None:
        self._meet(task, config, self.partition)
        from modules.parallel.deepspeed import initialize as deepspeed_start
        from modules.parallel.deepspeed.pipeline_stages import Stages

        deepspeed_start.connect(config)
        self.stages = Stages(task, config, self.partition, self.forward.autocast, self._on_outputs)
        own = {id(tensor) for tensor in (*self.stages.parameters(), *self.stages.buffers())}
        named = state.name_tensors(task.model)
        self.tensors = {name: tensor for name, tensor in named.items() if id(tensor) in own}
        for tensor in named.values():
            if id(tensor) not in own:
                tensor.data = torch.empty(0)  # other stages hold it
        parameters = [parameter for parameter in self.stages.parameters() if parameter.requires_grad]
        split = {"pipe_partitioned": False, "grad_partitioned": False}
        optimizer, settings = self._optimizer_and_settings(task, parameters, config.grad_clip_norm, pipeline=split)
        self.engine = deepspeed_start.initialize(self.stages, optimizer, settings, config, None)
        self._scale_loss()
        self.found: list[dict[str, Tensor]] = []
        self.names: list[str] | None = None
        self.tally: MetricAccumulator | None = None
        self.counted: deque[bool] = deque()
        self.shapes: list[torch.Size] = []

    def train_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        self._set_learning_rate(step)
        self.found.clear()
        self._tell_shapes(batch)
        self.engine.train_batch(split_micro_batches(batch, self.config.num_accumulation))
        return self._after_step(self._told(self.ranks.mean(average_metrics(self.found)) if self._is_last else None))

    def evaluate(self, batches: Iterable[tuple[Batch, bool]], evaluator: AnyEvaluator) -> dict[str, float]:
        self.tally = MetricAccumulator(
            evaluator, self.shards.whole_objective if self.shards else self.forward.objective
        )
        self.ranks.share_buffers(self.stages)
        in_flight = iter(batches)
        with evaluation_mode(self.stages), self._shapes_vary():
            while group := list(islice(in_flight, 4 * self.config.topology.pipe)):
                self.counted = deque(counts for _, counts in group)
                self.engine.eval_batch(
                    iter([batch for batch, _ in group]),
                    reduce_output=None,
                    bcast_loss=False,
                    num_micro_batches=len(group),
                )
        tally, self.tally = self.tally, None
        told: list[Any] = [tally.metrics(self.ranks) if self._is_last else None]
        return dict(self.ranks.object_from_last_stage(told[0]))

    @contextmanager
    def _shapes_vary(self) -> Iterator[None]:
        """Stages tell each other every shape anew: batches of an evaluation differ in size, those of training do not."""
        self.engine.dynamic_shape = True
        try:
            yield
        finally:
            self.engine.dynamic_shape = False
            self.engine.reset_activation_shape()

    def _tell_shapes(self, batch: Batch) -> None:
        """Let stages tell each other their shapes anew where a batch has others than the one before: texts differ in length."""
        shapes = [
            tensor.shape for tensors in batch for tensor in (tensors if isinstance(tensors, tuple) else (tensors,))
        ]
        if shapes != self.shapes:
            self.engine.reset_activation_shape()
            self.shapes = shapes

    @property
    def _is_last(self) -> bool:
        return self.ranks.coordinates.pipe == self.ranks.topology.pipe - 1

    def _on_outputs(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """The loss of a micro-batch, on the last stage, and on the way what is measured there."""
        with self.forward.autocast():
            if self.tally is not None:
                whole = self.shards.whole_outputs(lambda inputs: inputs)(outputs) if self.shards else outputs
                self.tally.add(whole, targets, self.counted.popleft())
                return torch.zeros((), device=self.forward.device)
            loss, metrics = self.forward.objective(outputs, targets)
        self.found.append({name: value.detach() for name, value in metrics.items()})
        return loss

    def _told(self, metrics: dict[str, Tensor] | None) -> dict[str, Tensor]:
        """The last stage's metrics on every stage."""
        if self.names is None:
            self.names = list(self.ranks.object_from_last_stage(list(metrics) if metrics is not None else None))
        values = torch.zeros(len(self.names), device=self.forward.device)
        if metrics is not None:
            values = torch.stack([metrics[name].float() for name in self.names])
        return dict(zip(self.names, self.ranks.from_last_stage(values).unbind(), strict=True))
