from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modules.data.base import UserInputError
from modules.data.image.user_images import fit, open_photo, to_pixels

RAMP = np.linspace(0, 255, 30).reshape(5, 6).round().astype(np.uint8)


def saved(path: Path, image: Image.Image, **more: Any) -> str:
    image.save(path, **more)
    return str(path)


def grey(path: str) -> np.ndarray:
    return to_pixels(open_photo(path, "L"))[..., 0]


def test_every_mode_of_the_same_picture_reads_the_same(tmp_path: Path) -> None:
    picture = Image.fromarray(RAMP)
    for mode in ("L", "RGB", "RGBA", "P", "LA"):
        assert np.array_equal(grey(saved(tmp_path / f"{mode}.png", picture.convert(mode))), RAMP)
    deep = Image.fromarray(RAMP.astype(np.uint16) * 257)
    assert np.array_equal(grey(saved(tmp_path / "deep.png", deep)), RAMP)
    assert np.array_equal(grey(saved(tmp_path / "deep.tiff", deep)), RAMP)


def test_transparent_pixels_become_white(tmp_path: Path) -> None:
    pixels = np.dstack([RAMP, RAMP, RAMP, np.zeros_like(RAMP)])
    assert (grey(saved(tmp_path / "clear.png", Image.fromarray(pixels))) == 255).all()


def test_a_photo_is_rotated_by_its_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right brings it upright
    path = saved(tmp_path / "turned.png", Image.fromarray(RAMP), exif=exif)
    assert np.array_equal(grey(path), np.rot90(RAMP, -1))


def test_fitting_crops_the_centre_and_keeps_photos_of_the_right_size() -> None:
    picture = Image.fromarray(RAMP)
    assert np.array_equal(np.asarray(fit(picture, 5, 6)), RAMP)
    assert np.array_equal(np.asarray(fit(picture, 5, 4)), RAMP[:, 1:5])
    assert fit(picture, 20, 3).size == (3, 20)


@pytest.mark.parametrize(("content", "message"), [(b"no image", "unknown format"), (b"", "the file is empty")])
def test_a_file_that_is_not_an_image_is_reported_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(UserInputError, match=rf"x.png cannot be read as an image \({message}\); convert it"):
        open_photo(str(tmp_path / "x.png"), "L")
    with pytest.raises(UserInputError, match=r"cannot be read as an image \(Is a directory\)"):
        open_photo(str(tmp_path), "L")


def test_a_file_that_disappears_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.png").write_bytes(b"no image")
    look = Image.open

    def look_and_lose(path: str) -> Image.Image:
        try:
            return look(path)
        finally:
            Path(path).unlink()

    monkeypatch.setattr(Image, "open", look_and_lose)
    with pytest.raises(UserInputError, match=r"x.png cannot be read as an image \(unknown format\); convert it"):
        open_photo(str(tmp_path / "x.png"), "L")


def test_a_file_that_is_cut_off_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(np.random.RandomState(0).randint(255, size=(40, 30), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(UserInputError, match=r"cannot be read as an image \(image file is truncated"):
        open_photo(str(path), "RGB")


def test_a_kind_of_picture_that_pillow_does_not_know_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "x.dds"
    Image.fromarray(RAMP).save(path)
    content = bytearray(path.read_bytes())
    content[80:84] = bytes([1, 0, 0, 0])  # the flags of its pixels
    path.write_bytes(content)
    with pytest.raises(UserInputError, match=r"cannot be read as an image \(Unknown pixel format flags"):
        open_photo(str(path), "RGB")
