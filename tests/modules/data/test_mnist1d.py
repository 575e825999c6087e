import os
from pathlib import Path

import numpy as np
import pytest
import torch

from modules.data.base import DataError
from modules.data.mnist1d import Mnist1d
from tests.support.batches import fetch


@pytest.fixture
def root(tmp_path: Path) -> str:
    """7 signals of 5 numbers to train on, 3 to test on, each its own number all over."""
    (tmp_path / "tiny").mkdir()
    x, x_test = (np.arange(count)[:, None] * np.ones(5) for count in (7, 3))
    np.savez(tmp_path / "tiny" / "tiny.npz", x=x, y=np.arange(7) % 4, x_test=x_test, y_test=np.arange(3))
    return str(tmp_path)


def _data(root: str, num_val: int = 2, num_features: int = 5, num_classes: int = 4) -> Mnist1d:
    return Mnist1d(root, "tiny", {"tiny.npz": None}, 5, num_val, num_features, num_classes)


def test_the_last_training_signals_validate(root: str) -> None:
    splits = {name: _data(root).load(name) for name in ("train", "val", "test")}
    message = {name: split.inputs[:, 4].tolist() for name, split in splits.items()}
    assert message == {"train": [0, 1, 2, 3, 4], "val": [5, 6], "test": [0, 1, 2]}
    assert splits["val"].targets.tolist() == [1, 2]


def test_a_batch_looks_like_the_example(root: str) -> None:
    data = _data(root)
    for real, blank in zip(fetch(data.load("train"), torch.arange(3)), data.example(3), strict=True):
        assert isinstance(real, torch.Tensor)
        assert isinstance(blank, torch.Tensor)
        assert (real.shape, real.dtype) == (blank.shape, blank.dtype)


def test_an_archive_that_does_not_fit_is_refused(root: str) -> None:
    with pytest.raises(DataError, match=r"it has signals \[7, 5\] in 4 classes, but data.num_features is 6"):
        _data(root, num_features=6).load("train")
    with pytest.raises(DataError, match=r"signals \[3, 5\] in 3 classes, but .* and data.num_classes 2"):
        _data(root, num_classes=2).load("test")
    with pytest.raises(
        ValueError,
        match=r"data.num_train=5 and data.num_val=7 are together more than the 7 examples; set data.num_train=0",
    ):
        _data(root, num_val=7).load("val")
    np.savez(Path(root) / "tiny" / "tiny.npz", x=np.zeros(3))
    with pytest.raises(DataError, match=r"tiny\.npz is damaged or of another format \(it has no 'y'\)"):
        _data(root).load("val")


ODD_LABELS = {
    "negative": (np.array([0, 1, -1, 2, 0, 1, 2]), "it has the label -1, but labels are numbered from 0"),
    "one number": (
        np.array(3),
        r"its labels have the shape \[\] and the type int64, but must be one integer per example",
    ),
    "a table": (np.zeros((7, 2), int), r"its labels have the shape \[7, 2\]"),
    "floats": (np.zeros(7), "and the type float64, but must be one integer"),
    "NaN": (np.full(7, np.nan), "and the type float64"),
    "text": (np.array(["a"] * 7), "and the type <U1"),
    "fields": (np.zeros(7, [("a", int)]), "but must be one integer per example"),
    "times": (np.zeros(7, "M8[s]"), "but must be one integer per example"),
    "too few": (np.zeros(6, int), r"it has signals \[7, 5\]"),
    "none": (np.zeros(0, int), "."),
}
SIGNALS = np.zeros((7, 5))
ODD_SIGNALS = {
    "NaN": (np.where(np.arange(5) == 3, np.nan, SIGNALS), "7 of its 35 signals are not finite numbers"),
    "infinite": (np.where(np.arange(5) == 3, np.inf, SIGNALS), "7 of its 35 signals are not finite numbers"),
    "complex": (SIGNALS.astype(complex), "its signals have the type complex128, but must be real numbers"),
    "text": (np.full((7, 5), "a"), "its signals have the type <U1"),
    "fields": (np.zeros((7, 5), [("a", int)]), "but must be real numbers"),
    "one number": (np.array(3.0), r"it has signals \[\]"),
    "flat": (np.zeros(35), r"it has signals \[35\]"),
}


@pytest.mark.parametrize("kind", [*(f"y {kind}" for kind in ODD_LABELS), *(f"x {kind}" for kind in ODD_SIGNALS)])
def test_odd_arrays_are_a_data_error(root: str, kind: str) -> None:
    name, _, key = kind.partition(" ")
    array, message = (ODD_LABELS if name == "y" else ODD_SIGNALS)[key]
    np.savez(Path(root) / "tiny" / "tiny.npz", **({"x": SIGNALS, "y": np.zeros(7, int)} | {name: array}))
    with pytest.raises(DataError, match=rf"tiny\.npz is damaged or of another format \(.*{message}"):
        _data(root).load("train")


def test_building_wants_one_archive() -> None:
    with pytest.raises(ValueError, match=r"Mnist1d wants one archive in data.files, but got \['a', 'b'\]"):
        Mnist1d("/nowhere", "tiny", {"b": None, "a": None}, 5, 2, 5, 4)


def test_mnist1d_itself_has_its_published_sizes() -> None:
    root = os.environ.get("LATHE_DATA")
    if not root or not (Path(root) / "mnist1d").is_dir():
        pytest.skip("MNIST-1D is not here; set LATHE_DATA to the folder that holds 'mnist1d'")
    data = Mnist1d(root, "mnist1d", {"mnist1d.npz": None}, 3500, 500, 40, 10)
    assert [len(data.load(name)) for name in ("train", "val", "test")] == [3500, 500, 1000]
