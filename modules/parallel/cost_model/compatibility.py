"""Whether a model can be arranged as a topology asks: every reason why not, before a rank is started."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from modules.evaluator.base import AnyEvaluator, ModelEvaluator
from modules.model.base import Layered, Shardable
from modules.parallel.cost_model.layout import ParallelLayout
from modules.parallel.cost_model.partition import partition_balanced
from modules.parallel.topology import Topology

Partition = str | Sequence[int]
"""What stages have nearly the same of ("parameters", "uniform", "time"), or the first layer of every stage."""


UNUSED = {"vocab_size": "words", "num_classes": "classes"}
"""Arguments that may be larger than what the data has."""


def find_incompatibilities(model: nn.Module, topology: Topology, partition: Partition = "parameters") -> list[str]:
    """Every reason why a model cannot be cut into stages or split over ranks.

    Args:
        model: whole; on the meta device will do.
        topology: how the ranks are arranged.
        partition: how stages are cut.
    """
    problems = [] if topology.pipe == 1 else _stage_problems(model, topology.pipe, partition)
    return problems if topology.model == 1 else problems + _shard_problems(model, topology.model)


def find_evaluator_incompatibilities(evaluator: AnyEvaluator, layout: ParallelLayout) -> list[str]:
    """Why an evaluator that asks the whole model cannot where no rank has all of it; nothing for all others."""
    if not isinstance(evaluator, ModelEvaluator):
        return []
    topology = layout.topology
    parts = {"pipe": topology.pipe > 1, "model": topology.model > 1, "stage": layout.stage == 3}
    told = [f"parallel.{name}={getattr(topology, name, layout.stage)}" for name, is_cut in parts.items() if is_cut]
    rule = "leaves no rank the whole model"
    return [
        f"{key} {rule}, which the evaluator {type(evaluator).__name__} asks; take parallel=data or zero2, or another evaluator"
        for key in told
    ]


def find_stage_bounds(model: nn.Module, num_stages: int, partition: Partition) -> list[int]:
    """The first layer of every stage, and the number of layers; by parameters where only measuring would tell.

    Raises:
        ValueError: there are more stages than layers, or the model is no list of layers.
    """
    if not isinstance(model, Layered):
        raise ValueError(f"{type(model).__name__} has no layers()")
    weights = [float(sum(parameter.numel() for parameter in layer.parameters())) for layer in model.layers()]
    if not isinstance(partition, str):
        return [*partition, len(weights)]
    return partition_balanced([1.0] * len(weights) if partition == "uniform" else weights, num_stages)


def _stage_problems(model: nn.Module, num_stages: int, partition: Partition) -> list[str]:
    told = f"parallel.pipe={num_stages}"
    if not isinstance(model, Layered):
        way_out = "add layers() to it (modules/model/base.py), or take parallel=data"
        return [f"{told} cuts a list of layers, but {type(model).__name__} has no layers(); {way_out}"]
    layers = model.layers()
    if num_stages > len(layers):
        way_out = f"set parallel.pipe to at most {len(layers)}"
        return [f"{told} is more stages than the {len(layers)} layers of {type(model).__name__}; {way_out}"]
    if not isinstance(partition, str) and partition[-1] >= len(layers):
        way_out = f"name layers from 0 to {len(layers) - 1}"
        return [
            f"parallel.partition={list(partition)} goes beyond the {len(layers)} layers of {type(model).__name__}; {way_out}"
        ]
    bounds = find_stage_bounds(model, num_stages, partition)
    empty = [
        f"{told}: stage {number} (layers {first} to {last - 1} of {type(model).__name__}) has no parameters to train; "
        "lower parallel.pipe, or give parallel.partition the first layer of every stage"
        for number, (first, last) in enumerate(pairwise(bounds))
        if not any(parameter.requires_grad for layer in layers[first:last] for parameter in layer.parameters())
    ]
    return [] if partition == "time" else empty


def _shard_problems(model: nn.Module, num_ranks: int) -> list[str]:
    told = f"parallel.model={num_ranks}"
    if not isinstance(model, Shardable):
        way_out = "add shards() to it (modules/model/base.py), or take parallel=data"
        return [f"{told} splits layers, but {type(model).__name__} has no shards() that says which; {way_out}"]
    shards = model.shards()
    if not shards:
        return [f"{told} splits layers, but this {type(model).__name__} has none that split; take parallel=data"]
    units = {shard.argument: shard.units for shard in shards.values() if shard.units % num_ranks}
    return [
        f"model.{argument}={count} cannot be split over {told} ranks; {_way_out(argument, count, num_ranks)}"
        for argument, count in units.items()
    ]


def _way_out(argument: str, count: int, num_ranks: int) -> str:
    below, above = count // num_ranks * num_ranks, -(-count // num_ranks) * num_ranks
    if argument in UNUSED:
        return (
            f"try model.{argument}={above}, as {UNUSED[argument]} that never come do no harm, or lower parallel.model"
        )
    return f"try {f'{below} or {above}' if below else above}, or lower parallel.model"
