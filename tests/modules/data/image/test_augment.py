import torch

from modules.data.image.augment import (
    centre_crop,
    random_brightness,
    random_contrast,
    random_crop,
    random_flip,
    standardise,
)
from modules.data.sampling.example_random import ExampleRandom


def _numbered(num_images: int) -> torch.Tensor:
    """uint8 [num_images, 2, 5, 6]; a pixel tells its row and column as 10 * row + column, channel 2 adds 100."""
    image = torch.arange(5)[:, None] * 10 + torch.arange(6)
    return torch.stack([image, image + 100]).to(torch.uint8).repeat(num_images, 1, 1, 1)


def test_the_centre_is_cut_out() -> None:
    crop = centre_crop(_numbered(4), 3)
    assert crop.shape == (4, 2, 3, 3)
    assert crop[2, 0].tolist() == [[11, 12, 13], [21, 22, 23], [31, 32, 33]]


def test_random_crops_are_whole_windows_from_everywhere() -> None:
    crops = random_crop(_numbered(400), 3, ExampleRandom(torch.arange(400)))
    corners = crops[:, 0, 0, 0]
    assert crops.shape == (400, 2, 3, 3)
    assert set(corners.tolist()) == {10 * row + column for row in range(3) for column in range(4)}
    window = torch.tensor([[0, 1, 2], [10, 11, 12], [20, 21, 22]])
    assert torch.equal(crops[:, 0].long(), corners[:, None, None] + window)
    assert torch.equal(crops[:, 1].long(), crops[:, 0].long() + 100)


def test_about_half_of_the_images_are_mirrored_each_as_a_whole() -> None:
    images = _numbered(400)
    flipped = random_flip(images, ExampleRandom(torch.arange(400)))
    mirrored = (flipped == images.flip(3)).flatten(1).all(dim=1)
    same = (flipped == images).flatten(1).all(dim=1)
    assert (mirrored ^ same).all()
    assert 150 < int(mirrored.sum()) < 250


def test_brightness_moves_every_image_by_its_own_number() -> None:
    images = _numbered(400).float()
    moved = random_brightness(images, 63.0, ExampleRandom(torch.arange(400))) - images
    torch.testing.assert_close(moved, moved[:, :1, :1, :1].expand_as(moved), atol=1e-4, rtol=0)
    assert moved.min() < -55
    assert moved.max() > 55
    assert moved.abs().max() <= 63


def test_contrast_stretches_every_channel_around_its_mean() -> None:
    images = _numbered(400).float()
    stretched = random_contrast(images, 0.2, 1.8, ExampleRandom(torch.arange(400)))
    torch.testing.assert_close(stretched.mean(dim=(2, 3)), images.mean(dim=(2, 3)))
    ratio = stretched.std(dim=(2, 3)) / images.std(dim=(2, 3))
    torch.testing.assert_close(ratio[:, 0], ratio[:, 1])
    assert 0.2 <= ratio.min() < 0.3
    assert 1.7 < ratio.max() <= 1.8


def test_standardised_images_have_mean_0_and_variance_1_each_by_itself() -> None:
    images = torch.randn(4, 2, 5, 6) * torch.tensor([1.0, 10, 100, 3]).reshape(4, 1, 1, 1) + 7
    flat = standardise(images).flatten(1)
    torch.testing.assert_close(flat.mean(dim=1), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(flat.var(dim=1, correction=0), torch.ones(4))


def test_an_image_of_one_colour_becomes_zeros_and_a_flat_one_keeps_tensorflows_floor() -> None:
    assert not standardise(torch.full((1, 2, 5, 6), 9.0)).any()
    flat = torch.zeros(1, 2, 5, 6)
    flat[0, 0, 0, 0] = 1e-3
    assert abs(standardise(flat).max().item() - (1e-3 - 1e-3 / 60) * 60**0.5) < 1e-6


def test_brightness_before_standardising_changes_nothing() -> None:
    images = _numbered(4).float()
    torch.testing.assert_close(
        standardise(random_brightness(images, 63.0, ExampleRandom(torch.arange(4)))), standardise(images)
    )
