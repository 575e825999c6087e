"""Budget: a step of an experiment costs at most 1.02 times that of a bare torch loop (``python -m benchmarks.throughput``).

Measures `experiments.train.trainer.Trainer` as in `lathe run`, with its journal, metrics and signals, against a bare loop with
the same model, objective, optimizer, schedule, clipping and examples. Blocks of the bare loop run when the trainer checks
whether to stop, in the same process with one thread. The budget is on CPU time, since wall-clock time depends on other users of
the machine. The address of a model in memory changes its speed, so all loops are built several times. The ratio is to the mean
of two bare loops; the ratio of these two shows the noise.

``python -m benchmarks.throughput ptb_small model.hidden_size=100`` compares other experiments, or the same with overrides.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: one thread is what can be compared on a shared machine

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from benchmarks.step_overhead import Clock, Loop, cpu_ratio, timed
from experiments.components.assemble import assemble
from experiments.config.compose import compose
from experiments.plan.plan import Plan, make_plan
from experiments.run.checkpoint import Checkpoints
from experiments.run.journal import Journal
from experiments.train.trainer import Trainer
from modules.data.base import Batch, DataError, Split

EXPERIMENTS = ("inception_v1", "ptb_medium")
BUDGET = 1.02
NUM_BUILDS, NUM_BLOCKS, NUM_WARMUP, STEPS_PER_BLOCK = 3, 12, 2, 1
# Nothing but steps: what is measured and saved now and then costs what it costs on either side.
ONLY_STEPS = ("tracking=off", "hardware.device=cpu", "eval_every_steps=1000000", "checkpoint.every_steps=1000000")


def batches(split: Split, batch_size: int) -> Iterator[Batch]:
    while True:
        for indices in torch.split(torch.randperm(len(split)), batch_size):
            if len(indices) == batch_size:
                yield split.batch(indices, indices)


def bare(config: Mapping[str, Any], plan: Plan, split: Split) -> Loop:
    """Return a plain torch loop."""
    setup = assemble(config).setup
    model, objective, stream, step = setup.model, setup.objective, batches(split, plan.batch_size_global), 0
    parameters = list(model.parameters())
    optimizer = setup.optimizer(parameters)
    initial_lr = optimizer.param_groups[0]["lr"]
    losses = list[float]()

    def train(num_steps: int) -> None:
        nonlocal step
        for _ in range(num_steps):
            inputs, targets = next(stream)
            if config["channels_last"]:
                assert isinstance(inputs, Tensor)
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            for group in optimizer.param_groups:
                group["lr"] = initial_lr * setup.schedule.factor(step, plan.num_steps)
            optimizer.zero_grad()
            loss: Tensor = objective(model(inputs), targets)[0]
            loss.backward()  # type: ignore[no-untyped-call]
            if config["grad_clip_norm"] is not None:
                clip_grad_norm_(parameters, config["grad_clip_norm"])
            optimizer.step()
            losses.append(loss.item())
            step += 1

    return train


class Turns:
    """A stop condition, which the trainer calls after every step, that runs blocks of the bare loops."""

    def __init__(self, peers: Sequence[Loop]) -> None:
        self.peers, self.num_calls = peers, 0
        self.start = Clock.now()
        self.blocks: list[list[Clock]] = []
        """[blocks][loops], the trainer first."""

    def __call__(self) -> str | None:
        self.num_calls += 1
        if (
            self.num_calls > 1 and (self.num_calls - 1) % STEPS_PER_BLOCK == 0
        ):  # the trainer also calls it before the first step
            own = Clock.now().since(self.start, STEPS_PER_BLOCK)
            order = range(len(self.peers)) if len(self.blocks) % 2 else reversed(range(len(self.peers)))
            peer_clocks = {number: timed(self.peers[number], STEPS_PER_BLOCK) for number in order}
            self.blocks.append([own, *(peer_clocks[number] for number in range(len(self.peers)))])
        self.start = Clock.now()
        return "the benchmark is complete," if len(self.blocks) == NUM_WARMUP + NUM_BLOCKS else None


def compare(name: str, overrides: Sequence[str]) -> list[list[Clock]]:
    """Measure the trainer and two bare loops; [loops][blocks].

    Raises:
        DataError: the data are missing.
    """
    config = compose([f"experiment={name}", *ONLY_STEPS, *overrides]).config
    plan, blocks = make_plan(config), list[list[Clock]]()
    for _ in range(NUM_BUILDS):
        parts = assemble(config)
        split = parts.data.load("train")
        turns = Turns([bare(config, plan, split), bare(config, plan, split)])
        with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "journal.jsonl") as journal:
            checkpoints = Checkpoints(Path(folder), keep_last=1)
            Trainer(config, plan, parts, journal, checkpoints, turns, lambda done, warning: None).run()
        blocks += turns.blocks[NUM_WARMUP:]
    return [list(loop) for loop in zip(*blocks, strict=True)]


def mean(one: Sequence[Clock], other: Sequence[Clock]) -> list[Clock]:
    return [Clock((a.wall_s + b.wall_s) / 2, (a.cpu_s + b.cpu_s) / 2) for a, b in zip(one, other, strict=True)]


def main(arguments: Sequence[str]) -> int:
    torch.set_num_threads(1)
    names = [argument for argument in arguments if "=" not in argument] or EXPERIMENTS
    is_met = True
    print(f"| experiment | step | bare loop | ratio | ratio of two bare loops | budget |\n|{'---|' * 6}")
    for name in names:
        try:
            own, peer, control = compare(name, [argument for argument in arguments if "=" in argument])
        except DataError as err:
            print(f"| {name} | skipped: {err} |")
            continue
        own_ms, peer_ms = (median(clock.cpu_s for clock in clocks) * 1e3 for clocks in (own, peer))
        ratio, noise = cpu_ratio(own, mean(peer, control)), cpu_ratio(control, peer)
        print(f"| {name} | {own_ms:.1f} ms | {peer_ms:.1f} ms | {ratio:.3f} | {noise:.3f} | <= {BUDGET} |", flush=True)
        is_met &= ratio <= BUDGET
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
