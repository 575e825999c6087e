"""Budgets of engines on several ranks (``python -m benchmarks.engines``).

A step takes at most 1.03 times as long as in a plain loop with the same model and ranks: torch's DistributedDataParallel,
DeepSpeed's engine, or DeepSpeed's pipeline. Blocks of both alternate in the same processes, and the ratio is the median over
blocks. A checkpoint blocks training for less time than `torch.save` of the same state.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: one core per rank

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW

from modules.model.gpt import Gpt
from modules.objective.cross_entropy import CrossEntropy
from modules.parallel.base import Engine, EngineConfig, Rank, TrainingSetup
from modules.parallel.data import DataParallel
from modules.parallel.deepspeed.config import make_settings
from modules.parallel.deepspeed_pipeline import Pipeline
from modules.parallel.deepspeed_zero import Zero
from modules.parallel.topology import Topology
from modules.schedule.constant import Constant
from tests.support.ranks import run_on_ranks

BUDGET = 1.03
NUM_BLOCKS, STEPS_PER_BLOCK = 15, 3
VOCAB_SIZE, CONTEXT_TOKENS, BATCH_SIZE, NUM_MICRO_BATCHES = 96, 64, 16, 8
ADAMW = partial(AdamW, lr=1e-3, foreach=False)

Step = Callable[[int], object]


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return Gpt(VOCAB_SIZE, CONTEXT_TOKENS, 4, 4, 4, 128, 344, tie_embeddings=False, dropout_prob=0.0, recompute=False)


def make_batch(step: int, size: int) -> tuple[Tensor, Tensor]:
    words = torch.randint(VOCAB_SIZE, (size, CONTEXT_TOKENS + 1), generator=torch.Generator().manual_seed(step))
    return words[:, :-1].contiguous(), words[:, 1:].contiguous()


def compute_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def ours(rank: Rank, kind: str) -> tuple[Engine, Step]:
    """Return a prepared engine and its step."""
    topology = Topology(pipe=2) if kind == "pipeline" else Topology(data=2)
    stage = {"zero1": 1, "zero2": 2}.get(kind, 0)
    engine: Engine = DataParallel(2)
    if kind == "pipeline":
        engine = Pipeline(2, 1, 1, "parameters", {})
    elif stage:
        engine = Zero(stage, "none", 2, 1, {})  # type: ignore[arg-type]
    size = BATCH_SIZE // topology.data
    num_accumulation = NUM_MICRO_BATCHES if kind == "pipeline" else 1
    engine_config = EngineConfig(
        10**6, num_accumulation, None, "fp32", False, "cpu", size // num_accumulation, topology=topology, rank=rank
    )
    engine.prepare(TrainingSetup(make_model(), CrossEntropy(), ADAMW, Constant()), engine_config)
    return engine, lambda step: engine.train_step(make_batch(step, size), step)


def bare_ddp() -> Step:
    model = DistributedDataParallel(make_model(), gradient_as_bucket_view=True)
    optimizer = ADAMW(model.parameters())

    def step(number: int) -> float:
        inputs, targets = make_batch(number, BATCH_SIZE // 2)
        optimizer.zero_grad(set_to_none=True)
        loss = compute_loss(model(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return mean_loss(loss)

    return step


def mean_loss(loss: Tensor) -> float:
    """Average the loss over replicas, as Lathe does for its metrics."""
    total = loss.detach().clone()
    dist.all_reduce(total)
    return float(total) / dist.get_world_size()


def bare_deepspeed(stage: int) -> Step:
    import deepspeed

    model = make_model()
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=ADAMW(model.parameters()), config=make_config(stage, model)
    )

    def step(number: int) -> float:
        inputs, targets = make_batch(number, BATCH_SIZE // 2)
        loss = compute_loss(engine(inputs), targets)
        engine.backward(loss)
        engine.step()
        return mean_loss(loss)

    return step


def make_config(stage: int, model: nn.Module, *, micro: int = BATCH_SIZE // 2, num_micro: int = 1) -> dict[str, Any]:
    return make_settings(
        stage=stage,  # type: ignore[arg-type]
        offload="none",
        batch_size_per_device=micro,
        num_accumulation=num_micro,
        grad_clip_norm=None,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        extra={},
    )


def bare_pipeline() -> Step:
    import deepspeed
    from deepspeed.pipe import PipelineModule

    model = make_model()
    assert isinstance(model, Gpt)
    net = PipelineModule(model.layers(), num_stages=2, loss_fn=compute_loss, partition_method="parameters")
    micro = BATCH_SIZE // NUM_MICRO_BATCHES
    config = make_config(1, model, micro=micro, num_micro=NUM_MICRO_BATCHES)
    engine, *_ = deepspeed.initialize(model=net, optimizer=ADAMW(net.parameters()), config=config)

    def micro_batches(number: int) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, targets = make_batch(number, BATCH_SIZE)
        return zip(torch.split(inputs, micro), torch.split(targets, micro), strict=True)

    return lambda number: float(engine.train_batch(micro_batches(number)))


def race(rank: Rank, kind: str) -> list[tuple[float, float]]:
    """Return the seconds per step of both loops for every block."""
    _, own = ours(rank, kind)
    peer = {"data": bare_ddp, "pipeline": bare_pipeline}.get(kind) or partial(bare_deepspeed, int(kind[-1]))
    loops = (lambda step: float(_first(own(step))), peer())
    times: list[tuple[float, float]] = []
    for block in range(NUM_BLOCKS + 1):
        seconds = [0.0, 0.0]
        for number in (0, 1) if block % 2 else (1, 0):
            dist.barrier()
            begin = time.perf_counter()
            for step in range(STEPS_PER_BLOCK):
                loops[number](block * STEPS_PER_BLOCK + step)
            seconds[number] = (time.perf_counter() - begin) / STEPS_PER_BLOCK
        times.append((seconds[0], seconds[1]))
    return times[1:]  # the first block warms up


def _first(metrics: Any) -> Any:
    return next(iter(metrics.values()))


def stall(rank: Rank, kind: str, folder: str) -> tuple[float, float]:
    """Return the seconds that a checkpoint blocks training: our copy, and `torch.save` of model and optimizer."""
    engine, own = ours(rank, kind)
    own(0)
    copies, saves = [], []
    model = make_model()
    optimizer = ADAMW(model.parameters())
    compute_loss(model(make_batch(0, 2)[0]), make_batch(0, 2)[1]).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    for number in range(7):
        dist.barrier()
        begin = time.perf_counter()
        write = engine.snapshot()
        copies.append(time.perf_counter() - begin)
        if write is not None:
            target = Path(folder) / f"{kind}_{number}"
            target.mkdir()
            write(target)
        begin = time.perf_counter()
        path = Path(folder) / f"{kind}_{rank.number}.pt"
        with path.open("wb") as file:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
            file.flush()
            os.fsync(file.fileno())
        saves.append(time.perf_counter() - begin)
    return median(copies), median(saves)


def main() -> int:
    is_met = True
    print("| engine, 2 ranks | step | plain loop | ratio | budget |\n|---|---|---|---|---|")
    for kind, peer in (
        ("data", "DistributedDataParallel"), ("zero1", "DeepSpeed, stage 1"), ("zero2", "DeepSpeed, stage 2"),
        ("pipeline", "DeepSpeed's pipeline"),
    ):  # fmt: skip
        times = run_on_ranks(2, race, kind)[0]
        ratio = median(own / bare for own, bare in times)
        own_ms, bare_ms = (median(column) * 1e3 for column in zip(*times, strict=True))
        print(f"| {kind} | {own_ms:.1f} ms | {bare_ms:.1f} ms ({peer}) | {ratio:.3f} | <= {BUDGET} |", flush=True)
        is_met &= ratio <= BUDGET
    print("\n| checkpoint, 2 ranks | training blocked | torch.save and fsync | ratio | budget |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("data", "zero1", "zero2", "pipeline"):
            copy_s, save_s = run_on_ranks(2, stall, kind, folder)[0]
            print(
                f"| {kind} | {copy_s * 1e3:.1f} ms | {save_s * 1e3:.1f} ms | {copy_s / save_s:.2f} | < 1 |", flush=True
            )
            is_met &= copy_s < save_s
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
