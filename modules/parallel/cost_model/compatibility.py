"""Checks whether a model can be trained in a topology, before any rank starts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from modules.data.base import has_method
from modules.evaluator.base import AnyEvaluator, ModelEvaluator, list_evaluators
from modules.model.base import Layered, Shardable
from modules.parallel.cost_model.layout import ParallelLayout
from modules.parallel.cost_model.partition import partition_balanced
from modules.parallel.topology import Meaning, Settings, Topology, name_setting

Partition = str | Sequence[int]
"""What the stages are balanced by ("parameters", "uniform", "time"), or the first layer of every stage."""


PADDABLE = {"vocab_size": "tokens", "num_classes": "classes"}
"""Arguments that may be larger than the data requires, and what they count."""


def find_incompatibilities(
    model: nn.Module, topology: Topology, partition: Partition = "parameters", settings: Settings | None = None
) -> list[str]:
    """List all reasons why a model cannot be cut into stages or split over ranks.

    Args:
        model: the whole model; it may be on the meta device.
        topology: the topology of the ranks.
        partition: how the stages are cut.
        settings: of the engine, for messages; None: the names of Lathe's own.
    """
    names = settings or {}
    problems = [] if topology.pipe == 1 else _find_stage_problems(model, topology.pipe, partition, names)
    return problems if topology.model == 1 else problems + _find_shard_problems(model, topology.model, names)


def find_evaluator_incompatibilities(
    evaluator: AnyEvaluator, layout: ParallelLayout, names: Settings | None = None
) -> list[str]:
    """List the settings that leave no rank with the whole model, if the evaluator calls the model."""
    calling = [type(each).__name__ for each in list_evaluators(evaluator).values() if isinstance(each, ModelEvaluator)]
    if not calling:
        return []
    topology = layout.topology
    parts: dict[Meaning, int] = {"pipe": topology.pipe, "model": topology.model, "stage": layout.stage}
    least = {"pipe": 2, "model": 2, "stage": 3}
    settings = [f"{name_setting(names or {}, part)}={value}" for part, value in parts.items() if value >= least[part]]
    rule = f"leaves no rank with the whole model, which the evaluator {calling[0]} calls"
    return [f"{setting} {rule}; use parallel=data or zero2, or another evaluator" for setting in settings]


def find_splitting(stage: int, topology: Topology, num_servers: int = 1, settings: Settings | None = None) -> str:
    """The setting by which an optimizer gets slices of the weights; "" if it gets whole weights.

    Args:
        stage: of ZeRO.
        topology: of the ranks.
        num_servers: of asynchronous training.
        settings: of the engine, for messages; None: the names of Lathe's own.
    """
    if num_servers > 1:
        return f"{name_setting(settings or {}, 'num_servers')}={num_servers}"
    if topology.model > 1:
        return f"{name_setting(settings or {}, 'model')}={topology.model}"
    return f"ZeRO stage {stage}" if stage else ""


def find_stage_bounds(model: nn.Module, num_stages: int, partition: Partition) -> list[int]:
    """Find the first layer of each stage, followed by the number of layers; "time" is approximated by parameters.

    Raises:
        ValueError: there are more stages than layers, or the model is not a list of layers.
    """
    if not isinstance(model, Layered) or not has_method(model, "layers"):
        raise ValueError(f"{type(model).__name__} has no layers()")
    weights = [float(sum(parameter.numel() for parameter in layer.parameters())) for layer in model.layers()]
    if not isinstance(partition, str):
        return [*partition, len(weights)]
    return partition_balanced([1.0] * len(weights) if partition == "uniform" else weights, num_stages)


def _find_stage_problems(model: nn.Module, num_stages: int, partition: Partition, names: Settings) -> list[str]:
    pipe = name_setting(names, "pipe")
    setting = f"{pipe}={num_stages}"
    if not isinstance(model, Layered) or not has_method(model, "layers"):
        hint = "add layers() to it (modules/model/base.py), or use parallel=data"
        return [f"{setting} cuts a list of layers, but {type(model).__name__} has no layers(); {hint}"]
    layers = model.layers()
    if num_stages > len(layers):
        hint = f"set {pipe} to at most {len(layers)}"
        return [f"{setting} is more than the {len(layers)} layers of {type(model).__name__}; {hint}"]
    if not isinstance(partition, str) and partition[-1] >= len(layers):
        rule = f"names a layer beyond the {len(layers)} layers of {type(model).__name__}"
        return [f"{name_setting(names, 'partition')}={list(partition)} {rule}; use layers from 0 to {len(layers) - 1}"]
    bounds = find_stage_bounds(model, num_stages, partition)
    empty = [
        f"{setting}: stage {number} (layers {first} to {last - 1} of {type(model).__name__}) has no parameters to train; "
        f"lower {pipe}, or set {name_setting(names, 'partition')} to the first layer of every stage"
        for number, (first, last) in enumerate(pairwise(bounds))
        if not any(parameter.requires_grad for layer in layers[first:last] for parameter in layer.parameters())
    ]
    return [] if partition == "time" else empty


def _find_shard_problems(model: nn.Module, num_ranks: int, names: Settings) -> list[str]:
    key = name_setting(names, "model")
    setting = f"{key}={num_ranks}"
    if not isinstance(model, Shardable) or not has_method(model, "shards"):
        hint = "add shards() to it (modules/model/base.py), or use parallel=data"
        return [f"{setting} splits layers, but {type(model).__name__} has no shards() that lists them; {hint}"]
    shards = model.shards()
    if not shards:
        return [
            f"{setting} splits layers, but this {type(model).__name__} has none that can be split; use parallel=data"
        ]
    units = {shard.argument: shard.units for shard in shards.values() if shard.units % num_ranks}
    return [
        f"model.{argument}={count} cannot be split over {setting} ranks; {_make_hint(argument, count, num_ranks, key)}"
        for argument, count in units.items()
    ]


def _make_hint(argument: str, count: int, num_ranks: int, key: str) -> str:
    below, above = count // num_ranks * num_ranks, -(-count // num_ranks) * num_ranks
    if argument in PADDABLE:
        return f"try model.{argument}={above}, as unused {PADDABLE[argument]} do no harm, or lower {key}"
    return f"try {f'{below} or {above}' if below else above}, or lower {key}"
