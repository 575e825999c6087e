"""`parallel=auto`: searches the best parallel layout for the hardware and returns it as plain overrides."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import yaml

from experiments.components.assemble import Components, assemble
from experiments.components.instantiate import instantiate
from experiments.config import options
from experiments.config.allowlist import trusted
from experiments.config.rules import task as task_rules
from experiments.config.rules import topology as topology_rules
from experiments.config.rules.all_rules import find_problems
from experiments.config.rules.base import ConfigView, NotApplicable
from experiments.config.rules.engine import read_engine
from experiments.core.errors import PlanError, did_you_mean
from experiments.plan.estimate import count_micro_batch, make_machine, megabytes, memory_bytes, resolve_device
from experiments.plan.without_compiler import without_compiler
from modules.optimizer.base import find_optimizer_problems
from modules.parallel.cost_model.compatibility import find_incompatibilities, find_splitting, find_stage_bounds
from modules.parallel.cost_model.layer_counts import ModelCount, interpolate
from modules.parallel.cost_model.layout import ParallelLayout
from modules.parallel.cost_model.memory import estimate_memory
from modules.parallel.cost_model.step_time import StepCost, estimate_cost
from modules.parallel.topology import Meaning

if TYPE_CHECKING:
    from experiments.config.experiment import Experiment

TIE_RATIO = 1.02
"""Layouts within this ratio of the fastest count as equally fast; the simplest of them is chosen."""
USABLE_MEMORY = 0.9
"""Usable fraction of a device's memory; the driver, library buffers and fragmentation take the rest."""
COUNTED_SIZES = (2, 4)
"""Micro-batch sizes that are counted; others are interpolated. Size 1 is too small for batch norm."""


@dataclass(frozen=True)
class Candidate:
    """A valid layout with its estimated memory and cost."""

    layout: ParallelLayout
    overrides: tuple[str, ...]
    memory_bytes: int
    """Of the rank that needs most."""
    cost: StepCost

    @property
    def name(self) -> str:
        """Such as ``pipeline_data pipe=2 data=4 model=1``."""
        parallel_overrides = [override_text for override_text in self.overrides if override_text.startswith("parallel")]
        return " ".join(override_text.removeprefix("parallel").lstrip(".=") for override_text in parallel_overrides)


@dataclass(frozen=True)
class SearchResult:
    """Every candidate that fits in memory, best first, and why the others were dropped."""

    name: str
    ranked: tuple[Candidate, ...]
    dropped: Mapping[str, int]
    """Number of dropped layouts, by reason."""


def search(
    experiment: Experiment,
    recompose: Callable[[list[str]], Experiment],
    show: Callable[[SearchResult], object] = lambda result: None,
) -> Experiment:
    """The experiment with `parallel=auto` replaced by the best layout; any other experiment is returned unchanged.

    Args:
        experiment: as composed.
        recompose: composes other overrides in the same way.
        show: receives the comparison.

    Raises:
        PlanError: the experiment cannot run in any layout, no layout is valid, or none fits in memory.
    """
    if not topology_rules.is_auto(experiment.config):
        return experiment
    if problems := find_problems(experiment.config):
        raise PlanError(problems, f"the plan for '{experiment.config['name']}'")
    result = compare(experiment)
    show(result)
    overrides = [
        override_text
        for override_text in experiment.overrides
        if not re.match(r"[+~]*parallel\b|[+~]*batch_size_per_device\b", override_text)
    ]
    return recompose([*overrides, *result.ranked[0].overrides])


@without_compiler
def compare(experiment: Experiment) -> SearchResult:
    """Estimate every layout.

    Raises:
        PlanError: no layout is valid, or none fits in memory.
    """
    return _LayoutComparison(experiment).run()


class _LayoutComparison:
    """One experiment on one hardware."""

    def __init__(self, experiment: Experiment) -> None:
        self.config = config = experiment.config
        self.hardware = config["hardware"]
        trust = trusted(experiment.trust)
        self.auto = instantiate(config["parallel"], "parallel", trust)
        with torch.device("meta"):
            self.components: Components = assemble(config, trust)
        self.machine, self.available = make_machine(self.hardware), USABLE_MEMORY * memory_bytes(self.hardware)
        self.on_cpu = resolve_device(self.hardware) == "cpu"
        known = options.groups(options.user_folders(experiment.config_dirs))["parallel"]
        self.nodes = {name: yaml.safe_load(path.read_text(encoding="utf-8")) for name, path in known.items()}
        self.counted: dict[int, tuple[ModelCount, ModelCount]] = {}
        self.counts: dict[tuple[int, int], ModelCount] = {}
        self.optimizer_problems: dict[str, list[str]] = {}
        self.dropped: Counter[str] = Counter()

    def run(self) -> SearchResult:
        fitting: list[Candidate] = []
        too_large: list[Candidate] = []
        layouts = self.auto.layouts(self.hardware["nodes"], self.hardware["devices_per_node"])
        for layout in layouts:
            cut = [candidate for size in self._sizes(layout) if (candidate := self._candidate(layout, size))]
            fits = [candidate for candidate in cut if candidate.memory_bytes <= self.available]
            if fits:
                fitting.append(_simplest_of_fastest(fits[::-1]))  # largest micro-batches first
            elif cut:
                too_large.append(min(cut, key=lambda candidate: candidate.memory_bytes))
        if too_large:
            nearest = min(too_large, key=lambda candidate: candidate.memory_bytes)
            at = f"{nearest.name} batch_size_per_device={nearest.layout.batch_size_per_device}"
            needs = f"{megabytes(nearest.memory_bytes)}, but {megabytes(self.available)} can be used"
            usable = f"{USABLE_MEMORY:.0%} of hardware.memory_gb"
            self.dropped[f"too large: the smallest, {at}, needs {needs} ({usable})"] = len(too_large)
        if not fitting:
            raise PlanError(
                [f"parallel=auto: none of {len(layouts)} layouts can run; {self._hint()}", *self.dropped],
                f"the plan for '{self.config['name']}'",
            )
        ranked = sorted(fitting, key=lambda candidate: candidate.cost.total_s)
        best = _simplest_of_fastest(fitting)  # the simplest come first
        ranked.remove(best)
        return SearchResult(self.config["name"], (best, *ranked), dict(self.dropped))

    def _hint(self) -> str:
        if not any(reason.startswith("too large") for reason in self.dropped):
            return "correct the problems below"
        hints = ["use more devices or a smaller model"]
        if self.config["model"].get("recompute") is False:
            hints.append("set model.recompute=true")
        if not self.auto.offload and not self.on_cpu:
            hints.append("set parallel.offload=true")
        return ", ".join(hints)

    def _sizes(self, layout: ParallelLayout) -> Iterable[int]:
        """Micro-batch sizes that divide a replica's batch evenly, or only the requested size."""
        if (requested := self.config["batch_size_per_device"]) is not None:
            return [requested]
        replica_batch_size = self.config["batch_size_global"] // layout.topology.data
        return [size for size in range(1, replica_batch_size + 1) if replica_batch_size % size == 0] or [1]

    def _candidate(self, layout: ParallelLayout, size: int) -> Candidate | None:
        """The candidate; None if the layout is not valid, after counting the reason."""
        topology = layout.topology
        overrides = (*self._overrides(layout), f"batch_size_per_device={size}")
        problem = self._problem(layout, overrides)
        if problem is not None:
            self._drop(layout, size, problem)
            return None
        replica_batch_size = self.config["batch_size_global"] // topology.data
        layout = replace(layout, batch_size_per_device=size, num_micro_batches=replica_batch_size // size)
        count = self._count(topology.model, size)
        model = self.components.setup.model
        bounds = find_stage_bounds(model, topology.pipe, "parameters") if topology.pipe > 1 else [0, len(count.layers)]
        memory = max(stage.total_bytes for stage in estimate_memory(count, bounds, layout, on_cpu=self.on_cpu))
        return Candidate(layout, overrides, memory, estimate_cost(count, bounds, layout, self.machine))

    def _problem(self, layout: ParallelLayout, overrides: Iterable[str]) -> str | None:
        """The first rule of a plan, or requirement of the model, that a layout violates."""
        config = _apply_overrides(self.config, overrides, self.nodes)
        for rule in (*topology_rules.RULES, *task_rules.RULES):
            try:
                result = rule(ConfigView(config, ()))
            except NotApplicable:
                continue
            if result:
                return result if isinstance(result, str) else result[0]
        settings = read_engine(config).settings
        problems = find_incompatibilities(self.components.setup.model, layout.topology, settings=settings)
        return next(iter([*problems, *self._find_optimizer_problems(layout)]), None)

    def _overrides(self, layout: ParallelLayout) -> tuple[str, ...]:
        """The overrides that give a layout."""
        option, meanings = _choose_option(layout)
        values = {**vars(layout.topology), "stage": layout.stage, "offload": layout.offload}
        if own := self.auto.options.get(layout.engine):
            option, meanings = own, ("stage", "offload", "pipe", "data", "model")
        if option not in self.nodes:
            rule = f"parallel.options.{layout.engine}={option} is no option of the group parallel"
            raise PlanError([f"{rule}; {did_you_mean(option, self.nodes)}"], f"the plan for '{self.config['name']}'")
        engine = read_engine({"parallel": self.nodes[option]})
        set_here = [meaning for meaning in meanings if isinstance(engine.settings.get(meaning), str)]
        overrides = [f"{engine.key(meaning)}={values[meaning]}" for meaning in set_here]
        if layout.engine == "single":
            overrides += [f"hardware.{key}=1" for key in ("nodes", "devices_per_node") if self.hardware[key] != 1]
        return (f"parallel={option}", *overrides)

    def _find_optimizer_problems(self, layout: ParallelLayout) -> list[str]:
        """Problems of the optimizer, which is tried once for each way of splitting the weights."""
        splits = find_splitting(layout.stage, layout.topology)
        if splits not in self.optimizer_problems:
            setup = self.components.setup
            names = [name for name, parameter in setup.model.named_parameters() if parameter.requires_grad]
            phases = [phase.name for phase in setup.get_task().phases()]
            self.optimizer_problems[splits] = find_optimizer_problems(
                setup.optimizer, names, splits, takes_closures=not splits, phases=phases
            )
        return self.optimizer_problems[splits]

    def _drop(self, layout: ParallelLayout, size: int, problem: str) -> None:
        """Count a layout once, by the first reason against it."""
        if size == min(self._sizes(layout)):
            self.dropped[problem] += 1

    def _count(self, num_slices: int, size: int) -> ModelCount:
        key = (num_slices, size)
        if key not in self.counts:
            if num_slices not in self.counted:
                small, large = (
                    count_micro_batch(self.config, self.components, self.config["name"], each, num_slices)
                    for each in COUNTED_SIZES
                )
                self.counted[num_slices] = small, large
            small, large = self.counted[num_slices]
            self.counts[key] = interpolate(small, COUNTED_SIZES[0], large, COUNTED_SIZES[1], size)
        return self.counts[key]


def _simplest_of_fastest(candidates: Sequence[Candidate]) -> Candidate:
    """The first candidate that is as fast as the fastest."""
    fastest = min(candidate.cost.total_s for candidate in candidates)
    return next(candidate for candidate in candidates if candidate.cost.total_s <= TIE_RATIO * fastest)


def _choose_option(layout: ParallelLayout) -> tuple[str, tuple[Meaning, ...]]:
    """The built-in option of a layout, and the settings by which it differs from the option."""
    topology = layout.topology
    if layout.engine == "single":
        return "single", ()
    if layout.engine == "data":
        return "data", ("data",)
    if layout.engine == "pipeline":
        name = "three_d" if topology.model > 1 else "pipeline_data" if topology.data > 1 else "pipeline"
        return name, ("pipe", "data", "model")
    if topology.model == 1:
        return f"zero{layout.stage}{'_offload' if layout.offload != 'none' else ''}", ("data",)
    if topology.data == 1:
        return "model", ("model",)
    return "model_data", ("stage", *(() if layout.offload == "none" else ("offload",)), "data", "model")


def _apply_overrides(config: Mapping[str, Any], overrides: Iterable[str], nodes: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with these overrides, as far as the rules of a topology need it."""
    changed = {**config, "hardware": dict(config["hardware"])}
    for override_text in overrides:
        key, _, value = override_text.partition("=")
        root, _, inner = key.partition(".")
        if key == "parallel":
            changed["parallel"] = dict(nodes[value])
        elif inner:
            changed[root][inner] = int(value) if value.isdecimal() else value
        else:
            changed[root] = int(value)
    return changed
