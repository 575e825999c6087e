"""Budget: on a CPU ``determinism=bitwise`` costs at most 1.05 times ``seeded`` (``python -m benchmarks.determinism``).

Blocks of both levels alternate in one process on the same model. The ratio is the median over rounds of the CPU times.
`tests/experiments/train/test_determinism.py` checks that every level repeats its curves. The cost on a GPU is not measured.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from statistics import median

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: on a shared machine only one thread is comparable

import torch
from torch import Tensor, nn

from benchmarks.step_overhead import Clock, timed
from experiments.train.determinism import set_level
from modules.model.deep_lstm import DeepLstm
from modules.model.gpt import Gpt
from modules.model.lenet import LeNet

BUDGET = 1.05
NUM_ROUNDS, STEPS_PER_BLOCK = 15, 4
LEVELS = ("seeded", "bitwise")
VOCABULARY, CONTEXT = 500, 32


def images() -> tuple[nn.Module, Tensor, Tensor]:
    model = LeNet([1, 28, 28], num_classes=10, conv_channels=[32, 64], hidden_size=1024, dropout_prob=0.5)
    return model, torch.rand(64, 1, 28, 28), torch.randint(10, (64,))


def tokens(model: nn.Module) -> tuple[nn.Module, Tensor, Tensor]:
    return model, torch.randint(VOCABULARY, (16, CONTEXT)), torch.randint(VOCABULARY, (16, CONTEXT))


MODELS: dict[str, Callable[[], tuple[nn.Module, Tensor, Tensor]]] = {
    "lenet": images,
    "deep_lstm": lambda: tokens(DeepLstm(VOCABULARY, hidden_size=128, num_layers=2, dropout_prob=0.1, init_scale=0.1)),
    "gpt": lambda: tokens(Gpt(VOCABULARY, CONTEXT, 2, 4, 4, 128, 344, False, 0.1, False)),
}


def trainer(model: nn.Module, inputs: Tensor, targets: Tensor) -> Callable[[int], None]:
    optimizer = torch.optim.AdamW(model.parameters())

    def train(num_steps: int) -> None:
        for _ in range(num_steps):
            optimizer.zero_grad()
            outputs = model(inputs)
            nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten()).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return train


def compare(name: str) -> tuple[float, float, float]:
    """Return the milliseconds of a step with both levels, and their ratio."""
    torch.manual_seed(0)
    train = trainer(*MODELS[name]())
    warnings: list[str] = []
    times: dict[str, list[Clock]] = {level: [] for level in LEVELS}
    for level in LEVELS:
        set_level(level, warnings.append)
        train(STEPS_PER_BLOCK)
    for turn in range(NUM_ROUNDS):
        for level in LEVELS if turn % 2 else reversed(LEVELS):
            set_level(level, warnings.append)
            times[level].append(timed(train, STEPS_PER_BLOCK))
    for warning in set(warnings):
        print(f"  {name}: {warning}")
    seeded, bitwise = (median(clock.cpu_s for clock in times[level]) * 1e3 for level in LEVELS)
    pairs = zip(times["bitwise"], times["seeded"], strict=True)
    return seeded, bitwise, median(one.cpu_s / other.cpu_s for one, other in pairs)


def main() -> int:
    """Print the table; return 1 if a ratio is above the budget."""
    worst = 0.0
    for name in MODELS:
        seeded, bitwise, ratio = compare(name)
        print(f"{name:10} seeded {seeded:7.2f} ms  bitwise {bitwise:7.2f} ms  ratio {ratio:.3f}  budget {BUDGET}")
        worst = max(worst, ratio)
    return int(worst > BUDGET)


if __name__ == "__main__":
    sys.exit(main())
