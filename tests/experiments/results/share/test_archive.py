from __future__ import annotations

import gzip
import hashlib
import subprocess
import tarfile
from pathlib import Path

import pytest

from experiments.core.errors import InputError
from experiments.results.share import archive
from tests.support.shares import WEIGHTS, bundled, member, packed, text, zipped

PATCH = b"diff --git a/modules/x.py b/modules/x.py\n+by = 'zaphod'\n"
FILES: dict[str, bytes | Path] = {"code/main.patch": PATCH, "weights/model.safetensors": WEIGHTS}


def test_an_archive_gives_back_what_was_put_in(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(WEIGHTS)
    archive.write(tmp_path / "it.tar.gz", text(), {**FILES, "weights/model.safetensors": tmp_path / "model"})
    content = archive.read(tmp_path / "it.tar.gz")
    assert content.text == text().encode()
    assert content.sums == {
        "code/main.patch": hashlib.sha256(PATCH).hexdigest(),
        "weights/model.safetensors": hashlib.sha256(WEIGHTS).hexdigest(),
    }
    assert content.code == {"code/main.patch": PATCH}


def test_a_yaml_file_is_read_as_an_archive_without_other_files(tmp_path: Path) -> None:
    (tmp_path / "it.yaml").write_text(text())
    assert archive.read(tmp_path / "it.yaml") == archive.Archive(text().encode())


def test_the_same_files_make_the_same_bytes_without_an_owner(tmp_path: Path) -> None:
    for name in ("one", "two"):
        archive.write(tmp_path / name, text(), FILES)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    with tarfile.open(tmp_path / "one") as members:
        assert {(info.uid, info.gid, info.uname, info.gname, info.mtime) for info in members} == {(0, 0, "", "", 0)}


def test_the_tar_program_can_unpack_an_archive(tmp_path: Path) -> None:
    archive.write(tmp_path / "it.tar.gz", text(), FILES)
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xzf", tmp_path / "it.tar.gz", "-C", tmp_path / "out"], check=True)
    assert (tmp_path / "out" / "code" / "main.patch").read_bytes() == PATCH


def test_the_code_of_an_archive_has_a_size_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_ALL_CODE_MB", 1.0)
    archive.write(tmp_path / "it.tar.gz", text(), {f"code/{number}.patch": bytes(400_000) for number in range(3)})
    with pytest.raises(InputError, match="its code has more than 1 MB"):
        archive.read(tmp_path / "it.tar.gz")


def test_an_archive_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    bundled(tmp_path / "it.tar.gz")
    content = (tmp_path / "it.tar.gz").read_bytes()
    for end in range(2, len(content), 7):
        (tmp_path / "cut.tar.gz").write_bytes(content[:end])
        with pytest.raises(InputError, match="it is cut or damaged; ask the sender for a new archive"):
            archive.read(tmp_path / "cut.tar.gz")


def test_a_tar_that_was_cut_before_it_was_compressed_is_refused(tmp_path: Path) -> None:
    bundled(tmp_path / "it.tar.gz")
    content = gzip.decompress((tmp_path / "it.tar.gz").read_bytes())
    for end in range(0, len(content) - 1024, 256):  # one of the two empty blocks at the end is enough
        (tmp_path / "cut.tar.gz").write_bytes(zipped(content[:end]))
        with pytest.raises(InputError):
            archive.read(tmp_path / "cut.tar.gz")


@pytest.mark.parametrize("where", [0, 148, 257, 300])
def test_a_damaged_header_is_not_taken_for_the_end(where: int, tmp_path: Path) -> None:
    """tarfile alone would end silently at a header that it cannot read."""
    bundled(tmp_path / "it.tar.gz")
    content = bytearray(gzip.decompress((tmp_path / "it.tar.gz").read_bytes()))
    start = content.index(b"weights/model.safetensors\0")
    content[start + where] ^= 0xFF
    (tmp_path / "it.tar.gz").write_bytes(zipped(bytes(content)))
    with pytest.raises(InputError, match="it is cut or damaged"):
        archive.read(tmp_path / "it.tar.gz")


def test_the_size_in_a_header_is_checked_before_the_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "it.tar.gz"
    path.write_bytes(packed(member("share.yaml", text().encode()), member("weights/model.safetensors", size=10**11)))
    with pytest.raises(InputError, match="it would unpack to more than 100 times its size"):
        archive.read(path)
