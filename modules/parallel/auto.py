"""Lists the layouts that the hardware allows; `plan.layout_search` chooses the best. Does not import torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from modules.parallel.cost_model.layout import Kind, ParallelLayout
from modules.parallel.topology import Topology


class Auto:
    """Placeholder for an engine until the layout is chosen; it cannot train."""

    is_component = True
    chooses_layout = True
    """The plan reads it from the source."""

    def __init__(
        self,
        stages: Sequence[int],
        offload: bool,
        max_pipe: int | None,
        max_model: int | None,
        options: Mapping[Kind, str] | None = None,
    ) -> None:
        """
        Args:
            stages: ZeRO stages to choose from.
            offload: also try ZeRO 3 with weights and optimizer state in host memory.
            max_pipe: most pipeline stages; null: the number of devices.
            max_model: most ranks that split a layer; null: the devices of a node, because these ranks communicate all the time.
            options: by kind of engine, your own option of `parallel` to use instead of a built-in one, such as ``{data: mine}``.

        Raises:
            ValueError: a stage does not exist, or a degree is not positive.
        """
        if unknown := [stage for stage in stages if stage not in (0, 1, 2, 3)]:
            raise ValueError(
                f"Auto needs ZeRO stages from 0 to 3, but got {unknown[0]}; remove it from parallel.stages"
            )
        for name, degree in (("max_pipe", max_pipe), ("max_model", max_model)):
            if degree is not None and degree < 1:
                raise ValueError(f"Auto needs {name} of at least 1, but got {degree}; 1 leaves that axis out")
        self.stages, self.offload = sorted(set(stages)), offload
        self.max_pipe, self.max_model = max_pipe, max_model
        self.options = dict(options or {})

    def layouts(self, nodes: int, devices_per_node: int) -> list[ParallelLayout]:
        """List every topology of all devices, and a single process, the simplest first; batch sizes are not set.

        Replicas without ZeRO use DistributedDataParallel, unless their layers are split. Ranks that split a layer are on
        one node, or fill whole nodes.
        """
        devices = nodes * devices_per_node
        layouts = [ParallelLayout("single")]
        for model in _divisors(devices, self.max_model or devices_per_node):
            if devices_per_node % model and model % devices_per_node:
                continue
            for pipe in _divisors(devices // model, self.max_pipe or devices):
                topology = Topology(pipe, devices // model // pipe, model)
                if topology.world > 1:
                    layouts += self._list_engines(topology)
        return sorted(layouts, key=_complexity)

    def _list_engines(self, topology: Topology) -> Iterator[ParallelLayout]:
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


def _complexity(layout: ParallelLayout) -> tuple[int, int, int]:
    engines = ("single", "data", "zero", "pipeline")
    axes = sum(length > 1 for length in (layout.topology.pipe, layout.topology.data, layout.topology.model))
    return axes, engines.index(layout.engine), layout.stage


def _divisors(number: int, max_divisor: int) -> list[int]:
    return [divisor for divisor in range(1, min(number, max_divisor) + 1) if number % divisor == 0]
