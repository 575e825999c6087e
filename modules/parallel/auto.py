"""Every layout that a hardware allows; which one is best is for whoever can count the model to say. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from modules.parallel.cost_model.layout import ParallelLayout
from modules.parallel.topology import Topology


class Auto:
    """Stands where an engine would, until the layout is chosen: it trains nothing."""

    def __init__(self, stages: Sequence[int], offload: bool, max_pipe: int | None, max_model: int | None) -> None:
        """
        Args:
            stages: of ZeRO, that may be chosen.
            offload: ZeRO 3 may keep weights and optimizer state in the host's memory.
            max_pipe: the longest pipeline; null: as many stages as there are devices.
            max_model: the most ranks that share a layer; null: the devices of a node, since they exchange all the time.

        Raises:
            ValueError: there is no such stage, or a degree is not positive.
        """
        if wrong := [stage for stage in stages if stage not in (0, 1, 2, 3)]:
            raise ValueError(f"Auto wants stages of ZeRO, 0 to 3, but got {wrong[0]}; take it out of parallel.stages")
        for name, degree in (("max_pipe", max_pipe), ("max_model", max_model)):
            if degree is not None and degree < 1:
                raise ValueError(f"Auto wants {name} of at least 1, but got {degree}; 1 leaves that axis out")
        self.stages, self.offload = sorted(set(stages)), offload
        self.max_pipe, self.max_model = max_pipe, max_model

    def layouts(self, nodes: int, devices_per_node: int) -> list[ParallelLayout]:
        """Every arrangement of all devices, and one process alone, the simplest first; how they cut the batch is left open.

        Replicas without ZeRO are DistributedDataParallel's, unless their layers are split; ranks that share a layer share
        a node, or fill several.
        """
        devices = nodes * devices_per_node
        found = [ParallelLayout("single")]
        for model in _divisors(devices, self.max_model or devices_per_node):
            if devices_per_node % model and model % devices_per_node:
                continue
            for pipe in _divisors(devices // model, self.max_pipe or devices):
                topology = Topology(pipe, devices // model // pipe, model)
                if topology.world > 1:
                    found += self._engines(topology)
        return sorted(found, key=_parts_that_move)

    def _engines(self, topology: Topology) -> Iterator[ParallelLayout]:
        if topology.pipe > 1:
            yield ParallelLayout("pipeline", topology, stage=1)
            return
        if topology.model == 1:
            yield ParallelLayout("data", topology)
        elif topology.data == 1 or 0 in self.stages:
            yield ParallelLayout("zero", topology)
        if topology.data == 1:
            return
        for stage in self.stages:
            if stage > 0:
                yield ParallelLayout("zero", topology, stage)
        if self.offload and 3 in self.stages:
            yield ParallelLayout("zero", topology, 3, "weights_and_optimizer")


def _parts_that_move(layout: ParallelLayout) -> tuple[int, int, int]:
    engines = ("single", "data", "zero", "pipeline")
    axes = sum(length > 1 for length in (layout.topology.pipe, layout.topology.data, layout.topology.model))
    return axes, engines.index(layout.engine), layout.stage


def _divisors(number: int, most: int) -> list[int]:
    return [divisor for divisor in range(1, min(number, most) + 1) if number % divisor == 0]
