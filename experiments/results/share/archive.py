"""The archive of a shared run: its YAML, uncommitted code and weights; read a header at a time, each checked before its bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from experiments.core.atomic import sync
from experiments.core.errors import InputError
from experiments.results.share import archive_code as bundled_code
from experiments.results.share.strict_yaml import MAX_MB

TEXT, CODE, WEIGHTS = "share.yaml", "code/", "weights/model.safetensors"
NAME = re.compile(rf"{TEXT}|code/[A-Za-z0-9_][A-Za-z0-9._-]{{0,80}}(\.patch|-untracked\.tar\.gz)|{WEIGHTS}")
MAX_CODE_MB = 32.0
MAX_ALL_CODE_MB = 128.0
MAX_WEIGHTS_GB = 200.0
MOST_FILES = 64
MOST_RATIO = 100  # of what comes out of the archive to its size; weights hardly shrink at all
SLACK_BYTES = 1 << 20
BLOCK = tarfile.BLOCKSIZE
CHUNK = 1 << 20
DAMAGED = "it is cut or damaged; ask for it again"


@dataclass
class Archive:
    """What lies in one that was read to its end."""

    text: bytes = b""
    sums: dict[str, str] = field(default_factory=dict)
    """SHA-256 by name of every file but the YAML."""
    code: dict[str, bytes] = field(default_factory=dict)
    """Content of what lies in ``code``, by name."""


def is_archive(path: Path) -> bool:
    """Whether a file begins as an archive does.

    Raises:
        InputError: there is no such file, it is no plain file, or it cannot be read.
    """
    with _opened(path) as file:
        return file.read(2) == b"\x1f\x8b"


def content(path: Path) -> bytes:
    """The bytes of a file that is no archive, as far as a shared file may be long and one more."""
    with _opened(path) as file:
        return file.read(int(MAX_MB * 1e6) + 1)


def inspect(path: Path) -> Archive:
    """Read an archive to its end, and write nothing.

    Raises:
        InputError: it is cut or damaged, or holds something that no shared archive holds.
    """
    found = Archive()
    for name, blocks in _members(path):
        digest, kept = hashlib.sha256(), list[bytes]()
        for number, block in enumerate(blocks):
            digest.update(block)
            if name != WEIGHTS:
                kept.append(block)
            elif number == 0 and not _begins_as_weights(block):
                raise _refusal(path, f"{name} is no file of safetensors; ask for the archive again")
        if name == TEXT:
            found.text = b"".join(kept)
            continue
        found.sums[name] = digest.hexdigest()
        if name != WEIGHTS:
            found.code[name] = b"".join(kept)
    if not found.text:
        raise _refusal(path, f"it has no {TEXT}; name an archive that `lathe share --bundle` wrote")
    return found


def mismatches(
    listed: Mapping[str, str] | None, code: Sequence[Mapping[str, Any]], archive: Archive | None
) -> Iterator[str]:
    """Everything by which what a shared file says of its archive differs from what is there."""
    named = {f"{CODE}{entry[kind]}" for entry in code for kind in ("diff", "untracked") if entry[kind] is not None}
    if listed is None or archive is None:
        if listed is not None:
            yield "bundle names files, and this file stands alone; ask for the archive that it came in"
        for name in sorted(named):
            yield f"code names {name}, and this file has no bundle; ask for the file again"
        return
    for name in sorted({*listed, *archive.sums}):
        if name not in listed:
            yield f"{name} lies in the archive, and bundle does not name it; ask for the archive again"
        elif name not in archive.sums:
            yield f"{name} is named by bundle, and the archive lacks it; ask for the archive again"
        elif listed[name] != archive.sums[name]:
            yield f"{name} has the SHA-256 {archive.sums[name]}, and bundle says {listed[name]}; ask for the archive again"
        elif name != WEIGHTS and name not in named:
            yield f"{name} lies in the archive, and no entry of code names it; ask for the archive again"
    for name in sorted(named - {*listed}):
        yield f"code names {name}, and bundle does not; ask for the archive again"
    yield from bundled_code.faults(code, {name.removeprefix(CODE): held for name, held in archive.code.items()})


def extract(path: Path, folder: Path, listed: Mapping[str, str], only: str = CODE) -> None:
    """Write files of an archive into an empty folder.

    Args:
        path: of an archive that was read.
        folder: is there, and holds nothing.
        listed: SHA-256 by name of what is to come out; held against every file once more, as it is written.
        only: with what the names begin of those that come out; "" for all.

    Raises:
        InputError: the folder is not empty, or the archive has changed since it was read.
    """
    if any(folder.iterdir()):
        raise InputError([f"{folder} is not empty; name a new folder"])
    wanted = {name for name in (TEXT, *listed) if name.startswith(only)}
    for name, blocks in _members(path):
        if not wanted:
            break
        if name not in wanted:
            continue
        wanted.remove(name)
        target, digest = folder / name, hashlib.sha256()
        target.parent.mkdir(exist_ok=True)
        with target.open("xb") as file:
            for block in blocks:
                digest.update(block)
                file.write(block)
        if name != TEXT and digest.hexdigest() != listed.get(name):
            target.unlink()
            raise _refusal(path, f"{name} has changed since the archive was read; try again")
    if wanted:
        raise _refusal(path, f"{min(wanted)} has gone since the archive was read; try again")


def write(partial: Path, text: str, files: Mapping[str, bytes | Path]) -> None:
    """Write an archive; the same files make the same bytes.

    Args:
        partial: the new file; who calls gives it its name once it is whole.
        text: the YAML.
        files: content, or where it lies, by name.
    """
    with (
        partial.open("xb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=1, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, held in {TEXT: text.encode(), **files}.items():
            info = tarfile.TarInfo(name)
            if isinstance(held, Path):
                info.size = held.stat().st_size
                with held.open("rb") as file:
                    archive.addfile(info, file)
            else:
                info.size = len(held)
                archive.addfile(info, io.BytesIO(held))
    sync(partial)


def _members(path: Path) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Name and bytes of every file of an archive, each header checked before what it announces is read.

    Of the formats of tar this knows the oldest alone: those of links, devices, long names and further headers, by which
    archives do harm, end it.
    """
    with _opened(path) as file:
        stream = _Stream(path, file)
        names, code_left = list[str](), MAX_ALL_CODE_MB * 1e6
        while (header := stream.take(BLOCK)) != bytes(BLOCK):
            info = _header(path, header)
            if fault := _fault(info, names):
                raise _refusal(path, fault)
            names.append(info.name)
            code_left -= info.size if info.name.startswith(CODE) else 0
            if code_left < 0:
                raise _refusal(path, f"its code has more than {MAX_ALL_CODE_MB:.0f} MB; ask for it again")
            stream.announce(info.size)
            blocks = stream.blocks(info.size)
            yield info.name, blocks
            for _ in blocks:  # whatever the caller has left
                pass
            stream.take(-info.size % BLOCK)
        stream.end()


def _header(path: Path, header: bytes) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError as err:
        raise _refusal(path, DAMAGED) from err


def _fault(info: tarfile.TarInfo, before: Sequence[str]) -> str | None:
    """What is wrong with a file of an archive, by its header."""
    name = info.name if info.name.isprintable() and len(info.name) < 100 else ascii(info.name)[:100]
    most = MAX_WEIGHTS_GB * 1e9 if info.name == WEIGHTS else MAX_MB * 1e6 if info.name == TEXT else MAX_CODE_MB * 1e6
    if info.name.startswith("/") or ".." in info.name.split("/"):
        return f"{name} leads out of the archive; do not use it"
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        kinds = {tarfile.SYMTYPE: "a link", tarfile.LNKTYPE: "a link", tarfile.DIRTYPE: "a folder"}
        return f"{name} is {kinds.get(info.type, 'no plain file')}, and a shared archive holds plain files; ask for it again"
    if not NAME.fullmatch(info.name):
        return f"{name} is no file of a shared archive; name one that `lathe share --bundle` wrote"
    if info.name in before:
        return f"{name} lies in it twice; ask for it again"
    if (info.name == TEXT) != (not before):
        return f"{TEXT} must come first; name an archive that `lathe share --bundle` wrote"
    if len(before) >= MOST_FILES:
        return f"it holds more than {MOST_FILES} files; ask for it again"
    if not 0 <= info.size <= most:
        return f"{name} announces {info.size / 1e6:,.0f} MB, and {most / 1e6:,.0f} are the most; ask for it again"
    return None


class _Stream:
    """What comes out of a packed file, no more than its size can honestly hold."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self.packed = path, gzip.GzipFile(fileobj=file, mode="rb")
        self.left = os.fstat(file.fileno()).st_size * MOST_RATIO + SLACK_BYTES

    def announce(self, size: int) -> None:
        """Refuse what a file's header announces where the archive is too small to hold it."""
        if size > self.left:
            raise _refusal(self.path, f"more than {MOST_RATIO} times its size would come out of it; do not use it")

    def take(self, size: int) -> bytes:
        """So many bytes."""
        try:
            found = self.packed.read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as err:
            raise _refusal(self.path, DAMAGED) from err
        if len(found) < size:
            raise _refusal(self.path, DAMAGED)
        self.left -= size
        self.announce(0)
        return found

    def blocks(self, size: int) -> Iterator[bytes]:
        while size:
            block = self.take(min(size, CHUNK))
            size -= len(block)
            yield block

    def end(self) -> None:
        """Read the zeros at the end, by which the checksum of the whole is known to hold."""
        try:
            rest = self.packed.read(SLACK_BYTES)
        except (EOFError, zlib.error, gzip.BadGzipFile) as err:
            raise _refusal(self.path, DAMAGED) from err
        if rest.strip(b"\0") or len(rest) == SLACK_BYTES:
            raise _refusal(self.path, "something stands behind its end; ask for it again")


def _begins_as_weights(block: bytes) -> bool:
    """Whether a file begins as those of safetensors do: the length of a header, and the header, which is JSON."""
    return len(block) >= 10 and int.from_bytes(block[:8], "little") <= MAX_CODE_MB * 1e6 and block[8:9] == b"{"


def _opened(path: Path) -> IO[bytes]:
    """A plain file, open for reading; a pipe or a device would give no end of it."""
    subject = f"the shared file {path}"
    try:
        if not path.exists():
            raise InputError([f"there is no file {path}; `lathe share RUN -o {path.name}` writes one"], subject)
        if not path.is_file():
            raise InputError([f"{path} is no plain file; name one that `lathe share` wrote"], subject)
        return path.open("rb")
    except OSError as err:
        raise InputError([f"{path} cannot be read: {err.strerror}; make it readable"], subject) from err


def _refusal(path: Path, fault: str) -> InputError:
    return InputError([f"{path}: {fault}"], f"the shared file {path}")
