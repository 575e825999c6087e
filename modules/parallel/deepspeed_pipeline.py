"""Pipeline parallelism with DeepSpeed: stages of layers on different ranks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, ClassVar, Final, Literal

import torch
from torch import Tensor

from modules.data.base import Batch, Tensors
from modules.evaluator.base import AnyEvaluator
from modules.objective.base import apply_objective
from modules.parallel import checkpoint_format as state
from modules.parallel.base import EngineConfig, TrainingSetup
from modules.parallel.deepspeed.engine import DeepSpeedEngine
from modules.parallel.forward import MetricAccumulator, MicroBatch, average_metrics, evaluation_mode
from modules.parallel.topology import Degree, Settings
from modules.task.base import Evaluation

STAGE: Final = 1
"""ZeRO stage. Under stage 0, DeepSpeed 0.19.8 silently clips by the norm of the first pipeline stage only."""


class Pipeline(DeepSpeedEngine):
    """Trains a model that is a list of layers in stages; the replicas of a stage partition its optimizer state (ZeRO 1).

    Source: Narayanan et al. 2019, doi:10.1145/3341301.3359646. The schedule is one forward, one backward (1F1B).
    """

    is_component = True
    serves = ()
    settings: ClassVar[Settings] = {
        "pipe": "pipe", "data": "data", "model": "model", "partition": "partition", "deepspeed_extra": "deepspeed_extra",
        "stage": 1,
    }  # fmt: skip

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
            pipe: number of stages; "auto": the number of devices divided by the other degrees.
            data: replicas of the whole pipeline.
            model: ranks over which the layers of one stage are split.
            partition: what the stages are balanced by: parameters, layers ("uniform"), or the time of a forward and
                backward pass, measured before training. Or the first layer of every stage, such as [0, 3, 5].
            deepspeed_extra: keys of DeepSpeed's configuration that change speed, memory or logging.
        """
        super().__init__(STAGE, "none", deepspeed_extra)  # the resolved degrees come with the EngineConfig
        self.partition = partition

    def prepare(self, setup: TrainingSetup, config: EngineConfig) -> None:
        self._connect(setup, config, self.partition)
        from modules.parallel.deepspeed.initialize import connect, initialize
        from modules.parallel.deepspeed.pipeline_stages import Stages

        connect(config)
        self.stages = Stages(setup, config, self.partition, self.forward.autocast, self._on_outputs)
        own = {id(tensor) for tensor in (*self.stages.parameters(), *self.stages.buffers())}
        tensors = state.name_tensors(setup.model)
        self.tensors = {name: tensor for name, tensor in tensors.items() if id(tensor) in own}
        for tensor in tensors.values():
            if id(tensor) not in own:
                tensor.data = torch.empty(0)  # it is on another stage
        parameters = [parameter for parameter in self.stages.parameters() if parameter.requires_grad]
        split = {"pipe_partitioned": False, "grad_partitioned": False}
        optimizer, settings = self._make_optimizer(setup, parameters, config.grad_clip_norm, pipeline=split)
        self.engine = initialize(self.stages, optimizer, settings, config, None)
        self._scale_loss()
        self.step_metrics: list[dict[str, Tensor]] = []
        self.metric_names: list[str] | None = None
        self.accumulator: MetricAccumulator | None = None
        self.is_counted: deque[bool] = deque()
        self.waiting: deque[MicroBatch] = deque()
        """Micro-batches of this step whose loss is not computed yet, in their order."""
        self.shapes: list[torch.Size] = []

    def train_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        self._set_learning_rate(step)
        self.step_metrics.clear()
        self._announce_shapes(batch)
        parts = self.forward.split(batch, step, self.ranks)
        self.waiting = deque(parts)
        self.engine.train_batch(iter([part.batch for part in parts]))
        return self._after_step(
            self._broadcast_metrics(self.ranks.mean(average_metrics(self.step_metrics)) if self._is_last else None)
        )

    def evaluate(self, batches: Iterable[tuple[Batch, bool]], evaluator: AnyEvaluator) -> dict[str, float]:
        self.accumulator = MetricAccumulator(evaluator)
        self.ranks.broadcast_buffers(self.stages)
        remaining = iter(batches)
        with evaluation_mode(self.stages), self._varying_shapes():
            while group := list(islice(remaining, 4 * self.config.topology.pipe)):
                self.is_counted = deque(is_counted for _, is_counted in group)
                self.engine.eval_batch(
                    iter([batch for batch, _ in group]),
                    reduce_output=None,
                    bcast_loss=False,
                    num_micro_batches=len(group),
                )
        accumulator, self.accumulator = self.accumulator, None
        metrics = accumulator.compute(self.ranks) if self._is_last else None
        return dict(self.ranks.broadcast_json_from_last_stage(metrics))

    @contextmanager
    def _varying_shapes(self) -> Iterator[None]:
        """Let stages send the shape with every tensor: evaluation batches differ in size, training batches do not."""
        self.engine.dynamic_shape = True
        try:
            yield
        finally:
            self.engine.dynamic_shape = False
            self.engine.reset_activation_shape()

    def _announce_shapes(self, batch: Batch) -> None:
        """Let stages send their shapes again if they differ from the last batch: texts differ in length."""
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
        """Compute the loss of a micro-batch on the last stage; in an evaluation, accumulate the metrics instead."""
        with self.forward.autocast():
            if self.accumulator is not None:
                whole = self.shards.whole_outputs(lambda inputs: inputs)(outputs) if self.shards else outputs
                objective = self.shards.whole_objective if self.shards else self.objective
                evaluation = Evaluation(objective(whole, targets)[1], whole, targets)
                weight = self.forward.task.weight((None, targets))
                self.accumulator.add(evaluation, targets, self.is_counted.popleft(), weight)
                return torch.zeros((), device=self.forward.device)
            loss, metrics = apply_objective(self.objective, outputs, targets)
        scale = self.waiting.popleft().scale
        self.step_metrics.append({name: scale(value.detach()) for name, value in metrics.items()})
        return scale(loss)

    def _broadcast_metrics(self, metrics: dict[str, Tensor] | None) -> dict[str, Tensor]:
        """Copy the metrics of the last stage to all stages."""
        if self.metric_names is None:
            self.metric_names = list(
                self.ranks.broadcast_json_from_last_stage(list(metrics) if metrics is not None else None)
            )
        values = torch.zeros(len(self.metric_names), device=self.forward.device)
        if metrics is not None:
            values = torch.stack([metrics[name].float() for name in self.metric_names])
        return dict(zip(self.metric_names, self.ranks.broadcast_from_last_stage(values).unbind(), strict=True))
