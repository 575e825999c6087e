"""The estimated memory of a rank, compared with the allocations of ranks that train."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW

from modules.objective.cross_entropy import CrossEntropy
from modules.parallel.base import TrainingSetup
from modules.parallel.cost_model.compatibility import find_stage_bounds
from modules.parallel.cost_model.layer_counts import ModelCount
from modules.parallel.cost_model.layout import ParallelLayout
from modules.parallel.cost_model.memory import StageMemory, estimate_memory
from modules.parallel.cost_model.model_profile import count_model
from modules.schedule.constant import Constant
from tests.support.allocations import make_batch, make_model, measure_allocations
from tests.support.engines import MODES, Mode, Task
from tests.support.ranks import run_on_ranks
from tests.support.variants import only_long

TOLERANCE = 0.15
BATCH_SIZES = {"mlp": 256}
OPTIMIZERS: dict[str, Any] = {"adamw": AdamW, "sgd": partial(SGD, lr=0.1)}


@cache
def count(model: str, optimizer: str, precision: str, num_slices: int) -> ModelCount:
    with torch.device("meta"):
        setup = TrainingSetup(make_model(model), CrossEntropy(), OPTIMIZERS[optimizer], Constant())
        return count_model(setup, make_batch(model, BATCH_SIZES.get(model, 8)), precision, num_slices)


def estimate(mode: Mode, model: str, optimizer: str, precision: str, num_micro_batches: int) -> list[StageMemory]:
    topology = mode.topology
    counts = count(model, optimizer, precision, topology.model)
    engine = "single" if mode.name == "single" else "data" if mode.name.startswith("data") else "zero"
    bounds = [0, len(counts.layers)]
    if topology.pipe > 1:
        with torch.device("meta"):
            engine, bounds = "pipeline", find_stage_bounds(make_model(model), topology.pipe, mode.partition)
    layout = ParallelLayout(
        engine,  # type: ignore[arg-type]
        topology,
        1 if engine == "pipeline" else mode.stage,
        mode.offload,  # type: ignore[arg-type]
        BATCH_SIZES.get(model, 8),
        num_micro_batches,
    )
    return estimate_memory(counts, bounds, layout, on_cpu=True)


CASES = [
    ("single", "gpt", "adamw", "fp32", 1),
    ("single", "gpt_recompute", "adamw", "fp32", 2),
    ("single", "mlp", "sgd", "fp32", 1),
    ("single", "gpt", "adamw", "bf16", 2),
    ("data", "gpt", "adamw", "fp32", 1),
    ("zero0", "gpt", "adamw", "fp32", 2),
    ("zero1", "gpt", "adamw", "fp32", 1),
    ("zero1", "mlp", "sgd", "fp32", 2),
    ("zero1", "gpt_recompute", "adamw", "bf16", 2),
    ("zero2", "gpt", "adamw", "fp32", 4),
    ("zero3", "gpt", "adamw", "fp32", 1),
    ("model", "gpt", "adamw", "fp32", 2),
    ("pipeline", "gpt", "adamw", "fp32", 4),
    ("pipeline", "gpt_recompute", "adamw", "fp32", 4),
    ("pipeline_data", "mlp", "adamw", "fp32", 2),
    ("three_d", "gpt", "adamw", "fp32", 4),
]
VARIANTS = [
    ("model_data", "mlp", "adamw", "fp32", 2),
    ("pipeline", "mlp", "adamw", "fp32", 4),
    ("pipeline", "gpt_tied", "adamw", "fp32", 2),
    ("zero3", "mlp", "adamw", "fp32", 2),
    ("data", "mlp", "adamw", "fp32", 4),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "model", "optimizer", "precision", "num_micro_batches"),
    [*CASES, *(pytest.param(*case, marks=only_long) for case in VARIANTS)],
    ids=["-".join(map(str, case)) for case in [*CASES, *VARIANTS]],
)
def test_the_estimated_memory_is_what_torch_allocates(
    mode: str, model: str, optimizer: str, precision: str, num_micro_batches: int
) -> None:
    topology = MODES[mode].topology
    task = Task(model, num_accumulation=num_micro_batches, precision=precision, optimizer=OPTIMIZERS[optimizer])
    allocations = run_on_ranks(topology.world, measure_allocations, MODES[mode], task, BATCH_SIZES.get(model, 8))
    stages = estimate(MODES[mode], model, optimizer, precision, num_micro_batches)
    ranks_of_stage = topology.world // topology.pipe
    for number, stage in enumerate(stages):
        # Ranks of a stage allocate the same; the profiler may miss some frees, so take the lowest peak.
        real = min(rank.peak_bytes for rank in allocations[number * ranks_of_stage : (number + 1) * ranks_of_stage])
        print(
            f"{mode} {model} {precision} stage {number}: {stage.total_bytes / real - 1:+.1%} of {real / 2**20:.1f} MiB"
        )
        assert stage.total_bytes == pytest.approx(real, rel=TOLERANCE), (number, real, stage)


def test_zero_partitions_more_with_every_stage() -> None:
    def estimate_gpt(mode: str) -> StageMemory:
        [stage] = estimate(MODES[mode], "gpt", "adamw", "fp32", 1)
        return stage

    zero0, zero1, zero2, zero3 = (estimate_gpt(f"zero{stage}") for stage in range(4))
    weights = zero0.weights_bytes
    assert zero0.optimizer_bytes == pytest.approx(2 * weights, rel=1e-3)
    assert zero1.optimizer_bytes == pytest.approx(1.5 * weights, rel=1e-3)  # half of two moments and of a copy
    assert (zero1.gradients_bytes, zero2.gradients_bytes) == (weights, weights // 2)
    assert (zero2.weights_bytes, zero3.weights_bytes) == (weights, weights // 2)


def test_the_first_stage_has_more_micro_batches_in_flight_than_the_last() -> None:
    few, many = (estimate(MODES["pipeline"], "gpt", "adamw", "fp32", number) for number in (1, 4))
    assert many[0].activations_bytes > 1.9 * few[0].activations_bytes
    assert many[1].activations_bytes < 1.2 * few[1].activations_bytes
    assert [(stage.first, stage.last) for stage in many] == [(0, 3), (3, 7)]


def test_gpu_memory_contains_neither_the_whole_batch_nor_offloaded_tensors() -> None:
    counts = count("gpt", "adamw", "fp32", 1)
    layout = ParallelLayout("zero", MODES["zero3"].topology, 3, "weights_and_optimizer", 8, 4)
    [on_gpu], [on_cpu] = (estimate_memory(counts, [0, 7], layout, on_cpu=on_cpu) for on_cpu in (False, True))
    assert (on_gpu.optimizer_bytes, on_gpu.gradients_bytes, on_gpu.weights_bytes) == (0, 0, 0)
    batch = counts.inputs_bytes + counts.targets_bytes
    assert on_cpu.activations_bytes - on_gpu.activations_bytes == 3 * batch
