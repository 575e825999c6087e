"""Deep Q-learning: balance a pole on a cart.

Shows: data that the model makes (a collector with a replay buffer), a target network that a callback updates, and an evaluation
of the task's own. Source: Mnih et al. 2015, doi:10.1038/nature14236; the cart of Barto et al. 1983,
doi:10.1109/TSMC.1983.6313077.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from lathe.modules.callback.base import Callback
from lathe.modules.task.base import Evaluation, Loss, StepContext, Task
from torch import Generator, Tensor, nn


def move_cart(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """One step of 0.02 s: position, speed, angle and its speed [carts, 4], and a push to the left (0) or right (1) [carts].

    Returns:
        The next states, and whether the pole has fallen or the cart has left the track, bool [carts].
    """
    _, speed, angle, turn = state.unbind(1)
    push = (action * 2 - 1) * 10.0 + 0.05 * turn.square() * angle.sin()
    turning = (9.8 * angle.sin() - angle.cos() * push / 1.1) / (0.5 * (4 / 3 - 0.1 * angle.cos().square() / 1.1))
    pushing = push / 1.1 - 0.05 * turning * angle.cos() / 1.1
    state = state + 0.02 * torch.stack([speed, pushing, turn, turning], 1)
    return state, (state[:, 0].abs() > 2.4) | (state[:, 2].abs() > 0.21)


class QModel(nn.Module):
    """The value of each action, and a frozen copy of the network for the targets."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.online = nn.Sequential(nn.Linear(4, hidden_size), nn.ReLU(), nn.Linear(hidden_size, 2))
        self.target = deepcopy(self.online).requires_grad_(False)

    def forward(self, state: Tensor) -> Tensor:
        values: Tensor = self.online(state)
        return values


class QLearning(Task):
    """The squared error of the Bellman equation."""

    needs = ("inputs", "whole_model")

    def __init__(self, discount: float = 0.98, num_steps: int = 200) -> None:
        self.discount, self.num_steps = discount, num_steps

    def loss(self, model: QModel, batch: dict[str, Tensor], context: StepContext) -> Loss:
        value = model(batch["state"]).gather(1, batch["action"][:, None])[:, 0]
        next_value = model.target(batch["next_state"]).amax(1) * (1 - batch["is_over"])
        error = (value - (1 + self.discount * next_value)).square().mean()  # each step gives a reward of 1
        return Loss(error, {"bellman_error": error.detach()})

    def evaluate(self, model: QModel, batch: dict[str, Tensor], context: StepContext) -> Evaluation:
        """Count the steps until the pole falls."""
        state, is_up = batch["state"], torch.ones(len(batch["state"]), device=batch["state"].device)
        length = torch.zeros_like(is_up)
        for _ in range(self.num_steps):
            state, is_over = move_cart(state, model(state).argmax(1))
            is_up = is_up * ~is_over
            length += is_up
        return Evaluation({"episode_steps": length.mean()})


class UpdateTarget(Callback):
    """Copies the network to its frozen copy, which is saved with the model."""

    needs = ("whole_model",)

    def __init__(self, every_steps: int) -> None:
        self.every_steps = every_steps

    def on_step_end(self, model: QModel, done: int, metrics: Mapping[str, Tensor]) -> None:
        if done % self.every_steps == 0:
            model.target.load_state_dict(model.online.state_dict())


class Replay:
    """Moves some carts in each step, and draws the batch from all that they met."""

    def __init__(self, num_carts: int, buffer_size: int, explore_steps: int) -> None:
        self.num_carts, self.explore_steps, self.num_met = num_carts, explore_steps, 0
        self.state, self.buffer = torch.zeros(num_carts, 4), torch.zeros(buffer_size, 10)

    def collect(self, model: QModel, step: int, batch_size: int, generator: Generator) -> dict[str, Tensor]:
        device = next(model.parameters()).device
        action = model(self.state.to(device)).argmax(1).cpu()
        is_random = torch.rand(self.num_carts, generator=generator) < max(0.05, 1 - step / self.explore_steps)
        action = torch.where(is_random, torch.randint(2, (self.num_carts,), generator=generator), action)
        state, is_over = move_cart(self.state, action)
        rows = torch.cat([self.state, action[:, None], state, is_over[:, None]], 1)
        self.buffer[torch.arange(self.num_met, self.num_met + self.num_carts) % len(self.buffer)] = rows
        self.num_met += self.num_carts
        start = torch.rand(self.num_carts, 4, generator=generator) * 0.1 - 0.05
        self.state = torch.where(is_over[:, None], start, state)
        drawn = self.buffer[torch.randint(min(self.num_met, len(self.buffer)), (batch_size,), generator=generator)]
        return make_batch(drawn)

    def state_dict(self) -> dict[str, Any]:
        return {"state": self.state, "buffer": self.buffer, "num_met": self.num_met}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state, self.buffer, self.num_met = state["state"], state["buffer"], state["num_met"]


class Starts:
    """Carts near the middle, with the pole nearly upright."""

    in_memory = True

    def __init__(self, seed: int) -> None:
        self.states = torch.rand(32, 4, generator=Generator().manual_seed(seed)) * 0.1 - 0.05

    def __len__(self) -> int:
        return len(self.states)

    def batch(self, indices: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        return {"state": self.states[indices]}


class CartPole:
    needs = ("collector",)

    def __init__(self, num_carts: int, buffer_size: int, explore_steps: int) -> None:
        self.sizes = num_carts, buffer_size, explore_steps

    def load(self, split: str) -> Replay | Starts:
        return Replay(*self.sizes) if split == "train" else Starts({"val": 1, "test": 2}[split])

    def example(self, batch_size: int) -> dict[str, Tensor]:
        return make_batch(torch.zeros(batch_size, 10))


def make_batch(rows: Tensor) -> dict[str, Tensor]:
    """Name the columns of the replay buffer."""
    return {"state": rows[:, :4], "action": rows[:, 4].long(), "next_state": rows[:, 5:9], "is_over": rows[:, 9]}
