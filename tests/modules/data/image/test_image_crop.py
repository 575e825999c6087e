from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from modules.data.image.image_crop import ImageCrop, make_image_crop
from modules.data.own.folder_split import UnreadableError


def encoded(height: int = 40, width: int = 60) -> bytes:
    """A photo whose green rises with the rows and blue with the columns."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    pixels[..., 2] = np.linspace(0, 255, width)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def parts(cut: ImageCrop, seed: int, count: int = 200) -> tuple[Tensor, Tensor]:
    """Share of the photo's height and of its width that every one of many cuts shows."""
    images = cut.batch([encoded()] * count, torch.arange(count) + 1000 * seed)
    columns, rows = images.mean(dim=2)[:, 2], images.mean(dim=3)[:, 1]
    return (rows[:, -1] - rows[:, 0]).abs() * 16 / 15, (columns[:, -1] - columns[:, 0]).abs() * 16 / 15


def test_crops_by_area_are_random_and_the_centre_is_deterministic() -> None:
    cut = ImageCrop(20, 16, min_scale=0.08)
    high, wide = parts(cut, seed=1)
    area, ratio = high * wide, (wide * 60) / (high * 40)
    assert float(area.min()) == pytest.approx(0.08, abs=0.03)
    assert float(area.max()) > 0.85
    assert float(area.mean()) == pytest.approx(0.52, abs=0.06)
    inner = ratio[(high < 0.85) & (wide < 0.85)]  # where the photo leaves room
    assert float(inner.min()) == pytest.approx(3 / 4, abs=0.06)
    assert float(inner.max()) == pytest.approx(4 / 3, abs=0.1)
    assert torch.equal(high, parts(cut, seed=1)[0])
    assert not torch.equal(high, parts(cut, seed=2)[0])
    plain = ImageCrop(20, 16)
    assert torch.equal(cut.batch([encoded()], None), plain.batch([encoded()], None))
    high, wide = parts(plain, seed=1)
    torch.testing.assert_close(high, torch.full_like(high, 16 / 20), atol=0.03, rtol=0)


def test_channels_are_brought_to_the_mean_and_deviation_of_the_set() -> None:
    raw = ImageCrop(20, 16).batch([encoded()], None)
    actual = ImageCrop(20, 16, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 0.5)).batch([encoded()], None)
    for channel, (mean, std) in enumerate([(0.1, 1.0), (0.2, 2.0), (0.3, 0.5)]):
        torch.testing.assert_close(actual[:, channel], (raw[:, channel] - mean) / std)


def test_which_of_the_files_is_no_photo_is_reported() -> None:
    with pytest.raises(UnreadableError) as caught:
        ImageCrop(20, 16).batch([encoded(), b"no photo"], None)
    assert caught.value.number == 1
    assert caught.value.reason == "unknown format"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((20, 16, [3, 16, 16], 768, 1.5, None, None), r"min_scale in \(0, 1\], but got 1.5"),
        (
            (20, 16, [3, 16, 16], 768, None, [0.5], [0.5]),
            r"three numbers each, or neither, but got \[0.5\] and \[0.5\]",
        ),
        ((20, 16, [3, 16, 16], 768, None, [0, 0, 0], None), r"but got \[0, 0, 0\] and None; give both"),
        ((20, 16, [3, 16, 16], 768, None, [0, 0, 0], [1, 0, 1]), r"every std above 0, but got \[1, 0, 1\]"),
        ((12, 16, [3, 16, 16], 768, None, None, None), "Photos wants resize_size of at least 16, but got 12"),
        ((20, 16, [1, 16, 16], 256, None, None, None), r"image_size=16; set data.image_shape=\[3,16,16\]"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_image_crop("Photos", *arguments)  # type: ignore[arg-type]
