"""A variational autoencoder of digits.

Shows: a loss that sees the inputs, random numbers that do not depend on the layout, and samples as images.
Source: Kingma and Welling 2013, arXiv:1312.6114.
"""

import torch
from lathe.modules.data.base import Batch
from lathe.modules.task.base import Loss, StepContext, Task
from torch import Tensor, nn
from torch.nn import functional


class VaeModel(nn.Module):
    """An encoder that gives the mean and the logarithm of the variance of a code, and a decoder."""

    def __init__(self, num_features: int, hidden_size: int, code_size: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(num_features, hidden_size), nn.ReLU(), nn.Linear(hidden_size, 2 * code_size)
        )
        self.decoder = nn.Sequential(nn.Linear(code_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, num_features))

    def forward(self, pixels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits [batch, num_features], and mean and logarithm of the variance of the code [batch, code_size]."""
        mean, log_variance = self.encoder(pixels).chunk(2, dim=1)
        return self.decoder(mean + noise * torch.exp(log_variance / 2)), mean, log_variance


class Vae(Task):
    """Maximises the evidence lower bound."""

    needs = ("inputs",)

    def __init__(self, code_size: int) -> None:
        self.code_size = code_size

    def loss(self, model: nn.Module, batch: Batch, context: StepContext) -> Loss:
        images, _ = batch
        pixels = images.flatten(1)
        noise = context.randn(len(pixels), self.code_size, device=pixels.device)
        logits, mean, log_variance = model(pixels, noise)
        reconstruction = functional.binary_cross_entropy_with_logits(logits, pixels, reduction="sum") / len(pixels)
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
        loss = reconstruction + divergence
        return Loss(loss, {"loss_nats": loss.detach(), "divergence_nats": divergence.detach()})

    def samples(self, model: VaeModel, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        images, _ = batch
        noise = context.randn(len(images), self.code_size, device=images.device)
        seen, _, _ = model(images.flatten(1), torch.zeros_like(noise))
        drawn = model.decoder(noise)
        return {"generated": drawn.sigmoid().view_as(images), "reconstructed": seen.sigmoid().view_as(images)}
