"""Budget: time to the first step, and of `lathe --help`, against minimal scripts (``python -m benchmarks.startup``)."""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments.run.journal import read

LATHE = [sys.executable, "-P", "-m", "experiments.cli"]
PEER = """
import time
import gzip, json, random, signal, subprocess, threading
import hydra, numpy, omegaconf, rich, safetensors.torch, torch, yaml
from importlib.resources import files
from torch import nn
torch.manual_seed(0)
table = numpy.loadtxt(gzip.open(str(files("sklearn") / "datasets/data/digits.csv.gz"), "rt"), delimiter=",", dtype=int)
images = torch.from_numpy(table[:1297, :64]).float().div(16).reshape(-1, 1, 8, 8)
labels = torch.from_numpy(table[:1297, 64].copy())
model = nn.Sequential(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 5, padding=2),
                      nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
chosen = torch.randperm(1297)[:64]
loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
loss.backward()
optimizer.step()
loss.item()
print(time.time())
"""
BUDGET_FIRST_STEP, BUDGET_HELP_S = 1.15, 0.3


def first_step_of_peer() -> float:
    """Return the seconds from the start of a hand-written script to the end of its first step."""
    start = time.time()
    done = subprocess.run([sys.executable, "-c", PEER], capture_output=True, text=True, check=True)
    return float(done.stdout) - start


def first_step_of_lathe(folder: Path) -> float:
    """Return the seconds from the start of `lathe run` to its first metric, with composing, planning and freezing."""
    start = time.time()
    overrides = ["model=lenet", "data=digits", "max_steps=1", "tracking=off", f"runs_dir={folder}"]
    subprocess.run([*LATHE, "run", *overrides], capture_output=True, check=True)
    (path,) = folder.glob("single/*/attempts/1/journal.jsonl")
    events, _ = read(path)
    shutil.rmtree(folder / "single")
    return next(event["time"] for event in events if event["event"] == "metrics") - start


def seconds(command: list[str]) -> float:
    """Return the wall-clock seconds of a command."""
    start = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - start


def main() -> int:
    """Print the medians and their ratios; return 1 if a budget is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=9)
    pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory() as folder:
        first_step_of_peer(), first_step_of_lathe(Path(folder))  # warm the file cache
        steps = [(first_step_of_lathe(Path(folder)), first_step_of_peer()) for _ in range(pairs)]
    helps = [(seconds([*LATHE, "--help"]), seconds([sys.executable, "-c", "pass"])) for _ in range(pairs)]
    completes = [(seconds([*LATHE, "_complete", "lathe", "run", "mod"]), bare) for _, bare in helps]
    ratio = statistics.median(ours / peer for ours, peer in steps)
    help_s, bare_s = (statistics.median(column) for column in zip(*helps, strict=True))
    complete_s = statistics.median(ours for ours, _ in completes)
    ours_s, peer_s = (statistics.median(column) for column in zip(*steps, strict=True))
    print(
        f"command to first step: lathe {ours_s:.2f} s, script {peer_s:.2f} s, ratio {ratio:.3f} (<= {BUDGET_FIRST_STEP})"
    )
    print(f"lathe --help: {help_s:.3f} s (<= {BUDGET_HELP_S}), bare interpreter {bare_s:.3f} s")
    print(f"completion:   {complete_s:.3f} s (<= {BUDGET_HELP_S})")
    return int(ratio > BUDGET_FIRST_STEP or max(help_s, complete_s) > BUDGET_HELP_S)


if __name__ == "__main__":
    sys.exit(main())
