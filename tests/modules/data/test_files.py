import gzip
import hashlib
import os
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from modules.data import files
from modules.data.base import DataError
from modules.data.files import DataFiles

SHA256_OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def _files(tmp_path: Path, content: bytes, sha256: str | None) -> DataFiles:
    (tmp_path / "toys").mkdir()
    (tmp_path / "toys" / "a.npz").write_bytes(content)
    return DataFiles(str(tmp_path), "toys", {"a.npz": sha256, "b.npz": None})


def test_a_file_of_the_right_sha256_is_read(tmp_path: Path) -> None:
    assert _files(tmp_path, b"abc", SHA256_OF_ABC).read("a.npz") == b"abc"


def test_a_file_without_a_sha256_is_not_checked(tmp_path: Path) -> None:
    assert _files(tmp_path, b"abd", None).read("a.npz") == b"abd"


def test_a_file_of_another_sha256_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        _files(tmp_path, b"abd", SHA256_OF_ABC).read("a.npz")
    assert str(caught.value) == (
        f"data.folder='toys': {tmp_path}/toys/a.npz has the sha256 {hashlib.sha256(b'abd').hexdigest()}, but "
        f"data.files says {SHA256_OF_ABC}; it is damaged or another version: fetch it again from the source that "
        f"`lathe data` names, or set LATHE_DATA to a folder with a good copy"
    )


def test_the_error_for_a_missing_file_names_its_path_and_source(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        _files(tmp_path, b"abc", None).read("b.npz")
    assert str(caught.value) == (
        f"data.folder='toys': {tmp_path}/toys/b.npz is missing; the set needs a.npz, b.npz in that folder; "
        f"set LATHE_DATA to the folder that holds 'toys', or fetch the files from the source that `lathe data` names"
    )


def test_a_file_that_is_a_folder_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "toys" / "a.npz").mkdir(parents=True)
    with pytest.raises(DataError, match=r"a\.npz cannot be read \(Is a directory\); every file of the set must be"):
        DataFiles(str(tmp_path), "toys", {"a.npz": None}).read("a.npz")


def test_an_archive_is_read_whole(tmp_path: Path) -> None:
    packed = BytesIO()
    np.savez_compressed(packed, x=np.arange(6).reshape(2, 3), y=np.arange(2))
    members = _files(tmp_path, packed.getvalue(), None).read_npz("a.npz")
    assert members["x"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert members["y"].tolist() == [0, 1]


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    packed = BytesIO()
    np.savez_compressed(packed, x=np.arange(6))
    with pytest.raises(DataError) as caught:
        _files(tmp_path, packed.getvalue()[:50], None).read_npz("a.npz")
    assert str(caught.value) == (
        f"data.folder='toys': {tmp_path}/toys/a.npz is damaged or of another format (File is not a zip file); fetch "
        f"it again from the source that `lathe data` names, or set LATHE_DATA to a folder with a good copy"
    )


def test_an_archive_with_pickled_objects_is_refused(tmp_path: Path) -> None:
    packed = BytesIO()
    np.savez(packed, x=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="Object arrays cannot be loaded when allow_pickle=False"):
        _files(tmp_path, packed.getvalue(), None).read_npz("a.npz")


def _zip(name: str = "x.npy", content: bytes = b"", **header: int) -> bytes:
    """An archive with one member; ``header`` replaces a field of its directory entry."""
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, content)
    raw = bytearray(packed.getvalue())
    for start, offset in ((0, 8), (raw.index(b"PK\x01\x02"), 10)):
        raw[start + offset : start + offset + 2] = header.get("method", 0).to_bytes(2, "little")
        raw[start + offset - 2 : start + offset] = header.get("flags", 0).to_bytes(2, "little")
    return bytes(raw)


def _npy(array: np.ndarray, shape: str | None = None) -> bytes:
    file = BytesIO()
    np.save(file, array)
    raw = file.getvalue()
    return raw if shape is None else raw.replace(b"(3,), }" + b" " * (len(shape) - 4), shape.encode() + b", }")


ODD = {
    "empty": b"",
    "text": b"not an archive",
    "plain npy": _npy(np.arange(3)),
    "unknown compression": _zip(content=_npy(np.arange(3)), method=77),
    "encrypted": _zip(content=_npy(np.arange(3)), flags=1),
    "cut": _zip(content=_npy(np.arange(3)))[:-30],
    "header of 10 TB": _zip(content=_npy(np.arange(3), "(9999999999999,)")),
    "header cut": _zip(content=_npy(np.arange(3))[:20]),
    "header too long": _zip(content=b"\x93NUMPY\x02\x00" + (2**31 - 1).to_bytes(4, "little")),
    "objects": _zip(content=_npy(np.array([1, 2, 3])).replace(b"'<i8'", b"'|O'" + b" ")),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_archive_is_a_data_error(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataError, match=r"a\.npz is damaged or of another format \(.*\); fetch it again"):
        _files(tmp_path, ODD[kind], None).read_npz("a.npz")


def test_what_is_not_a_file_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "toys").mkdir()
    os.mkfifo(tmp_path / "toys" / "a.npz")
    with pytest.raises(DataError, match=r"a\.npz cannot be read \(it is not a file\)"):
        DataFiles(str(tmp_path), "toys", {"a.npz": None}).read("a.npz")


def test_files_that_unpack_to_far_more_are_refused_before_they_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_UNPACKED", 2**20)
    zeros = bytes(2**22)
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", zeros)
    folder = DataFiles(str(tmp_path), "toys", dict.fromkeys(("a.gz", "a.npz")))
    (tmp_path / "toys").mkdir()
    (tmp_path / "toys" / "a.gz").write_bytes(gzip.compress(zeros))
    (tmp_path / "toys" / "a.npz").write_bytes(packed.getvalue())
    message = r"its 0\.0 MB unpack to more than 1 MB; compression makes a file of data at most 100 times smaller"
    reads: list[Callable[[], object]] = [
        lambda: folder.read_text("a.gz"),
        lambda: folder.read_npz("a.npz"),
        lambda: folder.read_member("a.npz", "x.npy"),
    ]
    for read in reads:
        with pytest.raises(DataError, match=message):
            read()
    (tmp_path / "toys" / "a.gz").write_bytes(gzip.compress(b"two ") + gzip.compress(b"members"))
    assert folder.read_text("a.gz") == "two members"


def test_building_reads_nothing_but_checks_its_arguments() -> None:
    DataFiles("/nowhere", "toys", {"a.npz": None})
    with pytest.raises(ValueError, match=r"wants the sha256 of 'a\.npz' as 64 digits of 0-9 and a-f, but got '12ab'"):
        DataFiles("/nowhere", "toys", {"a.npz": "12ab"})
    with pytest.raises(ValueError, match="data wants a folder and its files, but got folder='toys' and 0 files"):
        DataFiles("/nowhere", "toys", {})
