import gzip
import os
import re
import struct
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from modules.data.base import DataError
from modules.data.idx import IdxImages
from tests.support.batches import fetch

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"
NAMES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)


def _write(path: Path, array: np.ndarray) -> None:
    head = struct.pack(f">{1 + array.ndim}i", 2048 + array.ndim, *array.shape)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """7 images of 3x5 to train on and 4 to test on, every pixel 10 times the image's number; labels count to 4."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    for count, images, labels in ((7, TRAIN_IMAGES, TRAIN_LABELS), (4, TEST_IMAGES, TEST_LABELS)):
        _write(folder / images, np.arange(count)[:, None, None] * 10 + np.zeros((count, 3, 5)))
        _write(folder / labels, np.arange(count) % 4)
    return folder


def _data(folder: Path, num_val: int = 2, num_classes: int = 4, width: int = 5) -> IdxImages:
    return IdxImages(
        str(folder.parent), folder.name, dict.fromkeys(NAMES), 5, num_val, [1, 3, width], 3 * width, num_classes
    )


def test_the_last_training_images_validate(folder: Path) -> None:
    data = _data(folder)
    message = {name: (data.load(name).inputs[:, 0, 0, 0] // 10).tolist() for name in ("train", "val", "test")}
    assert message == {"train": [0, 1, 2, 3, 4], "val": [5, 6], "test": [0, 1, 2, 3]}
    assert data.load("val").targets.tolist() == [1, 2]


def test_a_batch_looks_like_the_example(folder: Path) -> None:
    data = _data(folder)
    batch = fetch(data.load("train"), torch.tensor([4, 0]))
    for real, blank in zip(batch, data.example(2), strict=True):
        real, blank = cast(Tensor, real), cast(Tensor, blank)
        assert (real.shape, real.dtype) == (blank.shape, blank.dtype)
    torch.testing.assert_close(cast(Tensor, batch[0])[:, 0, 2, 4], torch.tensor([40 / 255, 0.0]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (TRAIN_IMAGES, b"abc", "Not a gzipped file (b'ab')"),
        (TRAIN_IMAGES, gzip.compress(b"abc", mtime=0), "3 bytes are too few for an idx file"),
        (TRAIN_IMAGES, gzip.compress(bytes(99), mtime=0), "its magic number is 0, not 2051"),
        (
            TRAIN_LABELS,
            gzip.compress(struct.pack(">ii", 2049, 7) + bytes(6), mtime=0),
            "its header says [7], but it has 6 bytes",
        ),
        (TRAIN_LABELS, gzip.compress(struct.pack(">ii", 2049, 6) + bytes(6), mtime=0), "it has 6 labels for 7 images"),
    ],
)
def test_a_damaged_file_is_named(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        _data(folder).load("train")
    assert str(caught.value) == (
        f"data.folder='tiny': {folder / name} is damaged or of another format ({message}); fetch it again from the "
        f"source that `lathe data` names, or set LATHE_DATA to a folder with a good copy"
    )


def test_a_truncated_file_is_named(folder: Path) -> None:
    whole = (folder / TRAIN_IMAGES).read_bytes()
    (folder / TRAIN_IMAGES).write_bytes(whole[:-9])
    with pytest.raises(DataError, match="Compressed file ended before the end-of-stream marker was reached"):
        _data(folder).load("val")
    (folder / TRAIN_IMAGES).write_bytes(whole[:12] + b"\xff" * 9 + whole[21:])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is damaged or of another format"):
        _data(folder).load("val")


def test_files_that_do_not_fit_the_configuration_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=re.escape("its images are [3, 5], but data.image_shape is [1, 3, 6]")):
        _data(folder, width=6).load("train")
    with pytest.raises(DataError, match=r"it has the label 3, but data.num_classes is 3"):
        _data(folder, num_classes=3).load("train")
    with pytest.raises(
        ValueError,
        match=r"data.num_train=5 and data.num_val=7 are together more than the 7 examples; set data.num_train=0",
    ):
        _data(folder, num_val=7).load("train")


def test_building_wants_the_four_files_and_reads_none() -> None:
    _data(Path("/nowhere/tiny")).example(1)
    with pytest.raises(
        DataError, match=r"/nowhere/tiny/train-images-idx3-ubyte\.gz is missing; the set needs train-im"
    ):
        _data(Path("/nowhere/tiny")).load("train")
    with pytest.raises(ValueError, match=re.escape("but got ['a.gz']")):
        IdxImages("/nowhere", "tiny", {"a.gz": None}, 5, 2, [1, 3, 5], 15, 4)


def test_mnist_itself_has_the_tutorials_splits() -> None:
    root = os.environ.get("LATHE_DATA")
    if not root or not (Path(root) / "mnist").is_dir():
        pytest.skip("MNIST is not here; set LATHE_DATA to the folder that holds 'mnist'")
    data = IdxImages(root, "mnist", dict.fromkeys(NAMES), 55000, 5000, [1, 28, 28], 784, 10)
    assert [len(data.load(name)) for name in ("train", "val", "test")] == [55_000, 5_000, 10_000]
    assert data.load("train").targets[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.load("test").targets[:5].tolist() == [7, 2, 1, 0, 4]
