"""What a user gives is read as evaluation reads the same of the data set, to the bit."""

from __future__ import annotations

import gzip
import json
import tarfile
from io import BytesIO
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from modules.data.base import Data, DataError, InputReader, SavesReader, Tensors, Tokenized, UserInputError
from modules.data.digits import Digits
from modules.data.idx import IdxImages
from modules.data.image.encoded_images import decode_all
from modules.data.image.masked_images import MaskedImage, MaskedImages, read_whole
from modules.data.image_folder import ImageFolder
from modules.data.image_shards import ImageShards
from modules.data.photo_archive import PhotoArchive
from modules.data.ptb import Ptb
from modules.data.skip_grams import SkipGrams
from modules.data.text_file import TextFile
from tests.support.batches import fetch
from tests.support.masks import archive, encode, laid_end_to_end, photo_and_mask, write_archive
from tests.support.photos import odd_files


def evaluated(data: Data, count: int) -> Tensor:
    return cast(Tensor, fetch(data.load("test"), torch.arange(count))[0])


def check_saved(data: SavesReader, other: SavesReader, text: str) -> None:
    """What a data set saves lets another read the same without the files."""
    assert isinstance(data, SavesReader)
    other.restore_reader(json.loads(json.dumps(data.save_reader())))
    pairs = zip(as_tuple(data.read([text])), as_tuple(other.read([text])), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def as_tuple(tensors: Tensors) -> tuple[Tensor, ...]:
    return tensors if isinstance(tensors, tuple) else (tensors,)


def photo(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.RandomState(seed).randint(256, size=(height, width, 3), dtype=np.uint8)


def test_digits(tmp_path: Path) -> None:
    data = Digits(1297, [1, 8, 8], 64, 10)
    inputs = evaluated(data, 5)
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for path, image in zip(paths, inputs, strict=True):
        Image.fromarray((image[0] * 255).round().byte().numpy()).save(path)
    assert isinstance(data, InputReader)
    assert data.takes == "image"
    assert torch.equal(data.read(list(map(str, paths))), inputs)


def test_idx_images_are_scaled_and_brought_to_one_size(tmp_path: Path) -> None:
    names = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    data = IdxImages("nowhere", "mnist", dict.fromkeys(names), 2, 1, [1, 5, 6], 30, 3)
    pixels = photo(5, 6, 0)[..., 0]
    Image.fromarray(pixels).save(tmp_path / "own.png")
    Image.fromarray(np.full((50, 90, 3), 51, np.uint8)).save(tmp_path / "large.jpg", quality=100)
    read = data.read([str(tmp_path / "own.png"), str(tmp_path / "large.jpg")])
    assert torch.equal(read[0, 0], torch.from_numpy(pixels).float() / 255)
    assert torch.equal(read[1], torch.full((1, 5, 6), 51 / 255))


def photo_archive(root: Path, **more: object) -> PhotoArchive:
    names = {f"{part}.npz": None for part in ("train", "test")}
    return PhotoArchive(str(root), "tiny", names, 2, 1, 6, False, [3, 6, 6], 108, 3, **more)  # type: ignore[arg-type]


def test_photos_of_an_archive(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    photos = [encode(photo(8, 9, seed), "JPEG") for seed in range(3)]
    jpeg, offsets = laid_end_to_end(photos)
    members = {"jpeg": jpeg, "offsets": offsets, "labels": np.arange(3), "classes": np.array(["ant", "bee", "cat"])}
    for part in ("train", "test"):
        np.savez(tmp_path / "tiny" / f"{part}.npz", **members)  # type: ignore[arg-type]
    for number, content in enumerate(photos):
        (tmp_path / f"{number}.jpg").write_bytes(content)
    paths = [str(tmp_path / f"{number}.jpg") for number in range(3)]
    data = photo_archive(tmp_path)
    assert data.class_names is None
    assert torch.equal(data.read(paths), evaluated(data, 3))
    assert data.class_names == ["ant", "bee", "cat"]
    assert torch.equal(photo_archive(Path("nowhere"), photo_size=[8, 9]).read(paths), evaluated(data, 3))
    with pytest.raises(
        DataError, match=r"test.npz is missing; .* or set the size of its photos, such as data.photo_size"
    ):
        photo_archive(Path("nowhere")).read(paths)


def test_photos_of_a_folder(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            Image.fromarray(photo(40, 70, len(name + split))).save(tmp_path / "photos" / split / name / "1.jpg")
    scale = ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
    data = ImageFolder(str(tmp_path), "photos", None, 16, 12, True, [3, 12, 12], 432, 2, None, *scale)
    paths = [str(tmp_path / "photos" / "test" / name / "1.jpg") for name in ("ant", "bee")]
    assert torch.equal(data.read(paths), evaluated(data, 2))
    with pytest.raises(UserInputError, match=r"nowhere\.png cannot be read"):
        data.read([paths[0], "nowhere.png"])


def test_odd_photos_are_read_by_one_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """16 bits, transparency, EXIF orientation, floats, CMYK: in each data set that decodes photos."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = odd_files() | {"1 bit.png": encode(photo(24, 30, 0)[..., 0] > 99, "PNG")}
    shapes, paths = ([3, 12, 12], 432, 2), list[str]()
    for number, (name, content) in enumerate(files.items()):
        path = tmp_path / "folder" / "test" / ("ant" if number < 9 else "bee") / f"{number:02d}{Path(name).suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        paths.append(str(path))
    (tmp_path / "folder" / "train").symlink_to(tmp_path / "folder" / "test")
    folder = ImageFolder(str(tmp_path), "folder", None, 16, 12, True, *shapes)
    with tarfile.open(tmp_path / "folder" / "a.tar", "w") as shard:
        for number, (name, content) in enumerate(files.items()):
            for member, text in ((f"{number}{Path(name).suffix}", content), (f"{number}.cls", b"0")):
                info = tarfile.TarInfo(member)
                info.size = len(text)
                shard.addfile(info, BytesIO(text))
    names = dict.fromkeys(("train", "val", "test"), "a.tar")
    shards = ImageShards(str(tmp_path), "folder", names, None, 16, 12, True, *shapes)
    jpeg, offsets = laid_end_to_end(list(files.values()))
    np.savez(tmp_path / "folder" / "test.npz", jpeg=jpeg, offsets=offsets, labels=np.zeros(len(files), np.uint8))
    packed = PhotoArchive(
        str(tmp_path), "folder", {"train.npz": None, "test.npz": None}, 2, 1, 12, False, *shapes, photo_size=[24, 30]
    )
    for data in (folder, shards, packed):
        assert torch.equal(data.read(paths), evaluated(data, len(files))), type(data)
    decoded = list(decode_all({"jpeg": jpeg, "offsets": offsets}, ("jpeg", "offsets"), "RGB"))  # photos with masks
    assert torch.equal(read_whole(paths, 3, (24, 30)), read_whole_pixels(decoded))


def read_whole_pixels(photos: list[np.ndarray]) -> Tensor:
    split = MaskedImages([MaskedImage(pixels, ()) for pixels in photos], (24, 30), None)
    return cast(Tensor, fetch(split, torch.arange(len(photos)))[0])


def test_whole_photos_with_masks(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    write_archive(tmp_path / "tiny" / "tiny.npz", classes=np.array(["a", "b", "c", "roof"]))
    data = archive(tmp_path / "tiny")
    Image.fromarray(photo_and_mask(5)[0]).save(tmp_path / "test.png")
    Image.fromarray(photo(15, 6, 0)).save(tmp_path / "larger.png")
    assert torch.equal(data.read([str(tmp_path / "test.png")]), evaluated(data, 1))
    assert data.read([str(tmp_path / "test.png"), str(tmp_path / "larger.png")]).shape == (2, 3, 15, 12)
    assert data.class_names == ["other", "roof"]


def test_words_of_the_treebank(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    files = {f"{split}.gz": None for split in ("train", "valid", "test")}
    for name in files:
        (tmp_path / "tiny" / name).write_bytes(gzip.compress(b" the cat sat \n the <unk> sat N \n"))
    data = Ptb(str(tmp_path), "tiny", files, 9, 2, None, None, False)
    assert isinstance(data, InputReader)
    assert isinstance(data, Tokenized)
    assert data.tokenizer.num_tokens == 6
    assert data.tokenizer.decode(data.read(["The zebra sat 12.5\ncat"])[0]) == "the <unk> sat N\ncat"
    assert data.read(["the cat", "a cat"]).shape == (2, 2)
    check_saved(data, Ptb("nowhere", "tiny", files, 9, 2, None, None, False), "the cat")
    with pytest.raises(UserInputError, match="' ' has no token to continue from; write a word"):
        data.read([" "])
    with pytest.raises(UserInputError, match="texts of 1, 2 tokens cannot be one batch"):
        data.read(["the", "the cat"])


@pytest.mark.parametrize(("tokens", "size"), [("characters", 14), ("byte_pairs", 25)])
def test_characters_and_byte_pairs(tmp_path: Path, tokens: str, size: int) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "tiny.txt").write_text("to be or not to be\nthat is the question\n" * 5)
    data = TextFile(str(tmp_path), "tiny", {"tiny.txt": None}, tokens, size, 4, None, None, False)  # type: ignore[arg-type]
    read = data.read(["to be\n"])
    assert data.tokenizer.decode(read[0]) == "to be\n"
    assert int(read.max()) < data.tokenizer.num_tokens
    check_saved(data, TextFile("nowhere", "tiny", {"tiny.txt": None}, tokens, size, 4, None, None, False), "to be\n")  # type: ignore[arg-type]
    with pytest.raises(
        UserInputError, match=r"'to BE' has the characters 'BE', which are not in tiny\.txt; use its 14 characters"
    ):
        data.read(["to BE"])


def test_words_that_have_vectors(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "tiny.txt").write_text("one two two three three three " * 50)
    data = SkipGrams(str(tmp_path), "tiny", {"tiny.txt": None}, 9, 2, 7, 3, None, 0.75, 4, None)
    words, noise = data.read(["Three one", "two"])
    assert words.tolist() == [[0, 2], [1, 0]]
    assert noise.shape == (2, 4)
    check_saved(data, SkipGrams("nowhere", "tiny", {"tiny.txt": None}, 9, 2, 7, 3, None, 0.75, 4, None), "Three one")
    with pytest.raises(
        UserInputError, match="'two four': 'four' is not among the 3 words of the vocabulary; write words that"
    ):
        data.read(["two four"])
    with pytest.raises(UserInputError, match="'12' has no word; write one"):
        data.read(["12"])
