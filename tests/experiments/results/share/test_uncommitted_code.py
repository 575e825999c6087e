from __future__ import annotations

import bz2
import lzma
import re
import tarfile
import zlib

import pytest

from experiments.results.share.redact import Redactor
from experiments.results.share.uncommitted_code import find_private, find_unsafe, leads_out
from tests.support.shares import code, member, untracked, zipped

PATCH = b"diff --git a/modules/x.py b/modules/x.py\n+by = 'zaphod'\n"
ME = Redactor(users=["zaphod"], folders=["/home/zaphod"], secrets=["swordfish-42"])


@pytest.mark.parametrize("name", ["a", "a/b", "a/../b", "..a", "a..", "./a"])
def test_a_path_inside_the_checkout_is_allowed(name: str) -> None:
    assert not leads_out(name)


@pytest.mark.parametrize("name", ["/a", "..", "../a", "a/../../b", "a/../..", "\\a", "a\0b", "./../a"])
def test_a_path_out_of_the_checkout_is_found(name: str) -> None:
    assert leads_out(name)


@pytest.mark.parametrize("name", ["a/b.py", "./a/b.py", "a//b.py", "a/./b.py"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_file_below_a_link_is_refused_in_any_order_and_spelling(name: str, is_first: bool) -> None:
    members = [member(name, b"x"), member("a", type=tarfile.SYMTYPE, linkname="c")]
    archive = untracked(*(members if is_first else members[::-1]))
    (problem,) = find_unsafe([code(archive=archive)], {"main-untracked.tar.gz": zipped(archive)})
    assert re.search("is below a symbolic link|is not a file name", problem)


def test_a_sparse_file_is_refused() -> None:
    """It can be larger than any limit on what is stored."""
    archive = untracked(member("a.bin", type=tarfile.GNUTYPE_SPARSE))
    (problem,) = find_unsafe([code(archive=archive)], {"main-untracked.tar.gz": zipped(archive)})
    assert "'a.bin' is not a plain file or symbolic link" in problem


def test_a_name_or_secret_in_uncommitted_code_is_found_by_file_and_line() -> None:
    archive = untracked(
        member("fine.py", b"x = 1\n"), member("a/mine.py", b"x = 1\ny = 2\nDATA = '/home/zaphod'\n"),
        member("zaphod.txt", b"x\n"), member("link", type=tarfile.SYMTYPE, linkname="/home/zaphod/data"),
        member("key.py", b"KEY = 'swordfish-42'\n"),
    )  # fmt: skip
    problems = [line.partition(";")[0] for line in find_private("code/main-untracked.tar.gz", zipped(archive), ME)]
    assert problems == [
        "the uncommitted file a/mine.py holds a user's name in line 3",
        "the uncommitted file [user].txt holds a user's name in its name",
        "the uncommitted file link holds a user's name in line 1",
        "the uncommitted file key.py holds a secret in line 1",
    ]
    (line,) = find_private("code/main.patch", PATCH, ME)
    assert line == (
        "the uncommitted file modules/x.py holds a user's name in line 2; "
        "commit or remove it and run again, or leave --bundle out"
    )


AWS, TOKEN, WORD = "AKIA" + "ABCDEFGHIJKLMNOP", "ghp_" + "a1" * 12, "pass" + 'word = "s3cret' + 'passw0rd"'


@pytest.mark.parametrize("planted", [AWS, TOKEN, WORD, "AUTHOR = zaphod", "swordfish-42", "AUTHOR = Zo\xeb"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin1"])
def test_a_secret_is_found_in_any_encoding_of_text(planted: str, encoding: str) -> None:
    archive = zipped(untracked(member("a.txt", f"# caf\xe9\n{planted}\n".encode(encoding))))
    me = Redactor(users=["zaphod", "Zo\xeb"], secrets=["swordfish-42"])
    (line,) = find_private("code/main-untracked.tar.gz", archive, me)
    assert re.match(r"the uncommitted file a\.txt holds a.+ in line 2", line)


@pytest.mark.parametrize(
    "content",
    [
        zipped(b"zaphod"), bz2.compress(b"zaphod"), lzma.compress(b"zaphod " * 99), zlib.compress(b"zaphod"),
        b"PK\x03\x04 an archive", b"\0\1 and inside it " + zipped(b"zaphod"), b"%PDF-1.7\n", b"\x89PNG\r\n\x1a\n\0\0zTXtabc",
        f"# caf\xe9\n{AWS}\n".encode("utf-16"), f"# cafe\n{AWS}\n".encode("utf-16-be"), b"\xff\0\xfe\1",
    ],
    ids=["gzip", "bzip2", "xz", "zlib", "zip", "inside", "pdf", "png", "utf-16", "utf-16-be", "binary"],
)  # fmt: skip
def test_a_file_that_cannot_be_searched_is_refused(content: bytes) -> None:
    (line,) = find_private("code/main-untracked.tar.gz", zipped(untracked(member("a.bin", content))), ME)
    assert line == (
        "the uncommitted file a.bin is binary, so that Lathe cannot search it for secrets; "
        "commit or remove it and run again, or leave --bundle out"
    )


@pytest.mark.parametrize("inside", [b"GIT binary patch\nliteral 9\nzap zap\n", b"+a\0b\n", b"+BZh91AY&SY\x01\n"])
def test_a_binary_file_in_a_patch_is_refused(inside: bytes) -> None:
    patch = b"diff --git a/x b/x\n+x = 1\ndiff --git a/b.png b/b.png\n" + inside
    (line,) = find_private("code/main.patch", patch, ME)
    assert line.startswith("the uncommitted file b.png is binary")


@pytest.mark.parametrize("content", [b"#!/usr/bin/env bash\ncurl https://example.org/x/y\n", b"# caf\xe9 \x1b[0m\n"])
def test_code_without_names_and_secrets_can_be_shared(content: bytes) -> None:
    archive = zipped(untracked(member("run.sh", content)))
    assert list(find_private("code/main-untracked.tar.gz", archive, ME)) == []
    assert list(find_private("code/main.patch", b"diff --git a/x b/x\n+" + content, ME)) == []
