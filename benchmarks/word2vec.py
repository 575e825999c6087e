"""Target: skip-gram with negative sampling at gensim's speed and quality, on one thread (``python -m benchmarks.word2vec``).

Both train on the text of experiment=word2vec for the same number of epochs, with its vector size, window, negative samples and
subsampling. They alternate every half epoch in one process, and the ratio is the median over turns of words per CPU second. The
same code then evaluates both. Each has its own learning rate: gensim's default for updates word by word, and that of the
experiment for steps over 32 segments.

Also prints the steps per second for a vocabulary of 155,000 words with 500 dimensions, which needs sparse gradients.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch and gensim's BLAS

import numpy as np
import torch
from torch import Tensor, nn

from experiments.components.assemble import Components, assemble
from experiments.config.compose import compose
from experiments.train.data_loading import training_batches
from modules.data.base import DataError
from modules.data.skip_grams import SkipGrams, SkipGramSplit
from modules.evaluator.base import ModelEvaluator
from modules.parallel.base import EngineConfig

TARGET = 1.0
SIZES = (100, 500)
NUM_EPOCHS, TURNS_PER_EPOCH = 5, 2
GENSIM_SENTENCE, GENSIM_ALPHA, GENSIM_MIN_ALPHA = (
    1000,
    0.025,
    0.0001,
)  # defaults of gensim for text without sentences
LARGE_VOCAB_SIZE, LARGE_EMBEDDING_SIZE, NUM_STEPS = 155_000, 500, 40


class Table(nn.Module):
    """Word vectors as a model for the evaluator."""

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.vectors = vectors

    def word_vectors(self) -> Tensor:
        return self.vectors


class Ours:
    """Training by the engine on the batches of the experiment."""

    def __init__(self, config: dict[str, Any], parts: Components, split: SkipGramSplit) -> None:
        self.parts, size = parts, config["batch_size_global"]
        num_steps = NUM_EPOCHS * (len(split) // size)
        engine_config = EngineConfig(
            num_steps, 1, None, "fp32", compile=False, device="cpu", batch_size_per_device=size
        )
        parts.engine.prepare(parts.setup, engine_config)
        batches = training_batches(split, size, config["seed"], 0, num_steps, num_workers=0)
        self.stream, self.steps_per_turn = enumerate(batches), num_steps // (NUM_EPOCHS * TURNS_PER_EPOCH)
        self.words_per_turn: int = self.steps_per_turn * size * split.context_tokens

    def turn(self, number: int) -> int:
        """Train for half an epoch; return its number of words."""
        for _, (step, batch) in zip(range(self.steps_per_turn), self.stream, strict=False):
            self.parts.engine.train_step(batch, step)["loss_nats"].item()
        return self.words_per_turn


class Gensim:
    """Training by gensim on the same text."""

    def __init__(self, config: dict[str, Any], data: SkipGrams, split: SkipGramSplit) -> None:
        from gensim.models import Word2Vec

        words = data.words
        text = [words[number] for number in split.tokens.tolist()]
        sentences = [text[first : first + GENSIM_SENTENCE] for first in range(0, len(text), GENSIM_SENTENCE)]
        middle = len(sentences) // TURNS_PER_EPOCH
        self.parts = [sentences[:middle], sentences[middle:]]
        self.model = Word2Vec(
            vector_size=config["model"]["embedding_size"], window=data.window, sample=data.subsample_threshold, sg=1, hs=0,
            negative=config["objective"]["num_negatives_per_pair"], ns_exponent=data.negative_power, min_count=data.min_count,
            max_final_vocab=data.vocab_size, workers=1, seed=1,
        )  # fmt: skip
        self.model.build_vocab(sentences)
        self.words = words

    def turn(self, number: int) -> int:
        part, fraction = self.parts[number % TURNS_PER_EPOCH], 1 / (NUM_EPOCHS * TURNS_PER_EPOCH)
        alphas = [GENSIM_ALPHA + (GENSIM_MIN_ALPHA - GENSIM_ALPHA) * fraction * turn for turn in (number, number + 1)]
        self.model.train(part, total_examples=len(part), epochs=1, start_alpha=alphas[0], end_alpha=alphas[1])
        return sum(len(sentence) for sentence in part)

    def table(self) -> Table:
        known = self.model.wv.key_to_index
        rows = [self.model.wv[word] if word in known else [0.0] * self.model.vector_size for word in self.words]
        return Table(torch.tensor(np.array(rows)))


def words_per_s(turn: Callable[[int], int], number: int) -> float:
    begin = time.process_time()
    return turn(number) / (time.process_time() - begin)


def compare(size: int, overrides: Sequence[str]) -> float:
    """Print speed and quality of both for an embedding size; return the ratio of the speeds."""
    config = compose(["experiment=word2vec", "tracking=off", f"model.embedding_size={size}", *overrides]).config
    parts = assemble(config)
    data = parts.data
    assert isinstance(data, SkipGrams)
    split = data.load("train")
    ours, gensim = Ours(config, parts, split), Gensim(config, data, split)
    speeds = list[tuple[float, float]]()
    for number in range(NUM_EPOCHS * TURNS_PER_EPOCH):
        order = (ours, gensim) if number % 2 else (gensim, ours)
        speed = {side: words_per_s(side.turn, number) for side in order}
        speeds.append((speed[ours], speed[gensim]))
    assert isinstance(parts.evaluator, ModelEvaluator)
    parts.evaluator.setup(data)
    for name, column, model in (("Lathe", 0, parts.setup.model), ("gensim", 1, gensim.table())):
        metrics = parts.evaluator.compute_with_model(model, torch.zeros(1))
        columns = " | ".join(f"{metrics[key]:.3f}" for key in ("wordsim353_spearman", "analogies_accuracy"))
        print(f"| {name}, {size} dimensions | {median(pair[column] for pair in speeds):,.0f} | {columns} |", flush=True)
    ratio = median(own / other for own, other in speeds)
    print(f"| ratio, {size} dimensions | {ratio:.2f} (target >= {TARGET}) | | |", flush=True)
    return ratio


def large_vocabulary(overrides: Sequence[str]) -> str:
    """Measure steps over a large vocabulary whose frequencies follow Zipf's law."""
    sizes = [f"data.vocab_size={LARGE_VOCAB_SIZE}", f"model.embedding_size={LARGE_EMBEDDING_SIZE}"]
    config = compose(["experiment=word2vec", "tracking=off", *sizes, *overrides]).config
    parts = assemble(config)
    data = parts.data
    assert isinstance(data, SkipGrams)
    split = make_large_split(data)
    ours = Ours(config, parts, split)
    ours.steps_per_turn = NUM_STEPS
    ours.turn(0)
    begin = time.process_time()
    ours.turn(1)
    steps_s = NUM_STEPS / (time.process_time() - begin)
    size_gb = (
        sum(tensor.numel() for tensor in parts.setup.model.parameters()) * 4 * 2 / 1e9
    )  # with the state of Adagrad
    words_s = steps_s * config["batch_size_global"] * data.context_tokens
    size = f"{LARGE_VOCAB_SIZE:,} words, {LARGE_EMBEDDING_SIZE} dimensions ({size_gb:.1f} GB)"
    return f"{size}: {steps_s:.1f} steps/s, {words_s:,.0f} words/s"


def make_large_split(data: SkipGrams) -> SkipGramSplit:
    """Return random text over the large vocabulary; the frequency of a word falls with its token id."""
    counts = (1e7 / torch.arange(1, LARGE_VOCAB_SIZE + 1)).long().clamp_min(data.min_count)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.multinomial(counts.double(), 4_000_000, replacement=True, generator=generator).int()
    vocabulary = WordCounts(counts)
    return SkipGramSplit(tokens, vocabulary, data, is_training=True)  # type: ignore[arg-type]


class WordCounts:
    """The part of a vocabulary that `SkipGramSplit` uses."""

    def __init__(self, counts: Tensor) -> None:
        self.counts = counts


def main(overrides: Sequence[str]) -> int:
    torch.set_num_threads(1)
    try:
        import gensim
    except ModuleNotFoundError:
        print("skipped: gensim is not installed; `pip install -e '.[bench]'` adds it")
        return 0
    print(f"| gensim {gensim.__version__}, one thread | words/s | WordSim-353 | analogies |\n|---|---|---|---|")
    try:
        worst = min(compare(size, overrides) for size in SIZES)
    except DataError as err:
        print(f"skipped: {err}")
        return 0
    print(large_vocabulary(overrides))
    return 0 if worst >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
