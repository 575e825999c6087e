"""Shows the loss around the weights that a training has found."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev
from torch.utils._pytree import tree_map_only

from modules.callback.base import Callback, Training
from modules.data.base import Tree
from modules.task.base import StepContext

MAX_WEIGHTS = 1000
"""Of a model whose critical points are searched."""
_LINE = [round(0.05 * number - 0.25, 2) for number in range(36)]
"""Places on the line through the initial weights, 0, and the final ones, 1."""
_DAMPING = (1e-4, 1e-2, 1.0)
"""Of a Newton step, relative to the Hessian: the first with which the gradient becomes smaller is taken."""
_FARTHEST = 0.75
"""Largest distance of a start from the final weights, relative to their standard deviation."""
_SMALL_GRADIENT = 0.2
"""Length of the gradient up to which weights count as a critical point."""
_FLAT = 1e-4
"""An eigenvalue counts as 0 if it is this small, relative to the largest."""


class Landscape(Callback):
    """Draws the loss of the validation split after the last step: around the weights, and from the initial weights to them.

    ``landscape.png`` has the loss over two random directions, each scaled like the weights of its filter, and along the line
    from the initial weights. ``landscape.csv`` has the same numbers. For small models it also looks for critical points: from
    random weights at growing distances, damped Newton steps make the gradient small; each point shows its loss and the share
    of negative eigenvalues of the Hessian. At a minimum this share is 0.
    Sources: Li et al. 2018, arXiv:1712.09913; Goodfellow et al. 2015, arXiv:1412.6544; Dauphin et al. 2014, arXiv:1406.2572.
    """

    is_component = True
    needs = ("whole_model",)

    def __init__(
        self,
        num_examples: int = 500,
        num_points: int = 15,
        extent: float = 1.0,
        num_critical_points: int = 0,
        num_newton_steps: int = 20,
    ) -> None:
        """
        Args:
            num_examples: the first of the validation split, with which the loss is computed.
            num_points: places on each of the two directions.
            extent: largest distance along a direction; 1 is the length of the weights.
            num_critical_points: starts of the search for critical points, of which some find none; 0: no search. The time grows
                with the cube of the number of weights, so only for models with a few hundred.
            num_newton_steps: of each start.
        """
        for name, value, least in (
            ("num_examples", num_examples, 1), ("num_points", num_points, 2), ("num_critical_points", num_critical_points, 0),
            ("num_newton_steps", num_newton_steps, 1),
        ):  # fmt: skip
            if value < least:
                raise ValueError(f"Landscape wants {name} of at least {least}, but got {value}")
        if not extent > 0:
            raise ValueError(f"Landscape wants an extent above 0, but got {extent}")
        self.num_examples, self.num_points, self.extent = num_examples, num_points, extent
        self.num_critical_points, self.num_newton_steps = num_critical_points, num_newton_steps
        self.initial: dict[str, Tensor] = {}

    def on_start(self, model: nn.Module) -> None:
        self.initial = {name: each.detach().clone() for name, each in _list_trained(model).items()}
        count = sum(each.numel() for each in self.initial.values())
        if self.num_critical_points and count > MAX_WEIGHTS:
            raise ValueError(
                f"Landscape looks for critical points of at most {MAX_WEIGHTS:,} weights, but the model has {count:,}; set "
                "callback.landscape.num_critical_points=0, or use a smaller model"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"initial": self.initial}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, tensor in state["initial"].items():
            self.initial[name] = tensor.to(self.initial[name].device)

    def artifacts(self, model: nn.Module, done: int, training: Training) -> Mapping[str, bytes]:
        if done != training.num_steps:
            return {}
        loss, generator = (
            _LossOfWeights(model, training, done, self.num_examples),
            torch.Generator().manual_seed(training.seed),
        )
        initial, final = _flatten(self.initial), _flatten(loss.own)
        first, second = (_draw_direction(loss.own, generator) for _ in range(2))
        steps = torch.linspace(-self.extent, self.extent, self.num_points).tolist()
        surface = [[loss.measure(final + x * first + y * second) for x in steps] for y in steps]
        line = [loss.measure(initial + place * (final - initial)) for place in _LINE]
        critical = self._find_critical_points(loss, final, generator)
        rows = [f"surface,{x:g},{y:g},{value:.6g}" for y, row in zip(steps, surface, strict=True)
                for x, value in zip(steps, row, strict=True)]  # fmt: skip
        rows += [f"line,{place:g},,{value:.6g}" for place, value in zip(_LINE, line, strict=True)]
        rows += [f"critical,{each.share:.4f},{each.gradient_norm:.3g},{each.loss:.6g}" for each in critical]
        return {
            "landscape.png": _draw(steps, surface, line, critical),
            "landscape.csv": "\n".join(["kind,x,y,loss", *rows]).encode() + b"\n",
        }

    def _find_critical_points(
        self, loss: _LossOfWeights, final: Tensor, generator: torch.Generator
    ) -> list[_CriticalPoint]:
        found = []
        for number in range(self.num_critical_points):
            distance = _FARTHEST * (number + 1) / self.num_critical_points
            start = final + torch.randn(len(final), generator=generator).to(final) * final.std() * distance
            weights, norm, matrix = loss.approach_critical_point(start, self.num_newton_steps)
            if not norm <= _SMALL_GRADIENT:
                continue
            eigenvalues = torch.linalg.eigvalsh(matrix.double())
            share = float((eigenvalues < -_FLAT * eigenvalues.abs().max()).double().mean())
            found.append(_CriticalPoint(loss.measure(weights), share, norm))
        return found


@dataclass(frozen=True)
class _CriticalPoint:
    """Weights with a small gradient."""

    loss: float
    share: float
    """Of the eigenvalues of the Hessian that are negative."""
    gradient_norm: float


class _LossOfWeights:
    """The loss of fixed examples as a function of all trained weights in one vector."""

    def __init__(self, model: nn.Module, training: Training, done: int, num_examples: int) -> None:
        self.model, self.task, self.own = model, training.task, _list_trained(model)
        self.context = StepContext(done, training.num_steps, is_training=False, seed=training.seed)
        rows, device = torch.arange(min(num_examples, len(training.val))), next(iter(self.own.values())).device
        batch = training.val.batch(rows, torch.zeros_like(rows))
        self.batch: Tree = tree_map_only(Tensor, lambda each: each.to(device), batch)

    @torch.no_grad()
    def measure(self, weights: Tensor) -> float:
        """The loss with other weights in the model, which is in evaluation mode; afterwards it is as before."""
        before, was_training = _flatten(self.own), self.model.training
        try:
            self._write(weights)
            return float(self.task.loss(self.model.eval(), self.batch, self.context).mean)
        finally:
            self._write(before)
            self.model.train(was_training)

    def approach_critical_point(self, weights: Tensor, num_steps: int) -> tuple[Tensor, float, Tensor]:
        """Make the gradient smaller by damped Newton steps.

        Returns:
            The weights, float [weights]; the length of their gradient; and their Hessian, float [weights, weights].
        """
        was_training = self.model.training
        self.model.eval()
        slope = grad(self._compute)
        curvature = jacrev(slope)
        gradient, matrix = slope(weights), curvature(weights)
        for _ in range(num_steps):
            square, scale = matrix @ matrix, float(matrix.square().sum(1).max())
            for damping in _DAMPING:
                eye = torch.eye(len(weights)).to(weights) * damping * scale
                step = torch.linalg.solve(square + eye, matrix @ gradient)
                new = slope(weights - step)
                if new.norm() < gradient.norm():
                    break
            else:
                break  # a minimum of the length of the gradient
            weights = weights - step
            gradient, matrix = new, curvature(weights)
        self.model.train(was_training)
        return weights, float(gradient.norm()), matrix

    def _compute(self, weights: Tensor) -> Tensor:
        parts = torch.split(weights, [each.numel() for each in self.own.values()])
        named = {name: part.view_as(each) for (name, each), part in zip(self.own.items(), parts, strict=True)}

        def call(*inputs: Tree) -> Tree:
            return functional_call(self.model, named, inputs)

        return self.task.loss(call, self.batch, self.context).mean  # type: ignore[arg-type]  # only called

    def _write(self, weights: Tensor) -> None:
        parts = torch.split(weights, [each.numel() for each in self.own.values()])
        for each, part in zip(self.own.values(), parts, strict=True):
            each.copy_(part.view_as(each))


def _list_trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: each for name, each in model.named_parameters() if each.requires_grad}


def _flatten(weights: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([each.detach().flatten() for each in weights.values()])


def _draw_direction(weights: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
    """A random direction in which each filter is as long as that of the weights; 0 for biases and scales."""
    parts = []
    for each in weights.values():
        if each.dim() < 2:
            parts.append(torch.zeros_like(each).flatten())
            continue
        rows = each.detach().flatten(1)
        noise = torch.randn(rows.shape, generator=generator).to(rows)
        parts.append((noise / noise.norm(dim=1, keepdim=True) * rows.norm(dim=1, keepdim=True)).flatten())
    return torch.cat(parts)


def _draw(
    steps: Sequence[float],
    surface: Sequence[Sequence[float]],
    line: Sequence[float],
    critical: Sequence[_CriticalPoint],
) -> bytes:
    from matplotlib.figure import Figure

    count = 3 if critical else 2
    figure = Figure(figsize=(4.6 * count, 4.2), dpi=100, layout="constrained")
    axes = figure.subplots(1, count)
    heights = torch.tensor(surface).clamp_min(1e-12).log10().nan_to_num(posinf=38).numpy()
    filled = axes[0].contourf(steps, steps, heights, levels=20, cmap="viridis")
    figure.colorbar(filled, ax=axes[0], label="log10 of the loss")
    axes[0].plot(0, 0, marker="+", color="white")
    axes[0].set(xlabel="first direction", ylabel="second direction", title="around the weights")
    axes[1].plot(_LINE, line, color="#0072b2")
    axes[1].set(xlabel="0: initial weights, 1: final weights", ylabel="loss", title="from the initial weights")
    if critical:
        axes[2].scatter([each.share for each in critical], [each.loss for each in critical], color="#0072b2", s=14)
        axes[2].set(xlabel="share of negative eigenvalues", ylabel="loss", title="critical points")
    for axis in axes[1:]:
        axis.spines[["top", "right"]].set_visible(False)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()
