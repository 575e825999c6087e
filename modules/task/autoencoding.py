"""Learning without labels: autoencoders that restore their inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from modules.data.base import Tree
from modules.model.autoencoder import VariationalAutoencoder
from modules.task.base import Loss, StepContext, Task


class Denoising(Task):
    """Restores inputs of which some values are set to 0; the targets of the data are not used.

    Source: Vincent et al. 2008, doi:10.1145/1390156.1390294; without noise Hinton and Salakhutdinov 2006.
    """

    is_component = True
    needs = ("inputs",)

    def __init__(self, masking_prob: float = 0.0) -> None:
        """
        Args:
            masking_prob: probability that a value is set to 0, in training only; 0: a plain autoencoder.
        """
        if not 0 <= masking_prob < 1:
            raise ValueError(f"Denoising wants masking_prob in [0, 1), but got {masking_prob}")
        self.masking_prob = masking_prob

    def loss(self, model: nn.Module, batch: Tree, context: StepContext) -> Loss:
        inputs = batch[0].flatten(1)
        seen = inputs
        if self.masking_prob and context.is_training:
            seen = inputs * (context.rand(*inputs.shape, device=inputs.device) >= self.masking_prob)
        outputs = model(seen)
        if not isinstance(outputs, Tensor) or outputs.shape != inputs.shape:
            shape = list(outputs.shape) if isinstance(outputs, Tensor) else "a tuple"
            raise ValueError(
                f"task Denoising wants a model that returns as many numbers as an example has, {list(inputs.shape)}, but "
                f"{type(model).__name__} returns {shape}; choose model=autoencoder"
            )
        error = (outputs.float() - inputs).square().mean()
        return Loss(error, {"mse": error.detach()})

    def samples(self, model: nn.Module, batch: Tree, context: StepContext) -> dict[str, Tensor]:
        images = batch[0]
        return {"inputs": images, "restored": model(images).clamp(0, 1).view_as(images)}


class Variational(Task):
    """Maximises the evidence lower bound of inputs from 0 to 1; the targets of the data are not used.

    Source: Kingma and Welling 2013, arXiv:1312.6114, appendices B and C.1.
    """

    is_component = True
    needs = ("inputs",)

    def __init__(self, code_size: int) -> None:
        """
        Args:
            code_size: numbers of a code, as of the model.
        """
        self.code_size = code_size

    def check(self, model: nn.Module, batch: Tree) -> None:
        if not isinstance(model, VariationalAutoencoder):
            raise ValueError(
                f"task Variational wants a variational autoencoder, but the model is {type(model).__name__}; choose "
                "model=variational_autoencoder"
            )
        size = model.code_size
        if size != self.code_size:
            raise ValueError(
                f"task.code_size={self.code_size} is not the {size} numbers of the model's code; set task.code_size={size}"
            )

    def loss(self, model: nn.Module, batch: Tree, context: StepContext) -> Loss:
        pixels = batch[0].flatten(1)
        noise = context.randn(len(pixels), self.code_size, device=pixels.device)
        logits, mean, log_variance = (each.float() for each in model(pixels, noise))  # the divergence cancels digits
        restoring = functional.binary_cross_entropy_with_logits(logits, pixels, reduction="none").sum(1).mean()
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
        loss = restoring + divergence
        return Loss(loss, {"loss_nats": loss.detach(), "divergence_nats": divergence.detach()})

    def samples(self, model: VariationalAutoencoder, batch: Tree, context: StepContext) -> dict[str, Tensor]:
        images = batch[0]
        noise = context.randn(len(images), self.code_size, device=images.device)
        restored, drawn = model(images)[0], model.decoder(noise)
        return {"inputs": images} | {
            name: torch.sigmoid(logits).view_as(images) for name, logits in (("restored", restored), ("drawn", drawn))
        }
