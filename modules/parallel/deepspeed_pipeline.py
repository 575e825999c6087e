"""Layers on different ranks, with micro-batches flowing through them, under DeepSpeed's pipeline engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor

from modules.data.base import Batch, Tensors
from modules.evaluator.base import Evaluator
from modules.parallel import state
from modules.parallel.base import Learner, Recipe
from modules.parallel.deepspeed_config import check_extra, settings
from modules.parallel.fits import misfits
from modules.parallel.forward import Forward, Tally, evaluation_mode, mean_of, micro_batches
from modules.parallel.ranks import Ranks
from modules.parallel.shards import Shards
from modules.parallel.topology import Degree

STAGE: Final = 1
"""Of ZeRO. Under stage 0 DeepSpeed 0.19.8 clips by the norm of the first stage alone, without a word."""


class Pipeline:
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
        if problems := check_extra(deepspeed_extra):
            raise ValueError("; ".join(problems))
        self.pipe, self.data, self.model_degree = pipe, data, model
        self.partition, self.extra = partition, deepspeed_extra

    def prepare(self, learner: Learner, recipe: Recipe) -> None:
        from modules.parallel import deepspeed_start  # first: it keeps DeepSpeed's import quiet
        from modules.parallel.deepspeed_stages import Stages

        self.recipe, self.schedule = recipe, learner.schedule
        self.forward = Forward(learner.objective, recipe)  # which may refuse, before anybody meets
        self.ranks = Ranks(recipe, always=True)
        deepspeed_start.connect(recipe)
        if problems := misfits(learner.model, recipe.topology, self.partition):
            raise ValueError("; ".join(problems))
        self.whole_kinds = state.kinds_of(state.named(learner.model))
        self.ties = state.ties_of(learner.model)
        self.shards: Shards | None = None
        if recipe.topology.model > 1:
            self.shards = Shards(learner.model, learner.objective, self.ranks.groups["model"])
            self.forward.objective = self.shards.objective
        self.stages = Stages(learner, recipe, self.partition, self.forward.autocast, self._on_outputs)
        own = {id(tensor) for tensor in (*self.stages.parameters(), *self.stages.buffers())}
        named = state.named(learner.model)
        self.tensors = {name: tensor for name, tensor in named.items() if id(tensor) in own}
        for tensor in named.values():
            if id(tensor) not in own:
                tensor.data = torch.empty(0)  # other stages hold it
        parameters = [parameter for parameter in self.stages.parameters() if parameter.requires_grad]
        optimizer = learner.optimizer(parameters)
        self.optimizer_name = type(optimizer).__name__
        self.initial_lrs = [float(group["lr"]) for group in optimizer.param_groups]
        config = settings(
            stage=STAGE,
            offload="none",
            batch_size_per_device=recipe.batch_size_per_device,
            num_accumulation=recipe.num_accumulation,
            grad_clip_norm=recipe.grad_clip_norm,
            precision=recipe.precision,
            num_parameters=sum(parameter.numel() for parameter in parameters),
            extra={"pipeline": {"pipe_partitioned": False, "grad_partitioned": False}, **self.extra},
        )
        self.engine = deepspeed_start.start(self.stages, optimizer, config, recipe, None)
        self.found: list[dict[str, Tensor]] = []
        self.names: list[str] | None = None
        self.tally: Tally | None = None
        self.counted: deque[bool] = deque()

    def train_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        recipe = self.recipe
        factor = self.schedule.factor(step, recipe.num_steps)
        for group, initial_lr in zip(self.engine.optimizer.param_groups, self.initial_lrs, strict=True):
            group["lr"] = initial_lr * factor
        self.found.clear()
        self.engine.train_batch(micro_batches(batch, recipe.num_accumulation))
        metrics = self._told(self.ranks.mean(mean_of(self.found)) if self._is_last else None)
        if recipe.grad_clip_norm is not None:
            norm = torch.as_tensor(self.engine.get_global_grad_norm(), device=self.forward.device)
            metrics["grad_norm"] = norm.nan_to_num(0.0, 0.0, 0.0) if recipe.precision == "fp16" else norm
        return metrics

    def evaluate(self, batches: Iterable[tuple[Batch, bool]], evaluator: Evaluator) -> dict[str, float]:
        self.tally = Tally(evaluator, self.shards.whole_objective if self.shards else self.forward.objective)
        in_flight = iter(batches)
        with evaluation_mode(self.stages), self._shapes_vary():
            while group := list(islice(in_flight, 4 * self.recipe.topology.pipe)):
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

    def snapshot(self) -> Callable[[Path], None] | None:
        copy = self._collect()
        return None if copy is None else copy.write

    def load(self, folder: Path) -> None:
        from modules.parallel import deepspeed_state

        part = self.shards.part if self.shards else lambda name, whole: whole
        with state.Saved(folder) as saved:
            saved.check(self.whole_kinds, self.optimizer_name)
            deepspeed_state.restore(self.engine, STAGE, self.tensors, saved, part)

    def weights(self) -> dict[str, Tensor]:
        copy = self._collect(entries=False)
        return {} if copy is None else state.under_all_names(copy.weights, self.ties)

    def gather(self, value: float) -> list[float]:
        return self.ranks.gather(value)

    def _collect(self, *, entries: bool = True) -> state.State | None:
        from modules.parallel.deepspeed_state import collect

        return collect(self.engine, STAGE, self.tensors, self.optimizer_name, self.shards, self.ranks, entries)

    @contextmanager
    def _shapes_vary(self) -> Iterator[None]:
        """Stages tell each other every shape anew: batches of an evaluation differ in size, those of training do not."""
        self.engine.dynamic_shape = True
        try:
            yield
        finally:
            self.engine.dynamic_shape = False
            self.engine.reset_activation_shape()

    @property
    def _is_last(self) -> bool:
        return self.ranks.place.pipe == self.ranks.topology.pipe - 1

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
