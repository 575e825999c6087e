"""A tiny version of every model in `conf/model`: one process, replicas, and stages if it has layers."""

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
CAPTIONS = [
    "data=ucm_captions", "data.photo_size=16", "data.image_shape=[3,16,16]", "data.num_features=768", "data.vocab_size=9",
    "data.max_tokens=5", "model.network.base_channels=4", "model.network.num_blocks=[1,1]", "model.last_layer=layer2",
    "model.dropout_prob=0",
]  # fmt: skip
SPEECH = ["data=fsdd_texts", "data.num_bands=5", "data.max_s=0.1", "data.num_words=[1,2]", "data.vocab_size=9"]
WORDS = ["data=shakespeare_char", "data.vocab_size=12", "data.context_tokens=7", "data.num_train=null"]


def use_images(size: int) -> list[str]:
    shape = [f"data.image_shape=[3,{size},{size}]", f"data.num_features={3 * size * size}"]
    sizes = [f"data.resize_size={size}", f"data.image_size={size}", "data.num_classes=10", "data.num_train=null"]
    return ["data=imagenet", *sizes, *shape]


TINY: dict[str, list[str]] = {
    "softmax": [],
    "mlp": ["model.hidden_sizes=[8,6]"],
    "lenet": ["model.conv_channels=[2,3]", "model.hidden_size=8", "model.dropout_prob=0"],
    "cifar_cnn": ["model.dense_sizes=[8,6]"],
    "alexnet": [
        "model.conv_channels=[4,6,8,4,2]", "model.stem_size=3", "model.stem_stride=1", "model.stem_padding=1",
        "model.dense_size=8", "model.dropout_prob=0", "model.init_std=null", *use_images(16),
    ],
    "inception_v1": [*SMALL_STEM, "model.stem_size=3", "model.aux_dropout_prob=0"],
    "bn_inception": [*SMALL_STEM, "model.stem_size=3"],
    "inception_v3": [*SMALL_STEM, *use_images(20)],
    "resnet18": ["model.stem_size=3", "model.stem_stride=1", "model.num_blocks=[1,1]", "model.base_channels=4"],
    "vit_tiny": ["model.patch_size=4", "model.num_layers=2", "model.hidden_size=12", "model.ff_size=8"],
    "unet": [
        "data=retina_chase", "objective=pixel_cross_entropy", "data.turn=false",
        "data.image_shape=[3,8,12]", "data.num_features=288",
        "model.base_channels=4", "model.num_levels=2", "model.num_groups=2",
    ],
    "deep_lstm": [*WORDS, "model.hidden_size=8"],
    "gpt_nano": [*WORDS, "model.hidden_size=16", "model.ff_size=24"],
    "autoencoder": ["task=denoising", "task.masking_prob=0.3", "model.hidden_sizes=[8]", "model.code_size=3"],
    "variational_autoencoder": ["task=variational", "model.hidden_sizes=[8]", "model.code_size=3"],
    "document_scorer": [
        "data=lambdarank", "data.num_features=5", "data.max_documents=4", "objective=ranking", "model.hidden_sizes=[6]",
    ],
    "gaussian_mixtures": [
        "data=fsdd", "objective=likelihood", "data.num_bands=5", "data.clip_s=0.05", "data.image_shape=[1,5,6]",
        "data.num_features=30", "model.num_gaussians=2", "model.num_cepstra=2",
    ],
    "frame_lstm": [
        *SPEECH, "objective=ctc", "model.hidden_size=4", "model.num_joined=2", "model.dropout_prob=0",
    ],
    "listen_attend_spell": [
        *SPEECH, "objective=token_cross_entropy", "model.encoder_size=4", "model.num_layers=2", "model.embedding_size=3",
        "model.attention_size=5", "model.readout_size=6", "model.dropout_prob=0",
    ],
    "query_matcher": [
        "data=cranfield", "data.num_candidates=4", "data.vector_size=5", "data.vocab_size=5", "objective=ranking",
        "model.hidden_size=3", "model.dropout_prob=0",
    ],
    "recurrent": [
        "data=copying", "data.num_pause_steps=1", "data.num_symbols=2", "data.num_classes=3", "data.num_features=5",
        "model.num_outputs=3", "model.num_output_steps=2", "model.hidden_size=4",
    ],
    "pointer_network": ["data=convex_hulls", "data.num_points=5", "model.hidden_size=6"],
    "captioner": [*CAPTIONS, "model.embedding_size=4", "model.hidden_size=6"],
    "attention_captioner": [
        *CAPTIONS, "model.embedding_size=4", "model.hidden_size=6", "model.attention_size=5", "model.readout_size=4",
    ],
    "frame_predictor": [
        "data=moving_digits", "data.image_size=3", "data.frame_size=8", "data.num_seen_frames=2", "data.num_predicted_frames=3",
        "objective=binary_cross_entropy", "model.frame_channels=2", "model.state_channels=3",
    ],
    "clip_describer": [
        "data=described_digits", "data.image_size=3", "data.frame_size=8", "data.num_seen_frames=2", "model.frame_channels=2",
        "model.hidden_size=6",
    ],
    "skip_gram": [
        "data=text8", "objective=negative_sampling", "data.vocab_size=12", "data.context_tokens=9", "data.window=2",
        "data.num_negatives=3", "model.embedding_size=6",
    ],
    "crnn": [
        "data=pictured_texts", "objective=ctc", "data.height=8", "data.font_sizes=[8]", "data.max_width=24",
        "data.max_characters=3", "data.num_characters=8", "model.num_filters=[2,2,3,3]", "model.hidden_size=4",
    ],
    "seq2seq": [*TWO_TEXTS, "model.embedding_size=6", "model.hidden_size=8", "model.dropout_prob=0"],
    "seq2seq_attention": [
        *TWO_TEXTS, "model.embedding_size=6", "model.hidden_size=8", "model.attention_size=5", "model.readout_size=7",
        "model.dropout_prob=0",
    ],
    "seq2seq_transformer": [*TWO_TEXTS, "model.hidden_size=8", "model.ff_size=12", "model.dropout_prob=0"],
}  # fmt: skip
"""Overrides that make each option tiny. One option per class is enough."""
OF_EXTRAS = {"modules.model.pretrained.hugging_face.HuggingFace"}
"""Models around those of a library that is an extra."""
BATCH_SIZE, NUM_ACCUMULATION, NUM_STEPS = 8, 2, 3


def find_classes(options: list[str]) -> set[str]:
    return {yaml.safe_load(OPTIONS[option].read_text())["_target_"] for option in options}


def test_tiny_has_an_entry_for_every_model_class() -> None:
    missing = find_classes(list(OPTIONS)) - find_classes(list(TINY)) - OF_EXTRAS
    assert not missing, f"add an entry to TINY for {sorted(missing)}"


def fill(zeros: Tensors, limit: int, generator: torch.Generator) -> Tensors:
    """Random tensors with the shapes and dtypes of an example; integers are below ``limit``."""
    if not isinstance(zeros, Tensor):  # one number for each example, as a length, stays
        filled = (each if each.dim() == 1 else fill(each, limit, generator) for each in zeros)
        return tuple(tensor for tensor in filled if isinstance(tensor, Tensor))
    if zeros.dtype == torch.bool:
        return torch.rand(zeros.shape, generator=generator) < 0.6
    if zeros.is_floating_point():
        return torch.randn(zeros.shape, generator=generator)
    return torch.randint(limit, zeros.shape, generator=generator)


def take_slice(tensors: Tensors, own: slice) -> Tensors:
    return tensors[own] if isinstance(tensors, Tensor) else tuple(tensor[own] for tensor in tensors)


def train_models(rank: Rank, configs: dict[str, dict[str, Any]], mode: str) -> dict[str, list[float]]:
    """Losses of a few steps, for each model that the mode can train."""
    losses = {}
    for option, config in configs.items():
        torch.manual_seed(0)
        components, topology = assemble(config), MODES[mode].topology
        if topology.pipe > 1 and find_incompatibilities(components.setup.model, topology, "parameters"):
            continue
        components.setup.optimizer = functools.partial(SGD, lr=0.01)
        components.engine = MODES[mode].engine()
        data = config["data"]
        limit = next((data[key] for key in ("num_classes", "vocab_size", "target_vocab_size") if data.get(key)), 5)
        batches = [make_batch(components.data.example(BATCH_SIZE), limit, step) for step in range(NUM_STEPS)]
        engine_config = EngineConfig(
            NUM_STEPS, NUM_ACCUMULATION // topology.data, None, "fp32", False, "cpu", BATCH_SIZE // NUM_ACCUMULATION,
            topology=topology, rank=rank,
        )  # fmt: skip
        components.engine.prepare(components.setup, engine_config)
        per_replica, replica = BATCH_SIZE // topology.data, topology.coordinates(rank.number).data
        own = slice(replica * per_replica, (replica + 1) * per_replica)
        metrics = [
            components.engine.train_step((take_slice(inputs, own), take_slice(targets, own)), step)
            for step, (inputs, targets) in enumerate(batches)
        ]
        losses[option] = [
            float(next(value for name, value in each.items() if name == "mse" or name.startswith("loss_")))
            for each in metrics
        ]
    return losses


def make_batch(example: Batch, limit: int, step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    return fill(example[0], limit, generator), fill(example[1], limit, generator)


@functools.cache
def train_all(mode: str) -> dict[str, list[float]]:
    """Train all models in the same processes, because the start of a process takes longer than a training."""
    configs = {option: compose([f"model={option}", *overrides]).config for option, overrides in TINY.items()}
    return run_on_ranks(MODES[mode].topology.world, train_models, configs, mode)[0]


@pytest.mark.parametrize("option", TINY)
def test_replicas_and_stages_give_the_losses_of_one_process(option: str) -> None:
    expected = train_all("single")[option]
    assert len(set(expected)) == NUM_STEPS, "the examples differ in every step"
    assert train_all("data")[option] == pytest.approx(expected, rel=1e-5)
    if option in train_all("pipeline"):
        assert train_all("pipeline")[option] == pytest.approx(expected, rel=1e-5)


def test_all_models_with_several_layers_train_in_stages() -> None:
    assert set(TINY) - set(train_all("pipeline")) == {
        "softmax", "skip_gram", "autoencoder", "variational_autoencoder", "gaussian_mixtures", "query_matcher",
    }  # fmt: skip
