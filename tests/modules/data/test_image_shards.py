import fcntl
import io
import os
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from experiments.train.data_loading import training_batches
from modules.data.base import DataError
from modules.data.image.tar_index import PARTIAL, tar_index
from modules.data.image_shards import ImageShards
from tests.support.batches import fetch


def _photo(red: int, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((20 + red // 10, 30, 3), (red, 0, 0), np.uint8)).save(file, kind)
    return file.getvalue()


def _shard(path: Path, files: Mapping[str, bytes], mode: Any = "w") -> None:
    with tarfile.open(path, mode) as shard:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two shards to train, with 3 and 2 photos, and one with 2; photo i has red 40 * i and the class i % 3."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "photos"
    folder.mkdir()
    names = ["a/0.jpg", "a/1.png", "b/0.JPEG", "3.jpg", "4.jpg", "5.jpg", "6.png"]
    for shard, numbers in {"train-0.tar": (0, 1, 2), "train-1.tar": (3, 4), "val-0.tar": (5, 6)}.items():
        files: dict[str, bytes] = {}
        for number in numbers:
            stem, _, ending = names[number].partition(".")
            # The class before its photo and after it, and files that say other things.
            label_file = {f"{stem}.cls": str(number % 3).encode(), f"{stem}.json": b"{}"}
            photo = {names[number]: _photo(40 * number, "PNG" if ending == "png" else "JPEG")}
            files |= label_file | photo if number % 2 else photo | label_file
        _shard(folder / shard, files)
    return folder


def _data(folder: Path, **more: Any) -> ImageShards:
    arguments: dict[str, Any] = {
        "shards": {"train": "train-*.tar", "val": "val-*.tar", "test": "val-*.tar"}, "num_train": 5, "resize_size": 16,
        "image_size": 12, "augment": True, "image_shape": [3, 12, 12], "num_features": 432, "num_classes": 3,
    }  # fmt: skip
    return ImageShards(str(folder.parent), folder.name, **arguments | more)


def test_photos_come_from_all_shards_in_any_order(folder: Path) -> None:
    data = _data(folder)
    split = data.load("train")
    assert (len(split), split.in_memory, len(data.load("test"))) == (5, False, 2)
    images, classes = cast(tuple[Tensor, Tensor], fetch(split, torch.tensor([4, 0, 2, 1])))
    assert classes.tolist() == [1, 0, 2, 1]
    torch.testing.assert_close(images[:, 0].mean(dim=(1, 2)) * 255, torch.tensor([160.0, 0, 80, 40]), atol=3, rtol=0)
    for real, blank in zip((images, classes), data.example(4), strict=True):
        assert (real.shape, real.dtype) == (cast(Tensor, blank).shape, cast(Tensor, blank).dtype)


def test_workers_read_the_same_photos(folder: Path) -> None:
    split = _data(folder).load("train")
    actual = [
        [batch[0] for batch in training_batches(split, 2, seed=3, first_step=0, num_steps=3, num_workers=workers)]
        for workers in (0, 2)
    ]
    assert all(torch.equal(cast(Tensor, one), cast(Tensor, two)) for one, two in zip(*actual, strict=True))


def test_the_index_is_made_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = sorted(folder.glob("train-*.tar"))
    first = tar_index("photos", paths)
    kept = list((folder.parent / "cache" / "lathe" / "shards").iterdir())
    assert len(kept) == 1
    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "open", None)  # only the kept index can tell
        assert tar_index("photos", paths).offsets.tolist() == first.offsets.tolist()
    for damaged in (b"damaged", kept[0].read_bytes()[:-30], b""):
        kept[0].write_bytes(damaged)
        assert tar_index("photos", paths).offsets.tolist() == first.offsets.tolist()
    assert sorted(folder.iterdir()) == sorted([*paths, folder / "val-0.tar"]), "nothing is written beside the shards"


def test_an_index_that_others_may_write_is_not_used(folder: Path, tmp_path: Path) -> None:
    paths = sorted(folder.glob("train-*.tar"))
    expected = tar_index("photos", paths).labels.tolist()
    (kept,) = (tmp_path / "cache" / "lathe" / "shards").iterdir()
    zeros = np.zeros(5, np.int64)
    for foreign in ("file", "link", "folder"):
        np.savez(tmp_path / "foreign.npz", shards=zeros, offsets=zeros, sizes=zeros, labels=zeros)
        kept.unlink()
        if foreign == "link":
            kept.symlink_to(tmp_path / "foreign.npz")
        else:
            (tmp_path / "foreign.npz").rename(kept)
            (kept if foreign == "file" else kept.parent).chmod(0o777)
        assert tar_index("photos", paths).labels.tolist() == expected
        assert not kept.is_symlink()
    kept.parent.chmod(0o700)


def test_files_that_a_killed_writer_left_are_removed(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "cache" / "lathe" / "shards"
    place.mkdir(parents=True)
    left, in_use = place / f"killed{PARTIAL}", place / f"at_work{PARTIAL}"
    left.write_bytes(b"half")
    with in_use.open("xb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        tar_index("photos", sorted(folder.glob("train-*.tar")))
        assert in_use.exists()
    assert not left.exists()
    assert len([*place.iterdir()]) == 2


@pytest.mark.parametrize("keeps", ["name and size", "name, size and time", "all but the file itself"])
def test_a_rebuilt_shard_is_indexed_anew(folder: Path, keeps: str) -> None:
    path = folder / "val-0.tar"
    photos = [_photo(red, "JPEG") for red in (0, 200)]
    _shard(path, {"0.jpg": photos[0], "0.cls": b"0", "1.jpg": photos[1], "1.cls": b"1"})
    before = path.stat()
    assert _data(folder).load("val").targets.tolist() == [0, 1]
    new = folder / "new.tar" if keeps == "all but the file itself" else path
    _shard(new, {"0.jpg": photos[1], "0.cls": b"2", "1.jpg": photos[0], "1.cls": b"1"})
    if keeps != "name and size":
        os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.replace(path)
    assert path.stat().st_size == before.st_size
    assert _data(folder).load("val").targets.tolist() == [2, 1]


def test_without_a_cache_folder_the_index_is_built_every_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "val-0.tar"))  # a file, where no folder can be made
    assert len(_data(folder).load("train")) == 5


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"a.jpg": _photo(0, "JPEG")},
            "train-2.tar has a without its class; every photo KEY.jpg needs a file KEY.cls",
        ),
        (
            {"a.jpg": _photo(0, "JPEG"), "a.cls": b"cat"},
            "train-2.tar is damaged or not a shard (invalid literal for int()",
        ),
        (
            {"a.jpg": _photo(0, "JPEG"), "a.cls": b"9" * 30},
            "train-2.tar is damaged or not a shard (Python int too large",
        ),
        (
            {"a.jpg": _photo(0, "JPEG"), "a.cls": b"-1"},
            "train-*.tar has 6 photos with classes from -1 to 2, but data.num_classes=3",
        ),
        (
            {"a.jpg": _photo(0, "JPEG"), "a.cls": b"3"},
            "train-*.tar has 6 photos with classes from 0 to 3, but data.num_classes=3",
        ),
        (
            {"a.jpg": _photo(0, "JPEG"), "a.cls": b"2"},
            "train-*.tar has 6 photos, but data.num_train=5; it is the length of an epoch",
        ),
    ],
)
def test_shards_that_do_not_fit_are_refused(folder: Path, files: dict[str, bytes], message: str) -> None:
    _shard(folder / "train-2.tar", files)
    with pytest.raises(DataError, match=re.escape(message)):
        _data(folder).load("train")


def test_a_shard_that_is_not_a_file_is_reported(folder: Path) -> None:
    (folder / "val-1.tar").symlink_to("gone.tar")
    with pytest.raises(DataError, match=r"val-1\.tar is not a file, or a link to a file that is gone"):
        _data(folder).load("val")
    (folder / "val-1.tar").unlink()
    os.mkfifo(folder / "val-1.tar")
    with pytest.raises(DataError, match=r"val-1\.tar is not a file, or a link"):
        _data(folder).load("val")


def test_a_compressed_shard_and_a_damaged_photo_are_reported(folder: Path) -> None:
    _shard(folder / "val-1.tar", {"a.jpg": _photo(0, "JPEG"), "a.cls": b"0"}, "w:gz")
    with pytest.raises(
        DataError, match=r"val-1\.tar is damaged or not a shard .*; a shard is an uncompressed tar file"
    ):
        _data(folder).load("val")
    _shard(folder / "val-1.tar", {"a.jpg": b"no photo", "a.cls": b"0"})
    with pytest.raises(DataError, match=r"photo 2 in .*val-1\.tar cannot be read as an image \(unknown format"):
        fetch(_data(folder).load("val"), torch.tensor([0, 2]))
    split = _data(folder).load("train")
    (folder / "train-0.tar").unlink()
    with pytest.raises(
        DataError, match=r"train-0\.tar cannot be read \(No such file or directory\); every shard must be"
    ):
        fetch(split, torch.tensor([0]))


def test_no_shards_and_wrong_splits_are_reported(folder: Path) -> None:
    with pytest.raises(
        DataError, match=re.escape(f"{folder}/none-*.tar matches no file; the data set needs shards there")
    ):
        _data(folder, shards={"train": "none-*.tar", "val": "none", "test": "none"}).load("train")
    with pytest.raises(ValueError, match=re.escape("shards of train, val and test, but got ['train']")):
        _data(folder, shards={"train": "train-*.tar"})
