"""Budget: small trials run as fast as with Hydra's joblib launcher (``python -m benchmarks.sweep_throughput``).

Runs 64 trials of a multi-layer perceptron on mnist1d with 100 steps each, two at a time with one thread: Lathe with
launcher=local, and a hand-written script with the same model, data and steps in Hydra with n_jobs=2. The commands alternate, and
the budget is on wall-clock time. Lathe also writes a journal, a ledger and checkpoints, and continues if a trial is killed; the
script trains, evaluates, and saves weights and accuracy.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean, median

from benchmarks.asha import end_workers
from experiments.sweep.sweep import Sweep

BUDGET = 1.0
RATES = [0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.03, 0.05]
NUM_SEEDS, NUM_STEPS, NUM_WORKERS = 8, 100, 2
NUM_TRIALS = len(RATES) * NUM_SEEDS
METRIC = "val/accuracy_top1"
PATIENCE_S = 300.0
LATHE = [sys.executable, "-P", "-m", "experiments.cli"]
APP = """
import json
from pathlib import Path
import hydra
import numpy as np
import torch
from torch import nn

@hydra.main(version_base=None, config_path=".", config_name="config")
def main(cfg):
    torch.set_num_threads(1)
    torch.manual_seed(cfg.seed)
    with np.load(cfg.file) as archive:
        inputs, targets = torch.from_numpy(archive["x"].astype(np.float32)), torch.from_numpy(archive["y"].astype(np.int64))
    train, val = slice(0, 3500), slice(-500, None)
    model = nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.lr, weight_decay=0.01)
    order = torch.cat([torch.randperm(3500) for _ in range(cfg.steps * 64 // 3500 + 1)])
    for step in range(cfg.steps):
        chosen = order[step * 64 : (step + 1) * 64]
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs[train][chosen]), targets[train][chosen])
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = (model(inputs[val]).argmax(1) == targets[val]).float().mean().item()
    out = Path(hydra.core.hydra_config.HydraConfig.get().runtime.output_dir)
    torch.save(model.state_dict(), out / "model.pt")
    (out / "result.json").write_text(json.dumps({"accuracy": accuracy}))

main()
"""
CONFIG = """
file: ???
lr: 0.001
seed: 0
steps: {steps}
hydra:
  sweep: {{dir: sweep, subdir: '${{hydra.job.num}}'}}
"""


def run_s(folder: Path, *command: str) -> float:
    """Return the wall-clock seconds of a command."""
    start = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with code {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    return time.perf_counter() - start


def ours(folder: Path) -> tuple[float, list[float]]:
    """Return the seconds, and the accuracy of every trial."""
    shared = ["model=mlp", "data=mnist1d", f"max_steps={NUM_STEPS}", "tracking=off", f"launcher.workers={NUM_WORKERS}"]
    space = [f"optimizer.lr={','.join(map(str, RATES))}", f"seed={','.join(map(str, range(NUM_SEEDS)))}"]
    try:
        took = run_s(folder, *LATHE, "run", "-m", *shared, *space, "sweep.name=bench", f"runs_dir={folder}")
    finally:  # workers outlive a command that is interrupted
        if (folder / "bench" / "sweep.yaml").exists():
            end_workers(Sweep(folder / "bench"))
    events = map(json.loads, (folder / "bench" / "ledger.jsonl").read_text().splitlines())
    return took, [event["value"] for event in events if event["event"] == "ended" and event["state"] == "finished"]


def hydra(folder: Path, data: Path) -> tuple[float, list[float]]:
    (folder / "app.py").write_text(APP)
    (folder / "config.yaml").write_text(CONFIG.format(steps=NUM_STEPS))
    launcher = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={NUM_WORKERS}", f"file={data}"]
    space = [f"lr={','.join(map(str, RATES))}", f"seed={','.join(map(str, range(NUM_SEEDS)))}"]
    took = run_s(folder, sys.executable, "app.py", "-m", *launcher, *space)
    return took, [json.loads(path.read_text())["accuracy"] for path in folder.glob("sweep/*/result.json")]


def describe(name: str, rounds: list[tuple[float, list[float]]]) -> str:
    seconds = [took for took, _ in rounds]
    assert all(len(values) == NUM_TRIALS for _, values in rounds), f"{name} did not finish all {NUM_TRIALS} trials"
    rate = NUM_TRIALS * 60 / median(seconds)
    accuracy = fmean(value for _, values in rounds for value in values)
    return f"{name:<26}{rate:8.0f} trials/min{median(seconds):8.1f} s, {METRIC} {accuracy:.3f} on average"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=2)
    pairs = parser.parse_args().pairs
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the workers
    data = Path(os.environ.get("LATHE_DATA", "~/.cache/lathe/data")).expanduser() / "mnist1d" / "mnist1d.npz"
    if not data.exists():
        print(f"not measured: {data} does not exist; `lathe data` names its source")
        return 1
    has_peer = importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher") is not None
    own, peer = list[tuple[float, list[float]]](), list[tuple[float, list[float]]]()
    scratch = Path(tempfile.mkdtemp(prefix="lathe-bench-"))
    try:
        for pair in range(pairs):
            turns = [(own, ours), (peer, lambda folder: hydra(folder, data))][: 1 + has_peer]
            for rounds, method in turns if pair % 2 == 0 else reversed(turns):
                rounds.append(method(Path(tempfile.mkdtemp(dir=scratch))))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(describe("lathe, launcher=local", own))
    if not has_peer:
        print("Hydra's joblib launcher is not installed: skipped; `pip install -e '.[bench]'` adds it")
        return 0
    print(describe("Hydra, launcher=joblib", peer))
    ratio = median(theirs / mine for (mine, _), (theirs, _) in zip(own, peer, strict=True))
    print(f"ratio {ratio:.2f} (>= {BUDGET:g}): {'met' if ratio >= BUDGET else 'MISSED'}")
    return 0 if ratio >= BUDGET else 1


if __name__ == "__main__":
    sys.exit(main())
