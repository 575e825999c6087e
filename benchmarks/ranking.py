"""Target: experiment=rank_lambda ranks at least as well as LightGBM's LambdaRank (``python -m benchmarks.ranking``).

Both learn from the same queries, stop at their best nDCG at 10 on the same validation queries, and are measured on the same test
queries by the same code, with three seeds. LightGBM has the parameters of its own example ``lambdarank``. Prints all three
losses of Lathe. Needs the data set ``lambdarank`` below LATHE_DATA.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from statistics import mean, stdev

import numpy as np
import torch

from experiments.api import compose, freeze, run
from experiments.components.assemble import assemble
from modules.data.base import IGNORED, DataError
from modules.data.ranking.gain import compute_ndcg
from modules.data.ranking.query_files import QueryFiles
from modules.data.tensors import TensorSplit

CUTS = (1, 3, 5, 10)
SEEDS = (0, 1, 2)
LOSSES = ("lambdarank", "ranknet", "list_softmax")


def measure_lathe(loss: str, seed: int, folder: str) -> list[float]:
    """nDCG on the test split at every cut."""
    overrides = [
        f"objective.loss={loss}",
        f"seed={seed}",
        "tracking=off",
        f"runs_dir={folder}",
        "hardware.cpu_threads=1",
    ]
    result = run(freeze(compose(["experiment=rank_lambda", *overrides])))
    return [result.metrics[f"test/ndcg_at{cut}"] for cut in CUTS]


def measure_lightgbm(data: QueryFiles, seed: int) -> list[float]:
    """As `measure_lathe`."""
    import lightgbm

    def table(split: TensorSplit) -> tuple[np.ndarray, np.ndarray, list[int]]:
        is_real = split.targets != IGNORED
        return split.inputs[is_real].numpy(), split.targets[is_real].numpy(), is_real.sum(1).tolist()

    (x, y, groups), (val_x, val_y, val_groups) = table(data.load("train")), table(data.load("val"))
    ranker = lightgbm.LGBMRanker(
        n_estimators=100, learning_rate=0.1, num_leaves=31, min_child_samples=50, min_child_weight=5.0, subsample=0.9,
        subsample_freq=1, random_state=seed, n_jobs=1, deterministic=True, verbose=-1,
    )  # fmt: skip
    stop = lightgbm.early_stopping(30, verbose=False)
    ranker.fit(x, y, group=groups, eval_X=val_x, eval_y=val_y, eval_group=[val_groups], eval_at=[10], callbacks=[stop])
    test = data.load("test")
    is_real = test.targets != IGNORED
    scores = torch.zeros(test.targets.shape)
    scores[is_real] = torch.from_numpy(ranker.predict(test.inputs[is_real].numpy())).float()
    return [float(compute_ndcg(scores, test.targets, cut).mean()) for cut in CUTS]


def show(name: str, results: list[list[float]]) -> float:
    """Print means and deviations over the seeds; returns the mean of the last cut."""
    cells = [f"{mean(values):.3f} ± {stdev(values):.3f}" for values in zip(*results, strict=True)]
    print(f"{name:<24}" + "  ".join(f"{cell:>15}" for cell in cells), flush=True)
    return mean(values[-1] for values in results)


def main() -> int:
    if importlib.util.find_spec("lightgbm") is None:
        print("LightGBM is not installed; `pip install -e '.[bench]'` adds it")
        return 0
    data = assemble(compose(["experiment=rank_lambda"]).config).data
    assert isinstance(data, QueryFiles)
    try:
        data.load("test")
    except DataError as err:
        print(err)
        return 0
    print(f"{'nDCG, 3 seeds':<24}" + "  ".join(f"{f'at {cut}':>15}" for cut in CUTS))
    peer = show("LightGBM", [measure_lightgbm(data, seed) for seed in SEEDS])
    with tempfile.TemporaryDirectory() as folder:
        own = [show(f"Lathe, {loss}", [measure_lathe(loss, seed, folder) for seed in SEEDS]) for loss in LOSSES]
    is_met = own[0] >= peer
    print(f"lambdarank against LightGBM, at 10: {own[0] - peer:+.3f}; target >= 0: {'met' if is_met else 'MISSED'}")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
