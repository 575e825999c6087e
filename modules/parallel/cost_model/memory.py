"""Estimates the peak memory of each rank of a layout from the counts of its layers. Does not import torch.

The further allocations of torch 2.13 and DeepSpeed 0.19.8 were measured (tests/modules/parallel/cost_model/test_memory.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from modules.parallel.cost_model.layer_counts import LayerCount, ModelCount
from modules.parallel.cost_model.layout import ParallelLayout

MAX_BUCKET_SIZE = 500_000_000
"""Elements that DeepSpeed reduces at once; `deepspeed.config.make_settings` makes smaller buckets for smaller models."""
MAX_GATHERED_SIZE = 1_000_000_000
"""Elements of weights that ZeRO 3 keeps gathered for reuse."""
MAX_UPDATE_SIZE = 1_000_000_000
"""Elements that ZeRO 3 updates at once (`sub_group_size`)."""


@dataclass(frozen=True)
class StageMemory:
    """Bytes of one rank; all ranks of a pipeline stage have the same."""

    first: int
    """First layer."""
    last: int
    """Last layer, exclusive."""
    num_parameters: int
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    """Optimizer state, and the copy of the weights that ZeRO's optimizer updates."""
    buffers_bytes: int
    """Buffers of the engine for gradients and gathered weights."""
    activations_bytes: int
    """Saved tensors of the micro-batches in flight, and the batch."""
    total_bytes: int
    """Peak of a step; it is not the sum of the above, because these do not all exist at the same time."""


def estimate_memory(
    count: ModelCount, bounds: Sequence[int], layout: ParallelLayout, *, on_cpu: bool
) -> list[StageMemory]:
    """Estimate the memory of each stage.

    Args:
        count: counts of one micro-batch.
        bounds: the first layer of each stage, followed by the number of layers.
        layout: how the training is distributed.
        on_cpu: device memory is host memory, so it includes the whole batch and offloaded tensors.
    """
    return [
        _StageEstimator(count, first, last, number, layout, on_cpu).estimate()
        for number, (first, last) in enumerate(pairwise(bounds))
    ]


class _StageEstimator:
    """Estimates the memory of one stage."""

    def __init__(
        self, count: ModelCount, first: int, last: int, number: int, layout: ParallelLayout, on_cpu: bool
    ) -> None:
        self.count, self.layout, self.on_cpu = count, layout, on_cpu
        self.first, self.last = first, last
        self.is_last = last == len(count.layers)
        self.layers = [*count.layers[first:last], *([count.loss] if self.is_last else [])]
        self.in_flight = min(layout.num_micro_batches, layout.topology.pipe - number)
        weights = count.weights(first, last)
        self.num_parameters = sum(weight.size for weight in weights)
        self.weights = sum(weight.bytes for weight in weights) + sum(layer.buffers_bytes for layer in self.layers)
        self.trained = sum(weight.bytes for weight in weights if weight.is_trained)
        self.largest = max((weight.bytes for weight in weights if weight.is_trained), default=0)
        self.state = sum(weight.state_bytes for weight in weights)
        self.num_trained = sum(weight.size for weight in weights if weight.is_trained)
        self.bucket = self._size_bytes(MAX_BUCKET_SIZE)

    def estimate(self) -> StageMemory:
        weights, gradients, optimizer, buffers = self._partition()
        saved, outputs = self._saved_bytes()
        per_micro_batch = sum(saved) + sum(outputs)
        activations = self.in_flight * per_micro_batch + self._boundary_bytes() + self._batch_bytes()
        return StageMemory(
            first=self.first,
            last=self.last,
            num_parameters=self.num_parameters,
            weights_bytes=weights,
            gradients_bytes=gradients,
            optimizer_bytes=optimizer,
            buffers_bytes=buffers,
            activations_bytes=activations,
            total_bytes=max(
                weights + optimizer + self._pass_bytes(saved, outputs, per_micro_batch),
                weights + optimizer + self._update_bytes(),
            ),
        )

    def _size_bytes(self, max_size: int) -> int:
        """Bytes of at most ``max_size`` trained elements."""
        return min(self.trained, max_size * self.trained // max(1, self.num_trained))

    @property
    def part(self) -> int:
        """A replica's partition under ZeRO, of a tensor as large as the trained weights."""
        return -(-self.trained // self.layout.topology.data)

    def _partition(self) -> tuple[int, int, int, int]:
        """Bytes of weights, gradients, optimizer state and buffers on one rank."""
        layout, replicas = self.layout, self.layout.topology.data
        stage = layout.stage
        weights, gradients, optimizer, buffers = self.weights, self.trained, self.state, 0
        if stage:
            optimizer = self.part + -(-self.state // replicas)
            buffers = self.bucket
        if stage >= 2:
            gradients = self.part
        if stage == 3:
            weights = self.weights - self.trained + self.part
            buffers += self._size_bytes(MAX_GATHERED_SIZE)
        if layout.offload != "none" and not self.on_cpu:
            optimizer = 0
            gradients = 0 if stage > 1 else gradients
        if layout.offload == "weights_and_optimizer" and not self.on_cpu:
            weights -= self.part
        if layout.offload != "none" and self.on_cpu:
            gradients += self.part  # a second copy, for the optimizer
        return weights, gradients, optimizer, buffers

    def _saved_bytes(self) -> tuple[list[int], list[int]]:
        """Bytes that each layer saves for the backward pass: inside, and in outputs that it or the next layer needs."""
        inside = [layer.saved_bytes for layer in self.layers]
        outputs = [0] * len(self.layers)
        owner = (
            -1
        )  # the layer whose outputs are the memory that is looked at; -1: the stage's inputs, counted elsewhere
        for index, layer in enumerate(self.layers):
            if not layer.is_view:
                owner = index
            follower = self.layers[index + 1] if index + 1 < len(self.layers) else None
            if owner >= 0 and (layer.saves_outputs or (follower is not None and follower.saves_inputs)):
                outputs[owner] = self.layers[owner].outputs_bytes
        if self.layout.engine == "pipeline":  # the engine stores the outputs of the stage
            outputs[self.last - self.first - 1] = 0
        return inside, outputs

    def _inputs_bytes(self) -> int:
        """Bytes received from the previous stage; 0 for the first stage, which has the batch."""
        return self.count.layers[self.first - 1].outputs_bytes if self.first else 0

    def _boundary_bytes(self) -> int:
        """Buffers of the pipeline engine for at least two micro-batches: inputs, outputs and their gradients."""
        if self.layout.engine != "pipeline":
            return 0
        inputs = self._inputs_bytes() or self.count.inputs_bytes
        outputs = self.count.layers[self.last - 1].outputs_bytes + (self.count.targets_bytes if self.is_last else 0)
        received = (2 * self._inputs_bytes()) + (0 if self.is_last else outputs)
        buffers = min(self.layout.num_micro_batches, max(2, self.in_flight))
        return buffers * (inputs + outputs) + received

    def _batch_bytes(self) -> int:
        one = self.count.inputs_bytes + self.count.targets_bytes
        return one * (self.layout.num_micro_batches if self.on_cpu else self.in_flight)

    def _pass_bytes(self, saved: list[int], outputs: list[int], per_micro_batch: int) -> int:
        """Peak of gradients, buffers and activations during the forward and backward passes."""
        layout = self.layout
        base = self._batch_bytes() + self._boundary_bytes() + (self.in_flight - 1) * per_micro_batch
        grows = layout.engine in ("single", "zero") and layout.stage <= 1
        first = self._peak_of_pass(saved, outputs, grows=grows)
        held = self._persistent_gradients()
        if layout.num_micro_batches == 1:
            return base + held + first
        later = self._peak_of_pass(saved, outputs, grows=False) + (self.trained if grows else 0)
        return base + held + max(first, later)

    def _persistent_gradients(self) -> int:
        """Bytes of gradients and buffers that exist during every pass."""
        stage, engine = self.layout.stage, self.layout.engine
        _, gradients, _, buffers = self._partition()
        accumulates = self.layout.num_micro_batches > 1
        if engine == "pipeline":
            return self.trained + (buffers if accumulates else 0)
        if engine == "data":  # during accumulation, gradients are not in the buckets yet
            return gradients * (2 if accumulates else 1)
        if stage == 3:
            return gradients + buffers
        if stage == 2:
            return buffers + (gradients if accumulates else 0)
        return buffers

    def _peak_of_pass(self, saved: list[int], outputs: list[int], *, grows: bool) -> int:
        """Peak of the forward and backward pass of one micro-batch.

        Args:
            saved: bytes saved inside each layer.
            outputs: bytes saved of each layer's outputs.
            grows: the backward pass allocates gradients layer by layer; otherwise their memory is counted elsewhere.
        """
        held, peak = 0, 0
        before = self._inputs_bytes() if self.layout.engine != "pipeline" else 0
        for layer, inside, output in zip(self.layers, saved, outputs, strict=True):
            peak = max(peak, held + before + layer.forward_bytes)
            held += inside + output
            before = 0 if output else layer.outputs_bytes
        done = 0
        for layer, inside, output in reversed(list(zip(self.layers, saved, outputs, strict=True))):
            own = layer.gradients_bytes
            used = layer.backward_bytes if grows else max(layer.backward_bytes - own, self._largest_gradient(layer))
            peak = max(peak, held + done + layer.outputs_bytes + used)
            done += own if grows else 0
            held -= inside + output
        return peak

    def _largest_gradient(self, layer: LayerCount) -> int:
        return max((weight.bytes for weight in layer.weights if weight.is_trained), default=0)

    def _update_bytes(self) -> int:
        """Peak of gradients, buffers and the optimizer update after the passes."""
        layout = self.layout
        _, gradients, _, buffers = self._partition()
        # Torch updates one parameter at a time on a CPU, and all at once with half as many copies on a GPU.
        ratio = self.count.update_bytes if self.on_cpu else self.count.update_bytes / 2
        update = int(ratio * (self.largest if self.on_cpu else self.trained))
        batch = self._batch_bytes()
        if layout.stage == 0:
            copies = self.trained if layout.engine == "zero" and layout.topology.data > 1 else 0
            return batch + gradients + max(copies, update)
        if layout.stage == 3:
            return batch + gradients + buffers + int(ratio * min(self.part, self._size_bytes(MAX_UPDATE_SIZE)))
        # Gradients move to the bucket one by one; then those of the partition are concatenated, and the optimizer steps.
        reducing = (self.trained if layout.stage == 1 else 0) + buffers + self.part
        return batch + max(reducing, 2 * self.part + int(ratio * self.part))
