import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from modules.model.autoencoder import Autoencoder, VariationalAutoencoder
from modules.task.autoencoding import Denoising, Variational
from modules.task.base import StepContext

BATCH = torch.rand(6, 1, 3, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(6, dtype=torch.int64)


class Identity(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs


def test_hidden_values_have_to_be_restored_in_training_only() -> None:
    task = Denoising(0.5)
    training = task.loss(Identity(), BATCH, StepContext(0, 1, seed=1))
    assert float(training.mean) == float(training.metrics["mse"])
    assert 0.3 < float(training.mean / BATCH[0].square().mean()) < 0.7, "about half of the values are hidden"
    assert float(task.loss(Identity(), BATCH, StepContext(0, 1, is_training=False)).mean) == 0


def test_the_loss_is_the_negative_evidence_lower_bound() -> None:
    torch.manual_seed(0)
    model = VariationalAutoencoder(12, [8], code_size=3)
    context = StepContext(0, 1, seed=7)
    with torch.no_grad():
        loss = Variational(3).loss(model, BATCH, context)
    pixels = BATCH[0].flatten(1)
    logits, mean, log_variance = model(pixels, StepContext(0, 1, seed=7).randn(6, 3))
    posterior = Normal(mean, (log_variance / 2).exp())
    divergence = kl_divergence(posterior, Normal(0.0, 1.0)).sum(1).mean()
    likelihood = Bernoulli(logits=logits, validate_args=False).log_prob(pixels).sum(1).mean()  # type: ignore[no-untyped-call]
    assert float(loss.mean) == pytest.approx(float((divergence - likelihood).detach()), rel=1e-5)
    assert float(loss.metrics["divergence_nats"]) == pytest.approx(float(divergence.detach()), rel=1e-5)


def test_a_model_that_does_not_fit_is_refused_before_training() -> None:
    with pytest.raises(
        ValueError, match=r"returns as many numbers as an example has, \[6, 12\], but Linear returns \[6, 1\]"
    ):
        Denoising().loss(nn.Linear(12, 1), BATCH, StepContext(0, 1))
    with pytest.raises(ValueError, match="the model is Autoencoder; choose model=variational_autoencoder"):
        Variational(3).check(Autoencoder(12, [8], 3), BATCH)
    with pytest.raises(
        ValueError, match=r"task.code_size=1 is not the 3 numbers of the model's code; set task.code_size=3"
    ):
        Variational(1).check(VariationalAutoencoder(12, [8], 3), BATCH)
    Variational(3).check(VariationalAutoencoder(12, [8], 3), BATCH)


def test_samples_are_images() -> None:
    context = StepContext(0, 1, is_training=False)
    plain = Denoising().samples(Autoencoder(12, [8], 3), BATCH, context)
    drawn = Variational(3).samples(VariationalAutoencoder(12, [8], 3), BATCH, context)
    assert [*plain, *drawn] == ["inputs", "restored", "inputs", "restored", "drawn"]
    for images in (*plain.values(), *drawn.values()):
        assert images.shape == BATCH[0].shape
        assert 0 <= float(images.detach().min()) <= float(images.detach().max()) <= 1


@pytest.mark.parametrize("prob", [-0.1, 1.0])
def test_a_wrong_probability_is_refused(prob: float) -> None:
    with pytest.raises(ValueError, match=r"masking_prob in \[0, 1\)"):
        Denoising(prob)
