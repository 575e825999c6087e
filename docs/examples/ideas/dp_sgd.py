"""Stochastic gradient descent with differential privacy: each example's gradient is clipped, and noise is added to their sum.

Shows: a gradient for each example (`torch.func`), and a gradient that the task makes itself. The guarantee holds only if
the seed of the experiment is secret, because the noise follows from it. `task=dp_sgd` also computes epsilon.
Source: Abadi et al. 2016, arXiv:1607.00133, algorithm 1.
"""

import torch
from lathe.modules.data.base import Batch
from lathe.modules.task.base import Evaluation, Loss, StepContext, Task
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional


class PrivateClassification(Task):
    """Cross-entropy with clipped gradients and noise. The model must not mix examples, as batch normalisation does."""

    needs = ("inputs", "whole_model", "per_example_gradients")

    def __init__(self, clip_norm: float, noise_scale: float) -> None:
        """
        Args:
            clip_norm: largest norm of the gradient of one example.
            noise_scale: standard deviation of the noise of the sum, as a multiple of ``clip_norm``.
        """
        self.clip_norm, self.noise_scale = clip_norm, noise_scale

    def loss(self, model: nn.Module, batch: Batch, context: StepContext) -> Loss:
        inputs, targets = batch
        named = dict(model.named_parameters())

        def example_loss(parameters: dict[str, Tensor], example: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
            logits = functional_call(model, parameters, (example[None],))
            loss = functional.cross_entropy(logits, target[None])
            return loss, loss

        frozen = {name: parameter.detach() for name, parameter in named.items()}
        gradients, losses = vmap(grad(example_loss, has_aux=True), (None, 0, 0), randomness="different")(
            frozen, inputs, targets
        )
        norms = torch.stack([each.flatten(1).norm(dim=1) for each in gradients.values()]).norm(dim=0)
        factors = (self.clip_norm / (norms + 1e-6)).clamp(max=1)
        noise_std = self.noise_scale * self.clip_norm / max(context.num_rows, len(inputs))
        # All micro-batches and replicas add the same noise to their means, so the mean over them has it once.
        generator = torch.Generator().manual_seed(context.seed)
        total = inputs.new_zeros(())
        for name, each in gradients.items():
            mean = torch.einsum("b,b...->...", factors, each) / len(inputs)
            noise = torch.randn(mean.shape, generator=generator).to(mean.device) * noise_std
            total = total + (named[name] * (mean + noise)).sum()  # a function whose gradient is the private one
        clipped = (norms > self.clip_norm).float().mean()
        return Loss(total, {"loss_nats": losses.mean().detach(), "clipped_fraction": clipped})

    def evaluate(self, model: nn.Module, batch: Batch, context: StepContext) -> Evaluation:
        inputs, targets = batch
        logits = model(inputs)
        return Evaluation({"loss_nats": functional.cross_entropy(logits, targets)}, logits, targets)
