"""Budget: a training step costs at most 1.02 times that of a hand-written torch loop (``python -m benchmarks.step_overhead``).

Ours is what a run does: batches by step, the engine's step, and its metrics in the journal. Short blocks of both loops
take turns in one process, so that whatever else the machine does meets both alike; the ratio is the median over pairs.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: one thread is what can be compared on a shared machine

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from experiments.batches import training_batches
from experiments.journal import Journal
from modules.data.tensors import TensorSplit
from modules.model.lenet import LeNet
from modules.objective.cross_entropy import CrossEntropy
from modules.parallel.base import Learner, Recipe
from modules.parallel.single import Single
from modules.schedule.constant import Constant

BUDGET = 1.02
BATCH_SIZE = 64
NUM_EXAMPLES = 64 * 50
NUM_STEPS = 1_000_000  # longer than any run of this file
WARMUP_BLOCKS = 3

Loop = Callable[[int], None]  # trains for so many steps
Make = Callable[[], nn.Module]
make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = partial(SGD, lr=0.01, momentum=0.9)


def lenet() -> nn.Module:
    torch.manual_seed(0)
    return LeNet([1, 28, 28], num_classes=10, conv_channels=[32, 64], hidden_size=1024, dropout_prob=0.5)


def tiny() -> nn.Module:
    """Next to no arithmetic: what is left is the cost of the loop itself."""
    torch.manual_seed(0)
    return nn.Sequential(nn.AvgPool2d(14), nn.Flatten(), nn.Linear(4, 10))


def examples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(NUM_EXAMPLES, 1, 28, 28, generator=generator)
    return inputs, torch.randint(10, (NUM_EXAMPLES,), generator=generator)


def hand_written(make: Make) -> Loop:
    """What one would write: shuffle, slice, step, and keep the loss."""
    inputs, targets = examples()
    model, losses = make(), list[float]()
    optimizer = make_optimizer(model.parameters())

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            for indices in torch.randperm(NUM_EXAMPLES).split(BATCH_SIZE):
                yield inputs[indices], targets[indices]

    stream = batches()

    def train(num_steps: int) -> None:
        for _ in range(num_steps):
            images, labels = next(stream)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())

    return train


def ours(make: Make, folder: Path) -> Loop:
    engine, journal = Single(), Journal(folder / "journal.jsonl")
    recipe = Recipe(NUM_STEPS, num_accumulation=1, grad_clip_norm=None, precision="fp32", compile=False, device="cpu")
    engine.prepare(Learner(make(), CrossEntropy(), make_optimizer, Constant()), recipe)
    split = TensorSplit(*examples())
    stream = enumerate(training_batches(split, BATCH_SIZE, seed=0, first_step=0, num_steps=NUM_STEPS, num_workers=0))

    def train(num_steps: int) -> None:
        for _ in range(num_steps):
            step, batch = next(stream)
            metrics = engine.train_step(batch, step)
            journal.metrics(step + 1, {f"train/{name}": value.item() for name, value in metrics.items()})

    return train


def timed(loop: Loop, num_steps: int) -> float:
    start = time.perf_counter()
    loop(num_steps)
    return (time.perf_counter() - start) / num_steps


def compare(loop: Loop, peer: Loop, num_pairs: int, steps_per_block: int) -> tuple[float, float, float]:
    """Run both in turn, each first in every other pair.

    Returns:
        The median of the pairs' ratios, and the median seconds of a step of either.
    """
    for _ in range(WARMUP_BLOCKS):
        loop(steps_per_block)
        peer(steps_per_block)
    times = []
    for pair in range(num_pairs):
        if pair % 2:
            own, other = timed(loop, steps_per_block), timed(peer, steps_per_block)
        else:
            other, own = timed(peer, steps_per_block), timed(loop, steps_per_block)
        times.append((own, other))
    return (
        median(own / other for own, other in times),
        median(own for own, _ in times),
        median(peer for _, peer in times),
    )


def compare_lightning(make: Make, folder: Path, num_pairs: int, steps_per_block: int) -> tuple[float, float, float]:
    """The same for Lightning's trainer with its CSV log; the hand-written blocks run inside its callback."""
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.loggers import CSVLogger

    class Model(LightningModule):  # type: ignore[misc,unused-ignore]  # untyped where it is not installed
        def __init__(self) -> None:
            super().__init__()
            self.net = make()

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            self.log("train/loss_nats", loss)
            return loss

        def configure_optimizers(self) -> Optimizer:
            return make_optimizer(self.parameters())

    peer, times = hand_written(make), list[tuple[float, float]]()

    class Turns(Callback):  # type: ignore[misc,unused-ignore]
        start = 0.0

        def on_train_batch_start(
            self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
        ) -> None:
            if trainer.global_step % steps_per_block == 0:
                own = (time.perf_counter() - self.start) / steps_per_block
                times.append((own, timed(peer, steps_per_block)))
                self.start = time.perf_counter()

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")  # it advises workers for the loader, which would be another comparison
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*examples()), BATCH_SIZE, shuffle=True)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=(WARMUP_BLOCKS + num_pairs) * steps_per_block + 1,
        logger=CSVLogger(folder),
        log_every_n_steps=1,
        callbacks=[Turns()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Model(), loader)
    kept = times[-num_pairs:]
    return median(own / other for own, other in kept), median(own for own, _ in kept), median(peer for _, peer in kept)


def show(name: str, found: tuple[float, float, float], verdict: str) -> None:
    ratio, own, peer = found
    print(
        f"{name:<22} {ratio:6.3f}x  {own * 1e3:8.3f} ms a step, hand-written {peer * 1e3:8.3f} ms  {verdict}",
        flush=True,
    )


def main() -> int:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = compare(ours(lenet, folder / "lenet"), hand_written(lenet), num_pairs=80, steps_per_block=4)
        kept = found[0] <= BUDGET
        show("LeNet 28x28", found, f"budget {BUDGET}x: {'kept' if kept else 'MISSED'}")
        found = compare(ours(tiny, folder / "tiny"), hand_written(tiny), num_pairs=200, steps_per_block=50)
        show("tiny model", found, f"no budget; the loop's own cost: {(found[1] - found[2]) * 1e6:.0f} us a step")
        if importlib.util.find_spec("lightning") is None:
            print("Lightning              skipped: it is not installed; `pip install -e '.[bench]'` adds it")
            return 0 if kept else 1
        for model, make, num_pairs, steps in (("LeNet", lenet, 40, 4), ("tiny", tiny, 50, 50)):
            show(f"Lightning, {model}", compare_lightning(make, folder, num_pairs, steps), "for comparison")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
