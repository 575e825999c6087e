"""Sequence-to-sequence models in several modes: batches of different lengths, and BLEU over replicas."""

from __future__ import annotations

from functools import partial
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from modules.data.base import END, IGNORED, Batch, Data, Pair
from modules.data.text.pair_split import PairSplit
from modules.evaluator.base import AnyEvaluator
from modules.evaluator.perplexity import Perplexity
from modules.model.seq2seq import Seq2Seq
from modules.model.seq2seq_attention import Seq2SeqAttention
from modules.model.seq2seq_transformer import Seq2SeqTransformer
from modules.objective.cross_entropy import CrossEntropy
from modules.parallel.base import EngineConfig, Rank, TrainingSetup
from modules.schedule.constant import Constant
from tests.support.batches import fetch
from tests.support.engines import MODES, Mode, TrainingResult
from tests.support.ranks import run_on_ranks

pytestmark = pytest.mark.slow

NUM_STEPS, BATCH_SIZE, NUM_ACCUMULATION, NUM_WORDS = 6, 8, 4, 9
NAMES = ("seq2seq", "seq2seq_attention", "seq2seq_transformer")


def make_model(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "seq2seq":
        return Seq2Seq(NUM_WORDS, NUM_WORDS, 6, 8, 2, True, 0.0)
    if name == "seq2seq_attention":
        return Seq2SeqAttention(NUM_WORDS, NUM_WORDS, 6, 8, 5, 7, 0.0)
    return Seq2SeqTransformer(NUM_WORDS, NUM_WORDS, 8, 2, 2, 12, True, 0.0)


def _make_texts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 7, (64,), generator=generator).tolist()
    return [torch.randint(4, NUM_WORDS, (length,), generator=generator).tolist() for length in lengths]


class ReversedNumbers:
    """Texts of numbers; the target is the reversed text."""

    def pair(self, number: int) -> Pair:
        text = _make_texts()[number]
        return Pair("test", number, " ".join(map(str, text)), (" ".join(map(str, reversed(text))),))

    def target_text(self, words: Tensor) -> str:
        return " ".join(str(word) for word in words.tolist() if word > END)


def make_batch(step: int, size: int = BATCH_SIZE, rows: slice = slice(None)) -> Batch:
    """Rows of the batch of a step, padded only to the longest of them, as a replica fetches them."""
    texts = _make_texts()
    split = PairSplit(texts, [list(reversed(text)) for text in texts], range(len(texts)))
    return fetch(split, ((torch.arange(size) + size * step) % len(texts))[rows])


def run(rank: Rank, mode: Mode, names: tuple[str, ...]) -> list[TrainingResult]:
    return [_run(rank, mode, name) for name in names]


def _run(rank: Rank, mode: Mode, name: str) -> TrainingResult:
    engine, topology = mode.engine(), mode.topology
    per_replica, accumulation = BATCH_SIZE // topology.data, NUM_ACCUMULATION // topology.data
    setup = TrainingSetup(
        make_model(name), CrossEntropy(), partial(AdamW, lr=1e-2), Constant(), example=partial(make_batch, 0)
    )
    engine_config = EngineConfig(
        NUM_STEPS, accumulation, 0.5, "fp32", False, "cpu", per_replica // accumulation, topology, rank
    )
    engine.prepare(setup, engine_config)
    coordinates = topology.coordinates(rank.number)
    own = slice(coordinates.data * per_replica, (coordinates.data + 1) * per_replica)
    losses, norms = [], []
    for step in range(NUM_STEPS):
        metrics = engine.train_step(make_batch(step, rows=own), step)
        losses.append(float(metrics["loss_nats"]))
        norms.append(float(metrics["grad_norm"]))
    numbers = range(coordinates.data, 4, topology.data)
    evaluation = engine.evaluate(
        [(make_batch(number, 5), True) for number in numbers], _make_evaluator(topology.pipe > 1)
    )
    return TrainingResult(losses, norms, evaluation, {key: tensor.numpy() for key, tensor in engine.weights().items()})


def _make_evaluator(is_cut: bool) -> AnyEvaluator:
    if is_cut:
        return Perplexity()
    from modules.evaluator.translation import Translation

    evaluator = Translation(2, 0.6, 7, "none", None, 0)
    evaluator.setup(cast(Data, ReversedNumbers()))
    return evaluator


@pytest.fixture(scope="module")
def expected() -> list[TrainingResult]:
    pytest.importorskip("sacrebleu", reason="sacrebleu is an extra: pip install 'lathe-dl[translate]'")
    return run_on_ranks(1, run, MODES["single"], NAMES)[0]


@pytest.mark.parametrize("mode", ["data", "zero2", "pipeline"])
def test_every_mode_gives_the_losses_of_one_process(mode: str, expected: list[TrainingResult]) -> None:
    results = run_on_ranks(2, run, MODES[mode], NAMES)[0]
    for name, own, other in zip(NAMES, results, expected, strict=True):
        assert own.losses == pytest.approx(other.losses, rel=1e-5), name
        assert own.norms == pytest.approx(other.norms, rel=1e-4), name
        assert own.weights.keys() == other.weights.keys()
        for key, weight in other.weights.items():
            np.testing.assert_allclose(own.weights[key], weight, rtol=1e-4, atol=1e-5, err_msg=f"{name} {key}")
        if mode != "pipeline":
            assert own.evaluation == pytest.approx(other.evaluation, rel=1e-5)
            assert set(own.evaluation) == {"loss_nats", "bleu"}
        else:
            assert own.evaluation["loss_nats"] == pytest.approx(other.evaluation["loss_nats"], rel=1e-5)


def test_the_reference_training_learns(expected: list[TrainingResult]) -> None:
    for name, outcome in zip(NAMES, expected, strict=True):
        assert outcome.losses[-1] < outcome.losses[0] - 0.05, name
    assert make_batch(0)[1][0].eq(IGNORED).any()
