"""Every model of `conf/model`, as small as it comes, in one process, over replicas and, where it has layers, over stages."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.optim import SGD

from experiments.components.assemble import assemble
from experiments.config.compose import compose
from experiments.config.options import groups
from modules.data.base import Batch, Tensors
from modules.parallel.base import EngineConfig, Rank
from modules.parallel.cost_model.compatibility import find_incompatibilities
from tests.support.engines import MODES
from tests.support.ranks import run_on_ranks

pytestmark = pytest.mark.slow

OPTIONS = groups()["model"]
TWO_TEXTS = [
    "data=multi30k", "data.source_vocab_size=9", "data.target_vocab_size=9", "data.max_source_tokens=4",
    "data.max_target_tokens=5",
]  # fmt: skip
SMALL_STEM = ["model.stem_stride=1", "model.stem_pools=0", "model.width=0.01", "model.dropout_prob=0"]
WORDS = ["data=shakespeare_char", "data.vocab_size=12", "data.context_tokens=7", "data.num_train=null"]


def photos(size: int) -> list[str]:
    shape = [f"data.image_shape=[3,{size},{size}]", f"data.num_features={3 * size * size}"]
    return ["data=image_folder", f"data.resize_size={size}", f"data.image_size={size}", *shape]


TINY: dict[str, list[str]] = {
    "softmax": [],
    "mlp": ["model.hidden_sizes=[8,6]"],
    "lenet": ["model.conv_channels=[2,3]", "model.hidden_size=8", "model.dropout_prob=0"],
    "cifar_cnn": ["model.dense_sizes=[8,6]"],
    "alexnet": [
        "model.conv_channels=[4,6,8,4,2]", "model.stem_size=3", "model.stem_stride=1", "model.stem_padding=1",
        "model.dense_size=8", "model.dropout_prob=0", "model.init_std=null", *photos(16),
    ],
    "inception_v1": [*SMALL_STEM, "model.stem_size=3", "model.aux_dropout_prob=0"],
    "bn_inception": [*SMALL_STEM, "model.stem_size=3"],
    "inception_v3": [*SMALL_STEM, *photos(20)],
    "unet": [
        "data=retina_chase", "objective=pixel_cross_entropy", "data.turn=false",
        "data.image_shape=[3,8,12]", "data.num_features=288",
        "model.base_channels=4", "model.num_levels=2", "model.num_groups=2",
    ],
    "deep_lstm": [*WORDS, "model.hidden_size=8"],
    "gpt_nano": [*WORDS, "model.hidden_size=16", "model.ff_size=24"],
    "skip_gram": [
        "data=text8", "objective=negative_sampling", "data.vocab_size=12", "data.context_tokens=9", "data.window=2",
        "data.num_negatives=3", "model.embedding_size=6",
    ],
    "seq2seq": [*TWO_TEXTS, "model.embedding_size=6", "model.hidden_size=8", "model.dropout_prob=0"],
    "seq2seq_attention": [
        *TWO_TEXTS, "model.embedding_size=6", "model.hidden_size=8", "model.attention_size=5", "model.readout_size=7",
        "model.dropout_prob=0",
    ],
    "seq2seq_transformer": [*TWO_TEXTS, "model.hidden_size=8", "model.ff_size=12", "model.dropout_prob=0"],
}  # fmt: skip
"""By option: what makes it tiny. Presets of a class, such as the larger gpt, need no entry of their own."""
BATCH_SIZE, NUM_ACCUMULATION, NUM_STEPS = 8, 2, 3


def classes(options: list[str]) -> set[str]:
    return {yaml.safe_load(OPTIONS[option].read_text())["_target_"] for option in options}


def test_every_class_of_a_model_is_among_the_tiny_ones() -> None:
    missing = classes(list(OPTIONS)) - classes(list(TINY))
    assert not missing, f"TINY wants an entry for {sorted(missing)}"


def filled(zeros: Tensors, most: int, generator: torch.Generator) -> Tensors:
    """Chance in the shapes and dtypes of an example, whole numbers below ``most``."""
    if not isinstance(zeros, Tensor):
        return tuple(tensor for each in zeros if isinstance(tensor := filled(each, most, generator), Tensor))
    if zeros.dtype == torch.bool:
        return torch.rand(zeros.shape, generator=generator) < 0.6
    if zeros.is_floating_point():
        return torch.randn(zeros.shape, generator=generator)
    return torch.randint(most, zeros.shape, generator=generator)


def part_of(tensors: Tensors, own: slice) -> Tensors:
    return tensors[own] if isinstance(tensors, Tensor) else tuple(tensor[own] for tensor in tensors)


def losses(rank: Rank, configs: dict[str, dict[str, Any]], mode: str) -> dict[str, list[float]]:
    """Of a few steps of every model that the mode can train."""
    found = {}
    for option, config in configs.items():
        torch.manual_seed(0)
        parts, topology = assemble(config), MODES[mode].topology
        if topology.pipe > 1 and find_incompatibilities(parts.task.model, topology, "parameters"):
            continue
        parts.task.optimizer = functools.partial(SGD, lr=0.01)
        parts.engine = MODES[mode].engine()
        data = config["data"]
        most = next(data[key] for key in ("num_classes", "vocab_size", "target_vocab_size") if data.get(key))
        batches = [batch_of(parts.data.example(BATCH_SIZE), most, step) for step in range(NUM_STEPS)]
        engine_config = EngineConfig(
            NUM_STEPS, NUM_ACCUMULATION // topology.data, None, "fp32", False, "cpu", BATCH_SIZE // NUM_ACCUMULATION,
            topology=topology, rank=rank,
        )  # fmt: skip
        parts.engine.prepare(parts.task, engine_config)
        share, place = BATCH_SIZE // topology.data, topology.coordinates(rank.number).data
        own = slice(place * share, (place + 1) * share)
        found[option] = [
            float(parts.engine.train_step((part_of(inputs, own), part_of(targets, own)), step)["loss_nats"])
            for step, (inputs, targets) in enumerate(batches)
        ]
    return found


def batch_of(example: Batch, most: int, step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    return filled(example[0], most, generator), filled(example[1], most, generator)


@functools.cache
def every(mode: str) -> dict[str, list[float]]:
    """All models one after the other in the same processes, whose start takes longer."""
    configs = {option: compose([f"model={option}", *words]).config for option, words in TINY.items()}
    return run_on_ranks(MODES[mode].topology.world, losses, configs, mode)[0]


@pytest.mark.parametrize("option", TINY)
def test_replicas_and_stages_give_the_losses_of_one_process(option: str) -> None:
    expected = every("single")[option]
    assert len(set(expected)) == NUM_STEPS, "it was given other examples every step"
    assert every("data")[option] == pytest.approx(expected, rel=1e-5)
    if option in every("pipeline"):
        assert every("pipeline")[option] == pytest.approx(expected, rel=1e-5)


def test_all_models_but_those_of_one_layer_train_in_stages() -> None:
    assert set(TINY) - set(every("pipeline")) == {"softmax", "skip_gram"}
