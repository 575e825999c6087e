"""Differences between the losses of every parallelism and of one process (``python -m benchmarks.equivalence``).

Prints the table of docs/parallelism.md: the largest relative difference over 20 steps, with accumulation and clipping.
"""

from __future__ import annotations

import os
import sys

os.environ["OMP_NUM_THREADS"] = "1"  # before torch

from tests.support.engines import MODELS, MODES, train_all_models

BUDGET = 1e-5


def main() -> int:
    worst = 0.0
    print(f"| mode | ranks | {' | '.join(MODELS)} |\n|---|---|{'---|' * len(MODELS)}")
    for name, mode in MODES.items():
        errors = []
        for model in MODELS:
            pairs = zip(train_all_models(name)[model].losses, train_all_models("single")[model].losses, strict=True)
            errors.append(max(abs(own - single) / single for own, single in pairs))
        worst = max(worst, *errors)
        print(f"| {name} | {mode.topology.world} | {' | '.join(f'{each:.0e}' for each in errors)} |", flush=True)
    print(f"\nlargest: {worst:.1e}, budget {BUDGET:.0e}")
    return 0 if worst <= BUDGET else 1


if __name__ == "__main__":
    sys.exit(main())
