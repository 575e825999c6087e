"""The uncommitted code in a shared archive: it must stay inside its checkout and hold no secret of its author."""

from __future__ import annotations

import gzip
import hashlib
import io
import posixpath
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from experiments.core.secret_formats import CREDENTIAL_FILES
from experiments.results.share.redact import KINDS, Redactor

MAX_UNPACKED_BYTES = 128_000_000  # of all files together
MAX_MEMBERS = 20_000
MAX_NAME, MAX_DEPTH = 1024, 64
NOT_TEXT = re.compile(
    rb"[\0-\x06\x0e-\x1a\x1c-\x1f\x7f]|^GIT binary patch$"
    rb"|\A(?:BZh[1-9]|x[\x01\x5e\x9c\xda]|%PDF|\x28\xb5\x2f\xfd)",  # bzip2, zlib, PDF, zstd: may have none of these bytes
    re.MULTILINE,
)


def find_unsafe(code: Sequence[Mapping[str, Any]], files: Mapping[str, bytes]) -> Iterator[str]:
    """Every problem of uncommitted code that was received; nothing is written to the disk.

    Args:
        code: the entries of a shared file.
        files: content by the names under ``diff`` and ``untracked``; an entry with a missing file is skipped.
    """
    max_bytes = MAX_UNPACKED_BYTES
    for entry in code:
        names = [entry[kind] for kind in ("diff", "untracked") if entry[kind]]
        if not names or any(name not in files for name in names):
            continue
        patch, packed = files.get(entry["diff"], b""), files.get(entry["untracked"], b"")
        try:
            unpacked = _unpack(packed, max_bytes)
            max_bytes -= len(unpacked)
            problems = list(_find_unsafe_members(unpacked))
        except (EOFError, ValueError, RecursionError, zlib.error, gzip.BadGzipFile, tarfile.TarError):
            yield f"code/{entry['untracked']} is damaged or too large; ask the sender for a new archive"
            continue
        yield from (f"code/{entry['untracked']}: {problem}; do not use this archive" for problem in problems)
        sha256 = hashlib.sha256((entry["git_sha"] or "").encode() + patch + unpacked).hexdigest()
        if sha256 != entry["sha256"]:
            hint = "ask the sender for a new archive"
            yield f"the code of '{entry['name']}' has SHA-256 {sha256}, and the file says {entry['sha256']}; {hint}"


def _unpack(packed: bytes, max_bytes: int = MAX_UNPACKED_BYTES) -> bytes:
    if not packed:
        return b""
    with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError
    return content


def _find_unsafe_members(content: bytes) -> Iterator[str]:
    """Every file of a tar that does not belong into a checkout."""
    if not content:
        return
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        members = list(islice(archive, MAX_MEMBERS + 1))
    if len(members) > MAX_MEMBERS:
        raise ValueError
    links = {posixpath.normpath(member.name) for member in members if member.issym()}
    names = set[str]()
    for member in members:
        if problem := _find_problem(member, links):
            yield f"{ascii(member.name)[:100]} {problem}"
        elif posixpath.normpath(member.name) in names:
            yield f"{ascii(member.name)[:100]} is in it twice"
        names.add(posixpath.normpath(member.name))


def _find_problem(member: tarfile.TarInfo, links: set[str]) -> str | None:
    parts = member.name.split("/")
    if len(member.name) > MAX_NAME or len(parts) > MAX_DEPTH:
        return f"has more than {MAX_NAME:,} characters or {MAX_DEPTH} folders"
    if leads_out(member.name):
        return "is outside the checkout"
    if any(part.lower() in (".git", "") for part in parts):
        return "is not a file name, or a file of git itself"
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.SYMTYPE) or member.issparse():
        return "is not a plain file or symbolic link"
    parts = posixpath.normpath(member.name).split("/")
    if any("/".join(parts[:depth]) in links for depth in range(1, len(parts))):
        return "is below a symbolic link"
    if member.issym() and leads_out(posixpath.join(posixpath.dirname(member.name), member.linkname)):
        return f"is a symbolic link out of the checkout, to {ascii(member.linkname)[:100]}"
    return None


def leads_out(name: str) -> bool:
    """True for a path that is absolute or leaves the folder where it begins."""
    normal = posixpath.normpath(name)
    return normal.startswith(("/", "../")) or normal == ".." or "\0" in name or "\\" in name


def find_private(name: str, content: bytes, redactor: Redactor) -> Iterator[str]:
    """A line for every uncommitted file that is to be sent and is not text, or holds a secret or a name of its author.

    Args:
        name: of a patch or a packed tar of untracked files.
        content: its bytes.
        redactor: knows the secrets and names.
    """
    hint = "commit or remove it and run again, or leave --bundle out"
    for path, inside in _iterate_files(name, content):
        shown = f"the uncommitted file {redactor.redact(path)}"
        if redactor.find_known(path):
            yield f"{shown} holds {KINDS[redactor.find_known(path)[0].kind]} in its name; {hint}"
        elif CREDENTIAL_FILES.search(path):
            yield f"{shown} is a file for passwords or keys, by its name; {hint}"
        elif NOT_TEXT.search(inside):
            yield f"{shown} is binary, so that Lathe cannot search it for secrets; {hint}"
        else:
            for text in (inside.decode(errors="replace"), inside.decode("latin1")):
                if findings := redactor.find_known(text):
                    line = text.count("\n", 0, findings[0].start) + 1
                    yield f"{shown} holds {KINDS[findings[0].kind]} in line {line}; {hint}"
                    break


def _iterate_files(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """Path and content of every file in a patch or a packed tar; of a link its target."""
    if name.endswith(".patch"):
        for part in re.split(rb"^(?=diff --git )", content, flags=re.MULTILINE):
            if part:
                yield part.partition(b"\n")[0].rpartition(b" b/")[2].decode(errors="replace"), part
        return
    with tarfile.open(fileobj=io.BytesIO(_unpack(content)), mode="r:") as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member) if member.isreg() else None
            yield member.name, file.read() if file else member.linkname.encode(errors="replace")
