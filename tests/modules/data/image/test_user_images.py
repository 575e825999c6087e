from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modules.data.base import UserInputError
from modules.data.image.user_images import fit, open_photo

RAMP = np.linspace(0, 255, 30).reshape(5, 6).round().astype(np.uint8)


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
