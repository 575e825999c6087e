"""The archive of a shared run: its YAML, uncommitted code and weights. Reading checks every header before the file behind it."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from experiments.core.atomic import fsync
from experiments.core.errors import InputError
from experiments.results.share.strict_yaml import MAX_MB
from experiments.results.share.uncommitted_code import find_unsafe

TEXT, CODE, WEIGHTS = "share.yaml", "code/", "weights/model.safetensors"
NAME = re.compile(rf"{TEXT}|code/[A-Za-z0-9_][A-Za-z0-9._-]{{0,80}}(\.patch|-untracked\.tar\.gz)|{WEIGHTS}")
MAX_CODE_MB = 32.0
MAX_ALL_CODE_MB = 128.0
MAX_WEIGHTS_GB = 200.0
MAX_FILES = 64
MAX_RATIO = 100  # of unpacked to packed size; weights hardly shrink
SLACK_BYTES = 1 << 20
CHUNK = 1 << 20


class ArchiveError(Exception):
    """An archive breaks a rule; the message names the rule."""


@dataclass
class Archive:
    """The content of a shared archive without the weights, or of a shared YAML file, which has no other files."""

    text: bytes = b""
    sums: dict[str, str] = field(default_factory=dict)
    """SHA-256 by name of every file except the YAML."""
    code: dict[str, bytes] = field(default_factory=dict)
    """Content of the files in ``code``, by name."""


class _PlainFile(tarfile.TarInfo):
    """Refuses every header except those of plain files, before tarfile acts on it: no links, devices or extended headers."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _PlainFile:
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as err:
            if buf == bytes(tarfile.BLOCKSIZE):  # the end of the archive; tarfile takes any wrong header as that
                raise
            raise ArchiveError("it is cut or damaged") from err
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise ArchiveError(f"{_shown(info.name)} is not a plain file")
        return info


def read(path: Path) -> Archive:
    """Read an archive, or a YAML file alone, without writing anything.

    Raises:
        InputError: the file cannot be read, or the archive is damaged or holds a file that no shared archive holds.
    """
    with _open(path) as file:
        if file.read(2) != b"\x1f\x8b":
            file.seek(0)
            return Archive(file.read(int(MAX_MB * 1e6) + 1))
        file.seek(0)
        max_bytes = os.fstat(file.fileno()).st_size * MAX_RATIO + SLACK_BYTES
        archive = Archive()
        with gzip.GzipFile(fileobj=file) as unpacked, tarfile.TarFile(fileobj=unpacked, tarinfo=_PlainFile) as members:
            for info in members:
                _check_header(info, archive)
                max_bytes -= info.size
                if max_bytes < 0:
                    raise ArchiveError(f"it would unpack to more than {MAX_RATIO} times its size")
                _add(archive, info.name, members.extractfile(info))
            rest = unpacked.read(SLACK_BYTES)  # to its end, where gzip checks the checksum
            if rest.strip(b"\0") or len(rest) == SLACK_BYTES:
                raise ArchiveError("it holds more data after its end")
        if not archive.text:
            raise ArchiveError(f"it has no {TEXT}")
        return archive


def _check_header(info: tarfile.TarInfo, archive: Archive) -> None:
    name, size = info.name, info.size
    max_size = {TEXT: MAX_MB * 1e6, WEIGHTS: MAX_WEIGHTS_GB * 1e9}.get(name, MAX_CODE_MB * 1e6)
    if not NAME.fullmatch(name) or not info.isreg():
        raise ArchiveError(f"{_shown(name)} is not a file of a shared archive")
    if (name == TEXT) == bool(archive.text):
        raise ArchiveError(f"{TEXT} must be its first file, and only once")
    if name in archive.sums:
        raise ArchiveError(f"{name} is in it twice")
    if len(archive.sums) >= MAX_FILES:
        raise ArchiveError(f"it holds more than {MAX_FILES} files")
    if not 0 <= size <= max_size:
        raise ArchiveError(f"{name} has {size / 1e6:,.0f} MB; the limit is {max_size / 1e6:,.0f} MB")
    if name.startswith(CODE) and sum(map(len, archive.code.values())) + size > MAX_ALL_CODE_MB * 1e6:
        raise ArchiveError(f"its code has more than {MAX_ALL_CODE_MB:.0f} MB")


def _add(archive: Archive, name: str, file: IO[bytes] | None) -> None:
    assert file is not None
    if name != WEIGHTS:
        content = file.read()
        if name == TEXT:
            archive.text = content
        else:
            archive.sums[name], archive.code[name] = hashlib.sha256(content).hexdigest(), content
        return
    digest = hashlib.sha256(head := file.read(CHUNK))
    # safetensors: the length of a JSON header, and that header
    if len(head) < 10 or int.from_bytes(head[:8], "little") > MAX_CODE_MB * 1e6 or head[8:9] != b"{":
        raise ArchiveError(f"{name} is not a safetensors file")
    while block := file.read(CHUNK):
        digest.update(block)
    archive.sums[name] = digest.hexdigest()


def find_mismatches(values: Mapping[str, Any], archive: Archive) -> Iterator[str]:
    """Every difference between the entries ``bundle`` and ``code`` of a shared file and the files of its archive."""
    listed, sums = values["bundle"] or {}, archive.sums
    named = {f"{CODE}{entry[kind]}" for entry in values["code"] for kind in ("diff", "untracked") if entry[kind]}
    hint = "ask the sender for a new archive"
    for name in sorted({*listed, *sums}):
        if listed.get(name) != sums.get(name):
            there, wanted = (f"SHA-256 {known[name]}" if name in known else "nothing" for known in (sums, listed))
            yield f"{name}: `bundle` lists {wanted}, and the archive holds {there}; {hint}"
        elif name != WEIGHTS and name not in named:
            yield f"{name} is in the archive, but no entry of `code` names it; {hint}"
    for name in sorted(named - {*listed, *sums}):
        yield f"{name} is named in `code`, but there is no such file; {hint}"
    yield from find_unsafe(values["code"], {name.removeprefix(CODE): content for name, content in archive.code.items()})


def write(partial: Path, text: str, files: Mapping[str, bytes | Path]) -> None:
    """Write an archive; the same files give the same bytes.

    Args:
        partial: the new file; the caller renames it when it is complete.
        text: the YAML.
        files: the content, or the path of a file, by name.
    """
    with (
        partial.open("xb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=1, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, content in {TEXT: text.encode(), **files}.items():
            info = tarfile.TarInfo(name)
            with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as file:
                info.size = file.seek(0, os.SEEK_END)
                file.seek(0)
                archive.addfile(info, file)
    fsync(partial)


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    """A plain file, open for reading: a pipe or a device may have no end."""
    try:
        if not path.exists():
            problem = f"there is no file {path}; write one with `lathe share RUN -o {path.name}`"
        elif not path.is_file():
            problem = f"{path} is not a plain file; name a file that `lathe share` wrote"
        else:
            with path.open("rb") as file:
                yield file
            return
    except ArchiveError as err:
        problem = f"{path}: {err}; ask the sender for a new archive"
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError):
        problem = f"{path}: it is cut or damaged; ask the sender for a new archive"
    except OSError as err:
        problem = f"{path} cannot be read: {err.strerror}; make it readable"
    raise InputError([problem], f"the shared file {path}")


def _shown(name: str) -> str:
    """The name of a file in an untrusted archive, as messages show it."""
    return name if name.isprintable() and len(name) < 100 else ascii(name)[:100]
