from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import re
import subprocess
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.core.errors import InputError
from experiments.results.share import archive as bundle
from experiments.results.share.archive_code import leads_out, no_text, telling
from experiments.results.share.redact import Scrubber
from tests.support.shares import WEIGHTS, bundled, member, packed, text, untracked, zipped

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
    bundle.extract(tmp_path / "it.tar.gz", tmp_path / "out", found.sums, only="")
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


def test_only_what_is_asked_for_comes_out_and_nothing_behind_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "it.tar.gz"
    cut = member("weights/model.safetensors", size=10**6)  # nothing of what it announces follows
    path.write_bytes(packed(member("share.yaml", text().encode()), member("code/main.patch", PATCH), cut))
    (tmp_path / "out").mkdir()
    bundle.extract(path, tmp_path / "out", sums(FILES))
    assert [str(found.relative_to(tmp_path / "out")) for found in (tmp_path / "out").rglob("*.*")] == [
        "code/main.patch"
    ]


def test_a_file_that_is_gone_since_the_archive_was_read_is_told(tmp_path: Path) -> None:
    bundle.write(tmp_path / "it.tar.gz", text(), FILES)
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=r"code/other\.patch has gone since the archive was read"):
        bundle.extract(tmp_path / "it.tar.gz", tmp_path / "out", {**sums(FILES), "code/other.patch": "0" * 64})


def test_all_code_together_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MAX_ALL_CODE_MB", 1.0)
    bundle.write(tmp_path / "it.tar.gz", text(), {f"code/{number}.patch": bytes(400_000) for number in range(3)})
    with pytest.raises(InputError, match="its code has more than 1 MB"):
        bundle.inspect(tmp_path / "it.tar.gz")


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
    archive = zipped(untracked(member("a.png", b"\x89PNG\0\xff zap \xfe /home/zap/work/a.png\xff")))
    assert list(telling("code/main-untracked.tar.gz", archive, short)) == []
    (line,) = telling("code/main-untracked.tar.gz", archive, long)
    assert line.startswith("a.png of what is not committed tells a folder of this machine")
    assert list(no_text("code/main-untracked.tar.gz", archive)) == ["a.png"]


AWS, TOKEN, WORD = "AKIA" + "ABCDEFGHIJKLMNOP", "ghp_" + "a1" * 12, "pass" + 'word = "s3cret' + 'passw0rd"'


@pytest.mark.parametrize("planted", [AWS, TOKEN, WORD, "AUTHOR = zaphod", "swordfish-42"])
@pytest.mark.parametrize(
    "encoded",
    [
        lambda text: f"# caf\xe9\n{text}\n".encode("latin1"),
        lambda text: f"# caf\xe9\n{text}\n".encode("utf-16"),
        lambda text: f"# cafe\n{text}\n".encode("utf-16-be"),
        lambda text: f"\x89PNG\r\n\x1a\n\0\0\xff\n{text}\n\xff".encode("latin1"),
        lambda text: b"\xff\0\xfe\1" + f"{text}\n".encode("utf-16-le"),
    ],
    ids=["latin1", "utf16", "utf16 unsaid", "binary", "utf16 in binary"],
)
def test_what_tells_is_found_in_any_encoding(planted: str, encoded: Callable[[str], bytes]) -> None:
    archive = zipped(untracked(member("a.bin", encoded(planted))))
    (line,) = telling("code/main-untracked.tar.gz", archive, ME)
    assert re.match(r"a\.bin(, line \d)? of what is not committed tells a", line)


@pytest.mark.parametrize(
    "content",
    [
        zipped(b"zaphod"), bz2.compress(b"zaphod"), lzma.compress(b"zaphod " * 99), zlib.compress(b"zaphod"),
        b"PK\x03\x04 an archive", b"\0\1 and inside it " + zipped(b"zaphod"), b"%PDF-1.7\n", b"\x89PNG\r\n\x1a\n\0\0zTXtabc",
    ],
    ids=["gzip", "bzip2", "xz", "zlib", "zip", "inside", "pdf", "png"],
)  # fmt: skip
def test_what_is_packed_cannot_be_looked_into_and_stays(content: bytes) -> None:
    (line,) = telling("code/main-untracked.tar.gz", zipped(untracked(member("a.bin", content))), ME)
    assert line == (
        "a.bin of what is not committed is packed or binary, so that it cannot be looked into; "
        "commit it or take it out, and run again, or leave --bundle out"
    )


@pytest.mark.parametrize("inside", [b"GIT binary patch\nliteral 9\nzap zap\n", b"+a\0b\n", b"+BZh91AY&SY\x01\n"])
def test_what_git_packs_cannot_be_looked_into_and_stays(inside: bytes) -> None:
    patch = b"diff --git a/x b/x\n+x = 1\ndiff --git a/b.png b/b.png\n" + inside
    (line,) = telling("code/main.patch", patch, ME)
    assert line.startswith("b.png of what is not committed is packed or binary")


def test_text_in_an_old_encoding_that_tells_of_nobody_goes_out() -> None:
    archive = zipped(untracked(member("a.py", b"# caf\xe9 \x1b[0m\n"), member("b.txt", "caf\xe9".encode("utf-16"))))
    assert list(telling("code/main-untracked.tar.gz", archive, ME)) == []
    assert list(no_text("code/main-untracked.tar.gz", archive)) == []
    assert list(telling("code/main.patch", b"diff --git a/x b/x\n+caf\xe9\n", ME)) == []


def test_uncommitted_code_that_tells_of_nobody_goes_out() -> None:
    archive = zipped(untracked(member("run.sh", b"#!/usr/bin/env bash\ncurl https://example.org/x/y\n")))
    assert list(telling("code/main-untracked.tar.gz", archive, ME)) == []
    assert list(telling("code/main.patch", b"diff --git a/x b/x\n+x = 1\n", ME)) == []
