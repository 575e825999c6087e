"""A model with skip connections in every mode: stages pass the features on as tuples."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch.optim import AdamW

from modules.data.base import IGNORED, Batch
from modules.evaluator.segmentation import Segmentation
from modules.model.unet import UNet
from modules.objective.pixel_cross_entropy import PixelCrossEntropy
from modules.parallel.base import EngineConfig, Rank, TrainingSetup
from modules.parallel.cost_model.compatibility import find_incompatibilities
from modules.parallel.topology import Topology
from modules.schedule.constant import Constant
from tests.support.engines import MODES, Mode, TrainingResult
from tests.support.ranks import run_alone, run_on_ranks

NUM_STEPS, BATCH_SIZE, NUM_ACCUMULATION = 8, 8, 4


def make_model() -> UNet:
    torch.manual_seed(0)
    return UNet([3, 7, 10], num_classes=2, base_channels=4, num_levels=3, num_groups=2)


def make_batch(step: int, size: int = BATCH_SIZE, sides: tuple[int, int] = (7, 10)) -> Batch:
    """Images whose red channel shows the class, masks of two observers, and some ignored pixels."""
    generator = torch.Generator().manual_seed(100 + step)
    masks = torch.randint(2, (size, *sides), generator=generator)
    images = torch.randn(size, 3, *sides, generator=generator)
    images[:, 0] += masks
    masks[::2, :3] = IGNORED
    return images, (masks, masks.flip(0))


def run(rank: Rank, mode: Mode) -> TrainingResult:
    """Train on crops, and evaluate on images of another size."""
    engine, topology = mode.engine(), mode.topology
    setup = TrainingSetup(
        make_model(), PixelCrossEntropy([1.0, 2.0], dice_weight=0.5), partial(AdamW, lr=1e-2), Constant(),
        example=lambda size: make_batch(0, size),
    )  # fmt: skip
    per_replica = BATCH_SIZE // topology.data
    accumulation = NUM_ACCUMULATION // topology.data
    engine_config = EngineConfig(
        NUM_STEPS, accumulation, 0.5, "fp32", False, "cpu", per_replica // accumulation, topology, rank
    )
    engine.prepare(setup, engine_config)
    coordinates = topology.coordinates(rank.number)
    own = slice(coordinates.data * per_replica, (coordinates.data + 1) * per_replica)
    losses, norms = [], []
    for step in range(NUM_STEPS):
        images, masks = make_batch(step)
        metrics = engine.train_step((images[own], tuple(mask[own] for mask in masks)), step)
        losses.append(float(metrics["loss_nats"] + metrics["loss_dice"]))
        norms.append(float(metrics["grad_norm"]))
    batches = [(make_batch(900 + 2 * number + coordinates.data, 2, (9, 12)), True) for number in range(2)]
    if topology.data == 1:
        batches = [(make_batch(900 + number, 2, (9, 12)), True) for number in range(4)]
    evaluation = engine.evaluate(batches, Segmentation(2, background=0, num_pictures=0))
    return TrainingResult(
        losses, norms, evaluation, {name: tensor.numpy() for name, tensor in engine.weights().items()}
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data", "zero2", "zero3", "pipeline", "pipeline_3", "pipeline_data"])
def test_every_mode_gives_the_losses_of_one_process(name: str) -> None:
    expected = run_alone(run, MODES["single"])
    result = run_on_ranks(MODES[name].topology.world, run, MODES[name])[0]
    assert expected.losses[-1] < expected.losses[0] - 0.1
    assert result.losses == pytest.approx(expected.losses, rel=1e-5)
    assert result.norms == pytest.approx(expected.norms, rel=1e-4)
    assert result.evaluation == pytest.approx(expected.evaluation, rel=1e-5)
    assert "dice_second_observer" in result.evaluation
    assert result.weights.keys() == expected.weights.keys()
    for key, weight in expected.weights.items():
        np.testing.assert_allclose(result.weights[key], weight, rtol=1e-4, atol=1e-5, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("partition", [[0, 1], [0, 5], "time"])
def test_a_stage_can_start_at_any_layer(partition: list[int] | str) -> None:
    expected = run_alone(run, MODES["single"])
    result = run_on_ranks(2, run, Mode("pipeline", Topology(pipe=2), partition=partition))[0]
    assert result.losses == pytest.approx(expected.losses, rel=1e-5)


def test_model_parallelism_is_refused() -> None:
    (problem,) = find_incompatibilities(make_model(), Topology(model=2))
    assert "UNet has no shards() that lists them" in problem
