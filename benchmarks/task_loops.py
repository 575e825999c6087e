"""Training loops of two tasks of docs/examples: by Lathe, and written by hand. `benchmarks.step_overhead` compares them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch.optim import Adam

from experiments.components.assemble import assemble
from experiments.config.compose import compose
from experiments.plan.plan import make_plan
from experiments.run.journal import Journal
from experiments.train.callbacks.run_callbacks import RunCallbacks
from experiments.train.data_loading import training_batches
from experiments.train.determinism import seed_step
from experiments.train.loading.collected import collect_batches
from experiments.train.measurement.metric_logging import MetricLogger
from modules.data.base import Collector
from modules.optimizer.base import list_learning_rates
from modules.parallel.base import EngineConfig
from modules.parallel.single import Single
from modules.parallel.topology import RankCoordinates

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
NUM_STEPS = 1_000_000  # longer than any run of the benchmark

Loop = Callable[[int], None]  # trains for this number of steps


def ours(name: str, folder: Path) -> Loop:
    """Lathe's loop of an example, as a run has it: batches, the engine, callbacks, and metrics that are checked in every step."""
    sys.path.insert(0, str(EXAMPLES))
    config = compose([f"experiment={name}"], config_dirs=[EXAMPLES / "conf"], trust=["ideas"]).config
    components, engine, journal = assemble(config, ["ideas"]), Single(), Journal(folder / "journal.jsonl")
    size, setup = config["batch_size_global"], components.setup
    rates = list_learning_rates(setup.optimizer, setup.schedule, [phase.name for phase in setup.get_task().phases()])
    logger = MetricLogger(config, make_plan(config), rates, journal, 0, 0, lambda done, step_time_s: {})
    engine.prepare(setup, EngineConfig(NUM_STEPS, 1, None, "fp32", False, "cpu", size))
    train: Any = components.data.load("train")
    callbacks = RunCallbacks(setup.model, components.callbacks, train, is_first=True)
    if isinstance(train, Collector):
        batches = collect_batches(train, setup.model, range(NUM_STEPS), size, 0, (0, 1))
    else:
        batches = training_batches(train, size, seed=0, first_step=0, num_steps=NUM_STEPS, num_workers=0)
    stream = enumerate(logger.timer.time_waits(batches))

    def run(num_steps: int) -> None:
        for _ in range(num_steps):
            step, batch = next(stream)
            seed_step(0, step, RankCoordinates(0, 0, 0))
            metrics = engine.train_step(batch, step)
            logger.add(step + 1, metrics)
            callbacks.on_step_end(step + 1, metrics)

    return run


def hand_written(name: str) -> Loop:
    """A plain loop of the same training: two Adams and a gradient penalty, or Q-learning with a replay buffer."""
    sys.path.insert(0, str(EXAMPLES))
    steps = _gan_steps() if name == "gan" else _dqn_steps()

    def run(num_steps: int) -> None:
        for _ in range(num_steps):
            next(steps)

    return run


def _gan_steps(batch_size: int = 64) -> Iterator[None]:
    gan = import_module("ideas.gan")
    torch.manual_seed(0)
    model, points = gan.GanModel(noise_size=4, num_features=2, hidden_size=32), gan.Ring(1024).load("train").inputs
    generator, critic = list(model.generator.parameters()), list(model.critic.parameters())
    optimizers = Adam(critic, lr=0.004, betas=(0.5, 0.9)), Adam(generator, lr=0.001, betas=(0.5, 0.9))
    losses, step = list[dict[str, float]](), 0
    while True:
        for indices in torch.split(torch.randperm(len(points)), batch_size):
            real = points[indices]
            with torch.no_grad():
                fake = model.generator(torch.randn(batch_size, 4))
            share = torch.rand(batch_size, 1)
            between = (share * real + (1 - share) * fake).requires_grad_()
            (slope,) = torch.autograd.grad(model.critic(between).sum(), between, create_graph=True)
            penalty = (slope.norm(dim=1) - 1).square().mean()
            distance = model.critic(real).mean() - model.critic(fake).mean()
            optimizers[0].zero_grad()
            (10.0 * penalty - distance).backward()
            optimizers[0].step()
            values = {"distance": distance.item(), "penalty": penalty.item()}
            if step % 2 == 0:
                loss = -model.critic(model.generator(torch.randn(batch_size, 4))).mean()
                optimizers[1].zero_grad()
                loss.backward(inputs=generator)
                optimizers[1].step()
                values["generator_loss"] = loss.item()
            losses.append(values)
            step += 1
            yield


def _dqn_steps(batch_size: int = 64) -> Iterator[None]:
    dqn = import_module("ideas.dqn")
    torch.manual_seed(0)
    model, replay, losses = dqn.QModel(hidden_size=64), dqn.Replay(8, 20_000, 500), list[float]()
    optimizer, random = Adam(model.online.parameters(), lr=0.001), torch.Generator().manual_seed(0)
    for step in range(NUM_STEPS):
        with torch.no_grad():
            batch = replay.collect(model, step, batch_size, random)
        value = model(batch["state"]).gather(1, batch["action"][:, None])[:, 0]
        next_value = model.target(batch["next_state"]).amax(1) * (1 - batch["is_over"])
        loss = (value - (1 + 0.98 * next_value)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            model.target.load_state_dict(model.online.state_dict())
        yield
