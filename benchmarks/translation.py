"""Budget: a step of translation costs at most 1.02 times that of a bare torch loop (``python -m benchmarks.translation``).

Both train the same `Seq2SeqAttention` on the same batches of synthetic sentences, which `PairSplit` groups by length. Lathe uses
its engine and journal, and blocks alternate as in `benchmarks.step_overhead`. With a number of steps, such as
``python -m benchmarks.translation 600``, it also compares the BLEU of a plain recipe on Tatoeba's short sentences (the same model
and number of steps, torch's cross entropy over all words, random batches) with that of Lathe with the mean over texts and over
tokens, and with the latter for as many CPU seconds as the plain recipe took.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

os.environ["OMP_NUM_THREADS"] = "1"  # before torch, as in `benchmarks.step_overhead`

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Adam, Optimizer

from benchmarks.step_overhead import BUDGET, NUM_STEPS, Clock, Loop, cpu_ratio, show, take_turns
from experiments.components.instantiate import instantiate
from experiments.config.compose import compose
from experiments.run.journal import Journal
from experiments.train.data_loading import EvaluationLoader, training_batches
from experiments.train.determinism import seed_step
from modules.data.base import IGNORED, Batch
from modules.data.text.pair_split import PairSplit
from modules.evaluator.translation import Translation
from modules.model.seq2seq_attention import Seq2SeqAttention
from modules.objective.cross_entropy import CrossEntropy
from modules.parallel.base import EngineConfig, TrainingSetup
from modules.parallel.single import Single
from modules.parallel.topology import RankCoordinates
from modules.schedule.constant import Constant

BATCH_SIZE, NUM_PAIRS, VOCAB_SIZE, CLIP = 32, 32 * 60, 2000, 1.0
make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = partial(Adam, lr=4e-3)


def make_model(vocab_sizes: tuple[int, int] = (VOCAB_SIZE, VOCAB_SIZE)) -> Seq2SeqAttention:
    torch.manual_seed(0)
    return Seq2SeqAttention(*vocab_sizes, 128, 256, 128, 128, dropout_prob=0.1)


def sentences() -> PairSplit:
    generator = Generator().manual_seed(0)
    lengths = torch.randint(4, 16, (2, NUM_PAIRS), generator=generator).tolist()
    sides = [[torch.randint(4, VOCAB_SIZE, (n,), generator=generator).tolist() for n in side] for side in lengths]
    return PairSplit(sides[0], sides[1], range(NUM_PAIRS))


def stream(split: PairSplit, batch_size: int = BATCH_SIZE) -> Iterator[Batch]:
    return training_batches(split, batch_size, seed=0, first_step=0, num_steps=NUM_STEPS, num_workers=0)


def bare() -> Loop:
    """Return a plain torch loop on the batches of Lathe."""
    model, losses, batches = make_model(), list[float](), stream(sentences())
    optimizer = make_optimizer(model.parameters())

    def train(num_steps: int) -> None:
        for _ in range(num_steps):
            inputs, targets = next(batches)
            assert isinstance(inputs, tuple)
            optimizer.zero_grad()
            loss = _word_mean(model((inputs[0], inputs[1])), targets[0])
            loss.backward()  # type: ignore[no-untyped-call]
            clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            losses.append(loss.item())

    return train


def ours(folder: Path) -> Loop:
    engine, journal = Single(), Journal(folder / "journal.jsonl")
    engine.prepare(TrainingSetup(make_model(), CrossEntropy(), make_optimizer, Constant()), _make_engine_config())
    batches = enumerate(stream(sentences()))

    def train(num_steps: int) -> None:
        for _ in range(num_steps):
            step, batch = next(batches)
            seed_step(0, step, RankCoordinates(0, 0, 0))
            metrics = engine.train_step(batch, step)
            journal.metrics(step + 1, {f"train/{name}": value.item() for name, value in metrics.items()})

    return train


def side_by_side(num_steps: int) -> None:
    """Train both on Tatoeba for a number of steps, then Lathe for the same time; print CPU time and BLEU."""
    config = compose(["experiment=seq2seq_tatoeba"]).config
    data = instantiate(config["data"], "data")
    train, test = data.load("train"), data.load("test")
    evaluator = Translation(4, 0.6, 20, "none", None, 0)
    evaluator.setup(data)
    as_long_s = math.inf
    by_text, by_token = (partial(_our_steps, mean_over=over) for over in ("examples", "tokens"))
    for name, steps in (
        ("plain recipe", _plain_steps), ("ours, by text", by_text), ("ours, by token", by_token),
        ("by token, same time", by_token),
    ):  # fmt: skip
        model = make_model((data.source_vocab_size, data.target_vocab_size))
        start, done, is_timed = time.process_time(), 0, name.endswith("same time")
        for done, _ in enumerate(steps(model, train), 1):
            if time.process_time() - start > as_long_s if is_timed else done == num_steps:
                break
        cpu_s = time.process_time() - start
        as_long_s = cpu_s if name == "plain recipe" else as_long_s
        with torch.inference_mode():
            batches = EvaluationLoader(test, 100, num_workers=0)
            sums = sum((evaluator.update_with_model(model.eval(), batch) for batch, _ in batches), torch.zeros(()))
        bleu = evaluator.compute_with_model(model, sums)["bleu"]
        print(
            f"tatoeba, {name:<20}{done} steps of {BATCH_SIZE}  {cpu_s:6.0f} CPU s  test BLEU {bleu:5.2f}",
            flush=True,
        )


def _our_steps(model: nn.Module, train: PairSplit, mean_over: Literal["examples", "tokens"]) -> Iterator[object]:
    engine = Single()
    engine.prepare(
        TrainingSetup(model, CrossEntropy(mean_over=mean_over), make_optimizer, Constant()), _make_engine_config()
    )
    for step, batch in enumerate(stream(train)):
        yield engine.train_step(batch, step)


def _plain_steps(model: nn.Module, train: PairSplit) -> Iterator[object]:
    optimizer = make_optimizer(model.parameters())
    for indices in _random_batches(len(train)):
        inputs, targets = train.batch(indices, indices)
        optimizer.zero_grad()
        _word_mean(model(inputs), targets[0]).backward()  # type: ignore[no-untyped-call]
        clip_grad_norm_(model.parameters(), CLIP)
        yield optimizer.step()


def _random_batches(num_pairs: int) -> Iterator[Tensor]:
    generator = Generator().manual_seed(0)
    while True:
        yield torch.randint(num_pairs, (BATCH_SIZE,), generator=generator)


def _word_mean(logits: Tensor, words: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 1), words.flatten(), ignore_index=IGNORED)


def _make_engine_config() -> EngineConfig:
    return EngineConfig(
        NUM_STEPS, num_accumulation=1, grad_clip_norm=CLIP, precision="fp32", compile=False, device="cpu",
        batch_size_per_device=BATCH_SIZE,
    )  # fmt: skip


def main(arguments: list[str]) -> int:
    torch.set_num_threads(1)
    times: list[list[Clock]] = [[], [], []]
    with tempfile.TemporaryDirectory() as name:
        for build_number in range(3):  # the address of a model in memory changes its speed by a percent
            makers: list[Callable[[], Loop]] = [partial(ours, Path(name) / str(build_number)), bare, bare]
            order = [(build_number + first) % 3 for first in range(3)]
            loops = {number: makers[number]() for number in order}
            for number, clocks in zip(order, take_turns(list(loops.values()), 15, 2), strict=True):
                times[number] += clocks
    own, peer, control = times
    is_met = cpu_ratio(own, peer) <= BUDGET
    show("seq2seq_attention", own, peer, f"budget {BUDGET}x: {'met' if is_met else 'MISSED'}")
    show("  bare loop twice", control, peer, "the noise")
    for argument in arguments:
        side_by_side(int(argument))
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
