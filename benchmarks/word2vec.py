"""Target: skip-gram with negative sampling at gensim's speed and quality, on one thread (``python -m benchmarks.word2vec``).

Both train experiment=word2vec's words as often, with its vectors, window, noise and thinning out, in turns of half an epoch of
one process; a ratio is the median over turns of words by CPU seconds. Then both answer the same questions, by the same code.
Learning rates are their own: gensim's default for its updates word by word, the experiment's for its steps over 32 stretches.

At last steps a second for a vocabulary of 155,000 words at 500 numbers, as the talk's: gradients have to be sparse for that.
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
NUM_EPOCHS, TURNS_AN_EPOCH = 5, 2
GENSIM_SENTENCE, GENSIM_ALPHA, GENSIM_MIN_ALPHA = (
    1000,
    0.025,
    0.0001,
)  # its own defaults, and for text without sentences
TALKS_WORDS, TALKS_SIZE, NUM_STEPS = 155_000, 500, 40


class Table(nn.Module):
    """Vectors of another's making, for the evaluator."""

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.vectors = vectors

    def word_vectors(self) -> Tensor:
        return self.vectors


class Ours:
    """The experiment's engine and batches."""

    def __init__(self, config: dict[str, Any], parts: Components, split: SkipGramSplit) -> None:
        self.parts, size = parts, config["batch_size_global"]
        num_steps = NUM_EPOCHS * (len(split) // size)
        engine_config = EngineConfig(
            num_steps, 1, None, "fp32", compile=False, device="cpu", batch_size_per_device=size
        )
        parts.engine.prepare(parts.task, engine_config)
        batches = training_batches(split, size, config["seed"], 0, num_steps, num_workers=0)
        self.stream, self.steps_a_turn = enumerate(batches), num_steps // (NUM_EPOCHS * TURNS_AN_EPOCH)
        self.words_a_turn: int = self.steps_a_turn * size * split.context_tokens

    def turn(self, number: int) -> int:
        """Train on half an epoch; its words."""
        for _, (step, batch) in zip(range(self.steps_a_turn), self.stream, strict=False):
            self.parts.engine.train_step(batch, step)["loss_nats"].item()
        return self.words_a_turn


class Gensims:
    """The same words in gensim."""

    def __init__(self, config: dict[str, Any], data: SkipGrams, split: SkipGramSplit) -> None:
        from gensim.models import Word2Vec

        words = data.words
        text = [words[number] for number in split.tokens.tolist()]
        sentences = [text[first : first + GENSIM_SENTENCE] for first in range(0, len(text), GENSIM_SENTENCE)]
        middle = len(sentences) // TURNS_AN_EPOCH
        self.parts = [sentences[:middle], sentences[middle:]]
        self.model = Word2Vec(
            vector_size=config["model"]["embedding_size"], window=data.window, sample=data.subsample_threshold, sg=1, hs=0,
            negative=config["objective"]["num_negatives_per_pair"], ns_exponent=data.negative_power, min_count=data.min_count,
            max_final_vocab=data.vocab_size, workers=1, seed=1,
        )  # fmt: skip
        self.model.build_vocab(sentences)
        self.words = words

    def turn(self, number: int) -> int:
        part, share = self.parts[number % TURNS_AN_EPOCH], 1 / (NUM_EPOCHS * TURNS_AN_EPOCH)
        alphas = [GENSIM_ALPHA + (GENSIM_MIN_ALPHA - GENSIM_ALPHA) * share * turn for turn in (number, number + 1)]
        self.model.train(part, total_examples=len(part), epochs=1, start_alpha=alphas[0], end_alpha=alphas[1])
        return sum(len(sentence) for sentence in part)

    def table(self) -> Table:
        known = self.model.wv.key_to_index
        rows = [self.model.wv[word] if word in known else [0.0] * self.model.vector_size for word in self.words]
        return Table(torch.tensor(np.array(rows)))


def words_a_second(turn: Callable[[int], int], number: int) -> float:
    begin = time.process_time()
    return turn(number) / (time.process_time() - begin)


def compare(size: int, overrides: Sequence[str]) -> float:
    """Print speed and quality of both at vectors of so many numbers; the ratio of speeds."""
    config = compose(["experiment=word2vec", "tracking=off", f"model.embedding_size={size}", *overrides]).config
    parts = assemble(config)
    data = parts.data
    assert isinstance(data, SkipGrams)
    split = data.load("train")
    ours, gensims = Ours(config, parts, split), Gensims(config, data, split)
    speeds = list[tuple[float, float]]()
    for number in range(NUM_EPOCHS * TURNS_AN_EPOCH):
        order = (ours, gensims) if number % 2 else (gensims, ours)
        found = {side: words_a_second(side.turn, number) for side in order}
        speeds.append((found[ours], found[gensims]))
    assert isinstance(parts.evaluator, ModelEvaluator)
    parts.evaluator.setup(data)
    for name, column, model in (("Lathe", 0, parts.task.model), ("gensim", 1, gensims.table())):
        known = parts.evaluator.compute_with_model(model, torch.zeros(1))
        told = " | ".join(f"{known[key]:.3f}" for key in ("wordsim353_spearman", "analogies_accuracy"))
        print(f"| {name}, {size} numbers | {median(pair[column] for pair in speeds):,.0f} | {told} |", flush=True)
    ratio = median(own / other for own, other in speeds)
    print(f"| ratio, {size} numbers | {ratio:.2f} (target >= {TARGET}) | | |", flush=True)
    return ratio


def large_vocabulary(overrides: Sequence[str]) -> str:
    """Steps over the talk's vocabulary, drawn by Zipf's law."""
    sizes = [f"data.vocab_size={TALKS_WORDS}", f"model.embedding_size={TALKS_SIZE}"]
    config = compose(["experiment=word2vec", "tracking=off", *sizes, *overrides]).config
    parts = assemble(config)
    data = parts.data
    assert isinstance(data, SkipGrams)
    split = made_up(data)
    ours = Ours(config, parts, split)
    ours.steps_a_turn = NUM_STEPS
    ours.turn(0)
    begin = time.process_time()
    ours.turn(1)
    steps_s = NUM_STEPS / (time.process_time() - begin)
    held = sum(tensor.numel() for tensor in parts.task.model.parameters()) * 4 * 2 / 1e9  # Adagrad's state as well
    words_s = steps_s * config["batch_size_global"] * data.context_tokens
    return f"{TALKS_WORDS:,} words, {TALKS_SIZE} numbers ({held:.1f} GB): {steps_s:.1f} steps/s, {words_s:,.0f} words/s"


def made_up(data: SkipGrams) -> SkipGramSplit:
    """A text of as many words as the talk's vocabulary has; a word's frequency falls with its number."""
    counts = (1e7 / torch.arange(1, TALKS_WORDS + 1)).long().clamp_min(data.min_count)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.multinomial(counts.double(), 4_000_000, replacement=True, generator=generator).int()
    vocabulary = Counted(counts)
    return SkipGramSplit(tokens, vocabulary, data, is_training=True)  # type: ignore[arg-type]  # its counts alone are asked for


class Counted:
    """How often every word is."""

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
