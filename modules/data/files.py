"""The files of a data set: finds, reads and checks them."""

from __future__ import annotations

import errno
import gzip
import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Final
from zipfile import ZipFile

import numpy as np

from modules.data.base import DataError

MAX_RATIO: Final = 100
"""Most by which a compressed file may grow; texts grow 3 to 10 times. More is taken for an attack on the memory."""
MAX_UNPACKED: Final = 2**28
"""Bytes that any file may unpack to."""


class DataFiles:
    """Files of one folder by name. Nothing is read before `read`."""

    def __init__(self, root: str, folder: str, files: Mapping[str, str | None], part: str = "data") -> None:
        """
        Args:
            root: the folder of all data sets.
            folder: folder of this data set, below ``root``.
            files: name to sha256, 64 hexadecimal digits; None: not checked.
            part: group in the configuration that names the files, for messages.
        """
        if not folder or not files:
            raise ValueError(f"{part} wants a folder and its files, but got folder={folder!r} and {len(files)} files")
        for name, sha256 in files.items():
            if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", sha256):
                raise ValueError(
                    f"{part}.files wants the sha256 of {name!r} as 64 digits of 0-9 and a-f, but got {sha256!r}; "
                    f"`sha256sum` prints it, and null leaves the file unchecked"
                )
        self.folder, self.part = folder, part
        self.files = dict(files)
        self.path = Path(root).expanduser() / folder

    def read(self, name: str) -> bytes:
        """Read one file.

        Raises:
            DataError: it is missing, cannot be read or has another sha256.
        """
        path = (self.path / name).absolute()
        try:
            if path.exists() and not (path.is_file() or path.is_dir()):  # reading a named pipe would wait for ever
                raise OSError(errno.EINVAL, "it is not a file")
            content = path.read_bytes()
        except FileNotFoundError as err:
            raise DataError(self._missing(path)) from err
        except OSError as err:
            raise DataError(
                f"{self.part}.folder={self.folder!r}: {path} cannot be read ({err.strerror}); every file of the set must be "
                f"readable; change its permissions, or set LATHE_DATA to a folder with a copy"
            ) from err
        sha256 = self.files[name]
        if sha256 is not None and (actual := hashlib.sha256(content).hexdigest()) != sha256:
            raise DataError(
                f"{self.part}.folder={self.folder!r}: {path} has the sha256 {actual}, but {self.part}.files says {sha256}; "
                f"it is damaged or another version: {self._fetch_again()}"
            )
        return content

    @contextmanager
    def decoding(self, name: str) -> Iterator[None]:
        """Convert the errors of a decoder into a `DataError` that names the file."""
        try:
            yield
        except DataError:
            raise
        except Exception as err:  # decoders of damaged files raise errors of many classes
            reason = (
                f"it has no {err}" if isinstance(err, KeyError) else " ".join(str(err).split()) or type(err).__name__
            )
            raise DataError(
                f"{self.part}.folder={self.folder!r}: {(self.path / name).absolute()} is damaged or of another format "
                f"({reason}); {self._fetch_again()}"
            ) from err

    def read_npz(self, name: str) -> dict[str, np.ndarray]:
        """Read all members of a NumPy archive; pickled objects are refused.

        Raises:
            DataError: as `read`, or the file is not a NumPy archive.
        """
        content = self.read(name)
        with self.decoding(name):
            if not content.startswith(b"PK"):  # `np.load` would allocate what the header of a single array says
                raise ValueError("it is not an archive of arrays, which numpy.savez writes")
            with np.load(BytesIO(content), allow_pickle=False) as members:
                _check_unpacked(sum(each.file_size for each in members.zip.infolist()), len(content))
                return dict(members)

    def read_text(self, name: str) -> str:
        """Read a text in UTF-8; a name in ``.gz`` is decompressed.

        Raises:
            DataError: as `read`, or the file is damaged or no text.
        """
        content = self.read(name)
        with self.decoding(name):
            return (decompress(content) if name.endswith(".gz") else content).decode("utf-8")

    def read_member(self, name: str, member: str) -> str:
        """Read a text in UTF-8 from a zip archive.

        Raises:
            DataError: as `read_text`.
        """
        content = self.read(name)
        with self.decoding(name), ZipFile(BytesIO(content)) as archive:
            _check_unpacked(archive.getinfo(member).file_size, len(content))
            return archive.read(member).decode("utf-8")

    def _missing(self, path: Path) -> str:
        return (
            f"{self.part}.folder={self.folder!r}: {path} is missing; the set needs {', '.join(self.files)} in that folder; "
            f"set LATHE_DATA to the folder that holds {self.folder!r}, or fetch the files from the source that "
            f"`lathe data` names"
        )

    def _fetch_again(self) -> str:
        return "fetch it again from the source that `lathe data` names, or set LATHE_DATA to a folder with a good copy"


def decompress(content: bytes) -> bytes:
    """Decompress a gzip file.

    Raises:
        ValueError, OSError, EOFError: it is damaged, or unpacks to much more than real data do.
    """
    parts, size = list[bytes](), 0
    with gzip.GzipFile(fileobj=BytesIO(content)) as file:
        while part := file.read(2**20):
            parts.append(part)
            size += len(part)
            _check_unpacked(size, len(content))
    return b"".join(parts)


def _check_unpacked(unpacked: int, packed: int) -> None:
    if unpacked > (limit := max(MAX_UNPACKED, MAX_RATIO * packed)):
        raise ValueError(
            f"its {packed / 1e6:,.1f} MB unpack to more than {limit / 1e6:,.0f} MB; compression makes a file of data at most "
            f"{MAX_RATIO} times smaller"
        )
