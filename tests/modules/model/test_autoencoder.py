import pytest
import torch

from modules.model.autoencoder import Autoencoder, VariationalAutoencoder


def test_an_example_becomes_a_code_and_an_example_again() -> None:
    model = Autoencoder(12, [8, 6], code_size=3)
    images = torch.rand(5, 1, 3, 4)
    assert model.codes(images).shape == (5, 3)
    assert torch.equal(model(images), model.decoder(model.codes(images)))
    assert model(images).shape == (5, 12)
    assert [layer.out_features for layer in model.decoder if isinstance(layer, torch.nn.Linear)] == [6, 8, 12]


def test_noise_is_scaled_by_the_standard_deviation() -> None:
    torch.manual_seed(0)
    model = VariationalAutoencoder(12, [8], code_size=3)
    images, noise = torch.rand(5, 12), torch.randn(5, 3)
    logits, mean, log_variance = model(images, noise)
    assert torch.equal(mean, model.codes(images))
    assert torch.allclose(logits, model.decoder(mean + noise * log_variance.exp().sqrt()), atol=1e-6)
    assert torch.equal(model(images)[0], model.decoder(mean))


@pytest.mark.parametrize("sizes", [(0, [8], 3), (12, [0], 3), (12, [8], 0)])
def test_wrong_sizes_are_refused(sizes: tuple[int, list[int], int]) -> None:
    with pytest.raises(ValueError, match="at least 1, but got"):
        Autoencoder(*sizes)
