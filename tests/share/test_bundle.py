from __future__ import annotations

import gzip
import hashlib
import subprocess
import tarfile
from pathlib import Path

import pytest

from experiments.faults import InputError
from experiments.share import bundle
from experiments.share.bundled_code import leads_out, telling
from experiments.share.scrub import Scrubber
from tests.share.shares import WEIGHTS, bundled, member, packed, text, untracked, zipped

PATCH = b"diff --git a/modules/x.py b/modules/x.py\n+by = 'zaphod'\n"
FILES: dict[str, bytes | Path] = {"code/main.patch": PATCH, "weights/model.safetensors": WEIGHTS}


def sums(files: dict[str, bytes | Path]) -> dict[str, str]:
    return {name: hashlib.sha256(held).hexdigest() for name, held in files.items() if isinstance(held, bytes)}


def test_an_archive_gives_back_what_was_put_in(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(WEIGHTS)
    bundle.write(tmp_path / "it.tar.gz", text(), {**FILES, "weights/model.safetensors": tmp_path / "model"})
    found = bundle.inspect(tmp_path / "it.tar.gz")
    assert found.text == text().encode()
    assert found.sums == sums(FILES)
    assert found.code == {"code/main.patch": PATCH}
    (tmp_path / "out").mkdir()
    bundle.extract(tmp_path / "it.tar.gz", tmp_path / "out", found.sums)
    held = {str(path.relative_to(tmp_path / "out")): path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}
    assert held == {"share.yaml": text().encode(), **FILES}


def test_the_same_files_make_the_same_bytes_and_tell_of_nobody(tmp_path: Path) -> None:
    for name in ("one", "two"):
        bundle.write(tmp_path / name, text(), FILES)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    with tarfile.open(tmp_path / "one") as archive:
        assert {(info.uid, info.gid, info.uname, info.gname, info.mtime) for info in archive} == {(0, 0, "", "", 0)}


def test_any_program_can_unpack_it(tmp_path: Path) -> None:
    bundle.write(tmp_path / "it.tar.gz", text(), FILES)
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xzf", tmp_path / "it.tar.gz", "-C", tmp_path / "out"], check=True)
    assert (tmp_path / "out" / "code" / "main.patch").read_bytes() == PATCH


def test_nothing_is_unpacked_beside_other_files(tmp_path: Path) -> None:
    bundle.write(tmp_path / "it.tar.gz", text(), FILES)
    with pytest.raises(InputError, match="is not empty; name a new folder"):
        bundle.extract(tmp_path / "it.tar.gz", tmp_path, sums(FILES))
    assert [path.name for path in tmp_path.iterdir()] == ["it.tar.gz"]


def test_an_archive_that_changes_after_it_was_read_leaves_no_wrong_file(tmp_path: Path) -> None:
    bundle.write(tmp_path / "it.tar.gz", text(), FILES)
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=r"main\.patch has changed since the archive was read"):
        bundle.extract(tmp_path / "it.tar.gz", tmp_path / "out", {**sums(FILES), "code/main.patch": "0" * 64})
    assert not (tmp_path / "out" / "code" / "main.patch").exists()


def test_every_cut_of_an_archive_is_found(tmp_path: Path) -> None:
    bundled(tmp_path / "it.tar.gz")
    content = (tmp_path / "it.tar.gz").read_bytes()
    for end in range(2, len(content), 7):
        (tmp_path / "cut.tar.gz").write_bytes(content[:end])
        with pytest.raises(InputError, match="it is cut or damaged; ask for it again"):
            bundle.inspect(tmp_path / "cut.tar.gz")


def test_every_cut_of_what_is_packed_is_found(tmp_path: Path) -> None:
    bundled(tmp_path / "it.tar.gz")
    content = gzip.decompress((tmp_path / "it.tar.gz").read_bytes())
    for end in range(0, len(content) - 1024, 256):  # of the two empty blocks at the end one is enough
        (tmp_path / "cut.tar.gz").write_bytes(zipped(content[:end]))
        with pytest.raises(InputError):
            bundle.inspect(tmp_path / "cut.tar.gz")


def test_what_a_header_announces_is_not_read_before_it_is_judged(tmp_path: Path) -> None:
    path = tmp_path / "it.tar.gz"
    path.write_bytes(packed(member("share.yaml", text().encode()), member("weights/model.safetensors", size=10**11)))
    with pytest.raises(InputError, match="more than 100 times its size would come out of it"):
        bundle.inspect(path)


@pytest.mark.parametrize("name", ["a", "a/b", "a/../b", "..a", "a..", "./a"])
def test_a_path_inside_stays_inside(name: str) -> None:
    assert not leads_out(name)


@pytest.mark.parametrize("name", ["/a", "..", "../a", "a/../../b", "a/../..", "\\a", "a\0b", "./../a"])
def test_a_path_that_leads_out_is_found(name: str) -> None:
    assert leads_out(name)


ME = Scrubber(users=["zaphod"], folders=["/home/zaphod"], secrets=["swordfish-42"])


def test_uncommitted_code_that_tells_of_someone_is_found_by_file_and_line() -> None:
    archive = untracked(
        member("fine.py", b"x = 1\n"), member("a/mine.py", b"x = 1\ny = 2\nDATA = '/home/zaphod'\n"),
        member("zaphod.txt", b"x\n"), member("link", type=tarfile.SYMTYPE, linkname="/home/zaphod/data"),
        member("key.py", b"KEY = 'swordfish-42'\n"),
    )  # fmt: skip
    found = [line.partition(" of what is")[0] for line in telling("code/main-untracked.tar.gz", zipped(archive), ME)]
    assert found == ["a/mine.py, line 3", "[user].txt", "link, line 1", "key.py, line 1"]
    (line,) = telling("code/main.patch", PATCH, ME)
    assert line.startswith(
        "modules/x.py, line 2 of what is not committed tells a user's name, which a shared file must"
    )


def test_in_what_is_no_text_a_short_word_is_chance_and_a_long_one_is_not() -> None:
    short, long = Scrubber(users=["zap"]), Scrubber(folders=["/home/zap/work"])
    archive = zipped(untracked(member("a.png", b"\x89PNG \xff zap \xfe /home/zap/work/a.png\xff")))
    assert list(telling("code/main-untracked.tar.gz", archive, short)) == []
    (line,) = telling("code/main-untracked.tar.gz", archive, long)
    assert line.startswith("a.png of what is not committed tells a folder of this machine")
    patch = b"diff --git a/b.png b/b.png\nGIT binary patch\nliteral 9\nzap zap\n"
    assert list(telling("code/main.patch", patch, short)) == []


def test_uncommitted_code_that_tells_of_nobody_goes_out() -> None:
    archive = zipped(untracked(member("run.sh", b"#!/usr/bin/env bash\ncurl https://example.org/x/y\n")))
    assert list(telling("code/main-untracked.tar.gz", archive, ME)) == []
    assert list(telling("code/main.patch", b"diff --git a/x b/x\n+x = 1\n", ME)) == []
