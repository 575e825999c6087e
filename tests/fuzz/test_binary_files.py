"""Shared files, bundles, data files and images: any content is read or refused, within the memory that `conftest.py` allows."""

from __future__ import annotations

import contextlib
import gzip
import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from experiments.core.errors import InputError
from experiments.results.share.shared_file import read
from modules.data.base import DataError, UserInputError
from modules.data.files import DataFiles
from modules.data.idx import IdxImages
from modules.data.image.user_images import open_photo
from tests.support.mutations import damaged
from tests.support.shares import bundled, text


def _image(ending: str) -> bytes:
    pixels = np.arange(16 * 12 * 3, dtype=np.uint8).reshape(16, 12, 3)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, ending)
    return content.getvalue()


IMAGES = [_image(ending) for ending in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("bundle") / "it.tar.gz"
    bundled(path)
    return path.read_bytes()


@given(content=damaged([text().encode()]))
@settings(max_examples=settings().max_examples * 2)
def test_shared_files_are_read_or_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "it.yaml"
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        read(path)


@given(data=st.data())
def test_bundles_are_read_or_refused(
    bundle: bytes, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "it.tar.gz"
    unpacked = gzip.decompress(bundle)
    content = data.draw(damaged([bundle]) | damaged([unpacked]).map(gzip.compress))
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        read(path)


def _npz() -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, x=np.arange(6.0).reshape(2, 3), y=np.array([0, 1]))
    return content.getvalue()


IDX_FILES = {
    f"{part}-{name}": gzip.compress(header + bytes(4 * 4 if "images" in name else 4))
    for part in ("train", "t10k")
    for name, header in {
        "images-idx3-ubyte.gz": struct.pack(">4i", 2051, 4, 2, 2),
        "labels-idx1-ubyte.gz": struct.pack(">2i", 2049, 4),
    }.items()
}


@given(data=st.data())
@settings(max_examples=settings().max_examples * 3)
def test_data_files_are_loaded_or_refused(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.getbasetemp()
    (root / "idx").mkdir(exist_ok=True)
    for name, content in IDX_FILES.items():
        unpacked = gzip.decompress(content)
        changed = data.draw(st.just(content) | damaged([content]) | damaged([unpacked]).map(gzip.compress))
        (root / "idx" / name).write_bytes(changed)
    files = dict.fromkeys(IDX_FILES, None)
    images = IdxImages(str(root), "idx", files, 2, 2, [1, 2, 2], num_features=4, num_classes=2)
    with contextlib.suppress(DataError):
        assert len(images.load("train")) == 2
    (root / "idx" / "a.npz").write_bytes(data.draw(damaged([_npz(), b"", b"PK"])))
    with contextlib.suppress(DataError):
        DataFiles(str(root), "idx", {"a.npz": None}).read_npz("a.npz")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@given(content=damaged(IMAGES))
@settings(max_examples=settings().max_examples * 5)
def test_images_are_decoded_or_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "it.png"
    path.write_bytes(content)
    with contextlib.suppress(UserInputError):
        open_photo(str(path), "RGB")
