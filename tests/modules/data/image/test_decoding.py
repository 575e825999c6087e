import os
import socket
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from modules.data.image import decoding
from modules.data.image.decoding import ImageError, decode, open_image
from modules.data.image.image_crop import ImageCrop
from tests.support.photos import RAMP, odd_files, save


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_every_file_of_a_picture_decodes_to_the_same_8_bits(mode: Literal["L", "RGB"]) -> None:
    for name, content in odd_files().items():
        with open_image(content) as image:
            decoded = decode(image, mode)
        off = np.abs(np.asarray(decoded, np.int16).reshape(24, 30, -1) - RAMP[..., None]).max()
        assert (decoded.mode, int(off) <= 1) == (mode, True), name


def test_crops_of_every_file_of_a_picture_are_the_same() -> None:
    plain = save(Image.fromarray(RAMP), "PNG")
    for min_scale, seed in ((None, None), (None, 1), (0.2, 1)):
        crop = ImageCrop(20, 16, min_scale)

        def see(content: bytes, crop: ImageCrop = crop, seed: int | None = seed) -> torch.Tensor:
            return crop.batch([content], None if seed is None else torch.tensor([seed]))

        for name, content in odd_files().items():
            torch.testing.assert_close(see(content), see(plain), atol=1.01 / 255, rtol=0, msg=name)


def test_damaged_exif_data_leave_a_photo_as_it_is_stored() -> None:
    content = save(Image.fromarray(RAMP), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    with open_image(content) as image:
        assert np.array_equal(np.asarray(decode(image, "L")), RAMP)


def test_an_image_of_too_many_pixels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = save(Image.fromarray(RAMP), "PNG")
    monkeypatch.setattr(decoding, "MAX_PIXELS", 719)
    with (
        pytest.raises(ImageError, match=r"it has 0\.0 megapixels, more than 0; make it smaller"),
        open_image(content) as image,
    ):
        decode(image, "RGB")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with pytest.raises(ImageError, match="exceeds limit of 600 pixels"), open_image(content):
        pass


def test_what_is_not_a_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.png"))
        for name, kind in {"pipe.png": "named pipe", "socket.png": "socket", "/dev/zero": "device"}.items():
            with pytest.raises(ImageError, match=f"it is a {kind} and not a file"), open_image(tmp_path / name):
                pass
    for name, reason in {"gone.png": "No such file or directory", "": "Is a directory"}.items():
        with pytest.raises(ImageError, match=reason), open_image(tmp_path / name):
            pass
