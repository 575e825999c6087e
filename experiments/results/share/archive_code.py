"""The uncommitted code that comes with a shared run: whether it is what it says, and stays inside a checkout."""

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

from experiments.results.share.redact import SAID, UTF_16, Scrubber, readings

MAX_UNPACKED_MB = 128.0  # of all files together
MOST_MEMBERS = 20_000
LONGEST_NAME, DEEPEST = 1024, 64
BINARY = re.compile(rb"^GIT binary patch$", re.MULTILINE)
CONTROL = re.compile(rb"[\0-\x06\x0e-\x1a\x1c-\x1f\x7f]")
"""What stands in no text, whatever its encoding of a byte a letter."""
PACKED = re.compile(
    rb"\A(?:BZh[1-9]|\x04\x22\x4d\x18|\x78[\x01\x5e\x9c\xda]|%PDF|\x1f\x9d)"  # bzip2, lz4, zlib, PDF, compress
    rb"|\x1f\x8b\x08|\xfd7zXZ\0|\x28\xb5\x2f\xfd|PK\x03\x04|7z\xbc\xaf\x27\x1c|Rar!\x1a\x07"  # inside others too
    rb"|\A\x89PNG(?s:.)*(?:zTXt|iTXt)"  # packed words in a picture
)
"""What begins a part of a file in which words do not stand as they are."""


def faults(code: Sequence[Mapping[str, Any]], files: Mapping[str, bytes]) -> Iterator[str]:
    """What is wrong with it; nothing is unpacked to the disk.

    Args:
        code: the entries of a shared file.
        files: content by the name that an entry gives under ``diff`` or ``untracked``; what is missing is not judged.
    """
    left = int(MAX_UNPACKED_MB * 1e6)
    for entry in code:
        names = [entry[kind] for kind in ("diff", "untracked")]
        if not any(names) or any(name is not None and name not in files for name in names):
            continue
        patch = files[entry["diff"]] if entry["diff"] else b""
        packed = files[entry["untracked"]] if entry["untracked"] else b""
        unpacked = _unpack(packed, left) if packed else b""
        if unpacked is None:
            yield f"code/{entry['untracked']} is cut, damaged or too large; ask for the archive again"
            continue
        left -= len(unpacked)
        yield from (f"code/{entry['untracked']}: {fault}" for fault in _archive_faults(unpacked))
        sha256 = hashlib.sha256((entry["git_sha"] or "").encode() + patch + unpacked).hexdigest()
        if sha256 != entry["sha256"]:
            told = f"has the SHA-256 {sha256}, and the file says {entry['sha256']}; ask for the archive again"
            yield f"the code of '{entry['name']}' {told}"


def _unpack(packed: bytes, most: int = int(MAX_UNPACKED_MB * 1e6)) -> bytes | None:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
            content = file.read(most + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return None
    return content if len(content) <= most else None


def _archive_faults(content: bytes) -> Iterator[str]:
    """What of an archive of files would lead out of the checkout that it is for."""
    if not content:
        return
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            members = list(islice(archive, MOST_MEMBERS + 1))
    except (tarfile.TarError, ValueError, EOFError, RecursionError) as err:  # of headers that only announce headers
        yield f"it is cut or damaged ({type(err).__name__}); ask for the archive again"
        return
    if len(members) > MOST_MEMBERS:
        yield f"it holds more than {MOST_MEMBERS:,} files; do not use it"
        return
    if sum(member.size for member in members) > MAX_UNPACKED_MB * 1e6:  # a sparse file is larger than what is stored
        yield f"its files would take more than {MAX_UNPACKED_MB:.0f} MB; do not use it"
    links = {posixpath.normpath(member.name) for member in members if member.issym()}
    seen = set[str]()
    for member in members:
        if fault := _member_fault(member, links):
            yield f"{ascii(member.name)[:100]} {fault}; do not use it"
        elif member.name in seen:
            yield f"{ascii(member.name)[:100]} lies in it twice; ask for the archive again"
        seen.add(member.name)


def _member_fault(member: tarfile.TarInfo, links: set[str]) -> str | None:
    parts = member.name.split("/")
    if len(member.name) > LONGEST_NAME or len(parts) > DEEPEST:
        return f"has more than {LONGEST_NAME:,} characters, or lies more than {DEEPEST} folders deep"
    if leads_out(member.name):
        return "leads out of the checkout"
    if any(part.lower() in (".git", "") for part in parts):
        return "is no name of a file, or belongs to git itself"
    if not (member.isreg() or member.issym()):
        return "is no plain file"
    if any("/".join(parts[:depth]) in links for depth in range(1, len(parts))):
        return "lies behind a link"
    if member.issym() and leads_out(posixpath.join(posixpath.dirname(member.name), member.linkname)):
        return f"is a link that leads out of the checkout, to {ascii(member.linkname)[:100]}"
    return None


def leads_out(name: str) -> bool:
    """True for a path that is absolute, or climbs above where it begins."""
    normal = posixpath.normpath(name)
    return normal.startswith(("/", "../")) or normal == ".." or "\0" in name or "\\" in name


def telling(name: str, content: bytes, scrubber: Scrubber) -> Iterator[str]:
    """A line for every file of a patch or an archive that tells a secret, a user, a machine or its folders, or may.

    Args:
        name: of the patch or archive, as a bundle calls it.
        content: its bytes.
        scrubber: knows them.
    """
    for place, inside in _files_of(name, content):
        told = _told(place, inside, scrubber)
        if told is not None:
            yield f"{scrubber.text(place)}{told}"
        elif _is_closed(inside, is_patch=name.endswith(".patch")):
            yield (
                f"{scrubber.text(place)} of what is not committed is packed or binary, so that it cannot be looked into; "
                "commit it or take it out, and run again, or leave --bundle out"
            )


def no_text(name: str, content: bytes) -> Iterator[str]:
    """Paths of what goes out and no person can read, such as pictures: only words that stand in them as they are are found."""
    yield from (place for place, inside in _files_of(name, content) if _is_binary(inside))


def _told(place: str, content: bytes, scrubber: Scrubber) -> str | None:
    """What is told by a file's name or content, behind its name."""
    found, line = scrubber.known(place), ""
    if not found and _is_binary(content):
        found = scrubber.in_bytes(content)
    elif not found:
        for text in readings(content):
            if found := scrubber.known(text):
                line = f", line {text.count(chr(10), 0, found[0].start) + 1}"
                break
    if not found:
        return None
    told = f"tells {SAID[found[0].kind]}, which a shared file must not"
    return f"{line} of what is not committed {told}; take it out and run again, or leave --bundle out"


def _is_closed(content: bytes, *, is_patch: bool) -> bool:
    """Whether words may stand in a file without being found; git packs whatever is no text."""
    return bool(PACKED.search(content) or (is_patch and (BINARY.search(content) or _is_binary(content))))


def _is_binary(content: bytes) -> bool:
    return not content.startswith(UTF_16) and CONTROL.search(content) is not None


def _files_of(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """Path and content of every file in a patch or a packed archive; of a link where it leads."""
    if name.endswith(".patch"):
        for part in re.split(rb"^(?=diff --git )", content, flags=re.MULTILINE):
            if part:
                yield part.partition(b"\n")[0].rpartition(b" b/")[2].decode(errors="replace"), part
        return
    with tarfile.open(fileobj=io.BytesIO(_unpack(content) or b""), mode="r:") as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member) if member.isreg() else None
            yield member.name, file.read() if file else member.linkname.encode(errors="replace")
