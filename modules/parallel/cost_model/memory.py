"""What every rank of a layout holds at its fullest moment, from the counts of its layers. Imports no torch.

What the engines of torch 2.13 and DeepSpeed 0.19.8 allocate besides was measured
(tests/modules/parallel/cost_model/test_memory.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from modules.parallel.cost_model.layer_counts import LayerCount, ModelCount
from modules.parallel.cost_model.layout import ParallelLayout

MAX_BUCKET_SIZE = 500_000_000
"""Numbers that DeepSpeed reduces at once; `deepspeed.config.make_settings` makes the bucket no larger than the model."""
MAX_GATHERED_SIZE = 1_000_000_000
"""Numbers of weights that ZeRO 3 keeps gathered, where it will need them again."""

MAX_UPDATE_SIZE = 1_000_000_000
"""Numbers that ZeRO 3 updates at once (`sub_group_size`)."""


@dataclass(frozen=True)
class StageMemory:
    """Bytes of one rank; all ranks of a stage of the pipeline have the same."""

    first: int
    """Its layers begin here ..."""
    last: int
    """... and end before here."""
    num_parameters: int
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    """Its state, and the copy of the weights that ZeRO's optimizer steps on."""
    buffers_bytes: int
    """Of the engine: where gradients are collected and weights gathered."""
    activations_bytes: int
    """What the forward passes of the micro-batches in flight keep, and the batch."""
    total_bytes: int
    """At the fullest moment of a step; not everything above is there at once, and some things for a moment only."""


def estimate_memory(
    count: ModelCount, bounds: Sequence[int], layout: ParallelLayout, *, on_cpu: bool
) -> list[StageMemory]:
    """Memory of every stage.

    Args:
        count: of one micro-batch.
        bounds: the first layer of every stage, and the number of layers.
        layout: how the training is shared out.
        on_cpu: the device's memory is the host's: it holds the whole batch, and what is offloaded too.
    """
    return [
        _Stage(count, first, last, number, layout, on_cpu).memory()
        for number, (first, last) in enumerate(pairwise(bounds))
    ]


class _Stage:
    """The arithmetic of one stage."""

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
        self.bucket = self._bytes_of(MAX_BUCKET_SIZE)

    def memory(self) -> StageMemory:
        held_weights, gradients, optimizer, buffers = self._shared_out()
        kept, boundaries = self._kept()
        flying = sum(kept) + sum(boundaries)
        activations = self.in_flight * flying + self._borders() + self._batch()
        return StageMemory(
            first=self.first,
            last=self.last,
            num_parameters=self.num_parameters,
            weights_bytes=held_weights,
            gradients_bytes=gradients,
            optimizer_bytes=optimizer,
            buffers_bytes=buffers,
            activations_bytes=activations,
            total_bytes=max(
                held_weights + optimizer + self._pass_bytes(kept, boundaries, flying),
                held_weights + optimizer + self._update_bytes(),
            ),
        )

    def _bytes_of(self, most: int) -> int:
        """Bytes of so many trained numbers, or of all there are."""
        return min(self.trained, most * self.trained // max(1, self.num_trained))

    @property
    def part(self) -> int:
        """A replica's part of what ZeRO shares out, of what is as large as the weights."""
        return -(-self.trained // self.layout.topology.data)

    def _shared_out(self) -> tuple[int, int, int, int]:
        """Bytes of weights, gradients, the optimizer's state and the engine's buffers."""
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
            buffers += self._bytes_of(MAX_GATHERED_SIZE)
        if layout.offload != "none" and not self.on_cpu:
            optimizer = 0
            gradients = 0 if stage > 1 else gradients
        if layout.offload == "weights_and_optimizer" and not self.on_cpu:
            weights -= self.part
        if layout.offload != "none" and self.on_cpu:
            gradients += self.part  # once more, for the optimizer
        return weights, gradients, optimizer, buffers

    def _kept(self) -> tuple[list[int], list[int]]:
        """What every layer keeps inside, and in its outputs, where it or the next one needs them."""
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
        if self.layout.engine == "pipeline":  # the engine keeps those of the stage
            outputs[self.last - self.first - 1] = 0
        return inside, outputs

    def _inputs(self) -> int:
        """Bytes that come from the stage before; the first stage has the batch."""
        return self.count.layers[self.first - 1].outputs_bytes if self.first else 0

    def _borders(self) -> int:
        """What a pipeline's engine keeps of micro-batches, two at least: what comes and goes, and its gradients."""
        if self.layout.engine != "pipeline":
            return 0
        comes = self._inputs() or self.count.inputs_bytes
        goes = self.count.layers[self.last - 1].outputs_bytes + (self.count.targets_bytes if self.is_last else 0)
        received = (2 * self._inputs()) + (0 if self.is_last else goes)
        buffers = min(self.layout.num_micro_batches, max(2, self.in_flight))
        return buffers * (comes + goes) + received

    def _batch(self) -> int:
        one = self.count.inputs_bytes + self.count.targets_bytes
        return one * (self.layout.num_micro_batches if self.on_cpu else self.in_flight)

    def _pass_bytes(self, kept: list[int], boundaries: list[int], flying: int) -> int:
        """The most that gradients, buffers and activations are while micro-batches go through the stage."""
        layout = self.layout
        base = self._batch() + self._borders() + (self.in_flight - 1) * flying
        grows = layout.engine in ("single", "zero") and layout.stage <= 1
        fresh = self._one_pass(kept, boundaries, grows=grows)
        held = self._persistent_gradients()
        if layout.num_micro_batches == 1:
            return base + held + fresh
        again = self._one_pass(kept, boundaries, grows=False) + (self.trained if grows else 0)
        return base + held + max(fresh, again)

    def _persistent_gradients(self) -> int:
        """Gradients and buffers that are there during every pass."""
        stage, engine = self.layout.stage, self.layout.engine
        _, gradients, _, buffers = self._shared_out()
        several = self.layout.num_micro_batches > 1
        if engine == "pipeline":
            return self.trained + (buffers if several else 0)
        if engine == "data":  # while they add up, gradients are not yet in the buckets that are exchanged
            return gradients * (2 if several else 1)
        if stage == 3:
            return gradients + buffers
        if stage == 2:
            return buffers + (gradients if several else 0)
        return buffers

    def _one_pass(self, kept: list[int], boundaries: list[int], *, grows: bool) -> int:
        """The most that one micro-batch takes, forwards and backwards.

        Args:
            kept: inside every layer.
            boundaries: of every layer's outputs.
            grows: gradients come to lie in memory of their own, layer after layer; else their place is counted elsewhere.
        """
        held, most = 0, 0
        before = self._inputs() if self.layout.engine != "pipeline" else 0
        for layer, inside, outputs in zip(self.layers, kept, boundaries, strict=True):
            most = max(most, held + before + layer.forward_bytes)
            held += inside + outputs
            before = 0 if outputs else layer.outputs_bytes
        done = 0
        for layer, inside, outputs in reversed(list(zip(self.layers, kept, boundaries, strict=True))):
            own = layer.gradients_bytes
            taken = layer.backward_bytes if grows else max(layer.backward_bytes - own, self._largest_of(layer))
            most = max(most, held + done + layer.outputs_bytes + taken)
            done += own if grows else 0
            held -= inside + outputs
        return most

    def _largest_of(self, layer: LayerCount) -> int:
        return max((weight.bytes for weight in layer.weights if weight.is_trained), default=0)

    def _update_bytes(self) -> int:
        """The most that gradients, buffers and the optimizer's update are once the passes are over."""
        layout = self.layout
        _, gradients, _, buffers = self._shared_out()
        # Torch updates one parameter after the other on a CPU, all at once on a GPU, by half as many copies.
        ratio = self.count.update_bytes if self.on_cpu else self.count.update_bytes / 2
        update = int(ratio * (self.largest if self.on_cpu else self.trained))
        batch = self._batch()
        if layout.stage == 0:
            copies = self.trained if layout.engine == "zero" and layout.topology.data > 1 else 0
            return batch + gradients + max(copies, update)
        if layout.stage == 3:
            return batch + gradients + buffers + int(ratio * min(self.part, self._bytes_of(MAX_UPDATE_SIZE)))
        # Gradients are moved to the bucket one by one; then the part's are put in a row, and it is stepped on.
        reducing = (self.trained if layout.stage == 1 else 0) + buffers + self.part
        return batch + max(reducing, 2 * self.part + int(ratio * self.part))
