"""How far the losses of every mode part from those of one process (``python -m benchmarks.equivalence``).

Prints the table of docs/parallelism.md: the largest relative difference over 20 steps, with accumulation and clipping.
"""

from __future__ import annotations

import os
import sys

os.environ["OMP_NUM_THREADS"] = "1"  # before torch

from tests.support.engines import MODELS, MODES, outcomes

BUDGET = 1e-5


def main() -> int:
    worst = 0.0
    print(f"| mode | ranks | {' | '.join(MODELS)} |\n|---|---|{'---|' * len(MODELS)}")
    for name, mode in MODES.items():
        found = []
        for model in MODELS:
            pairs = zip(outcomes(name)[model].losses, outcomes("single")[model].losses, strict=True)
            found.append(max(abs(own - single) / single for own, single in pairs))
        worst = max(worst, *found)
        print(f"| {name} | {mode.topology.world} | {' | '.join(f'{each:.0e}' for each in found)} |", flush=True)
    print(f"\nlargest: {worst:.1e}, budget {BUDGET:.0e}")
    return 0 if worst <= BUDGET else 1


if __name__ == "__main__":
    sys.exit(main())
