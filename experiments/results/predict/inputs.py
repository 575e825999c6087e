"""What a user gives a model: words of the command line, image files and folders of them, lines of a pipe. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from glob import has_magic, iglob
from pathlib import Path
from typing import Literal

from experiments.core.errors import did_you_mean

STDIN = "-"
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
"""Of files that are images where a folder is named; a file that is named itself may end in anything."""
Takes = Literal["text", "image"]


@dataclass(frozen=True)
class Given:
    """One input: a line of text or the path of an image, or why it is none."""

    value: str
    fault: str | None = None


def problems_of(words: Sequence[str], takes: Takes, output: Path | None = None) -> list[str]:
    """What is wrong with the words of a command line, all at once; a pipe is read later, line by line.

    Args:
        words, takes, output: as `each_given`.
    """
    named = [word for word in words if word != STDIN]
    problems = [fault for word in named if word and takes == "image" and (fault := _fault_of(word, output))]
    what = "a text" if takes == "text" else "a path"
    problems += [f"INPUT='' is empty; write {what}, or leave it out" for word in named if not word]
    return problems + (["INPUT - stands twice, and a pipe is read once; leave one out"] if words.count("-") > 1 else [])


def each_given(
    words: Sequence[str], takes: Takes, pipe: Iterable[bytes], output: Path | None = None
) -> Iterator[Given]:
    """Every input in order, found and read when it is asked for.

    Args:
        words: of the command line; none stands for the pipe.
        takes: whether they are texts, or images and folders of them.
        pipe: lines of standard input, of which each is a word.
        output: the folder that answers are written to: a folder or a pattern finds nothing in it, as former answers lie there.
    """
    for word in words or [STDIN]:
        if word == STDIN:
            for number, line in enumerate(pipe, start=1):
                if takes == "image" and _is_image(line):
                    yield Given(
                        "-", "INPUT - is an image itself, and wants paths, a line each; name the file instead of `-`"
                    )
                    return
                yield from _of_line(number, line.rstrip(b"\r\n"), takes, output)
        else:
            yield from map(Given, [word] if takes == "text" else _images(word, output))


def leaves_out(words: Sequence[str], output: Path) -> bool:
    """Whether the folder of answers is there, and in a folder that is asked about."""
    inside = os.path.realpath(output)
    folders = [Path(word).expanduser() for word in words]
    return output.is_dir() and any(
        Path(inside).is_relative_to(os.path.realpath(each)) for each in folders if each.is_dir()
    )


def _is_image(line: bytes) -> bool:
    """Whether a line is the beginning of a PNG or a JPEG, or what no path can be, as in all other images."""
    return line.startswith((b"\x89PNG", b"\xff\xd8\xff")) or b"\0" in line


def _of_line(number: int, line: bytes, takes: Takes, output: Path | None) -> Iterator[Given]:
    word = os.fsdecode(line)
    if not line:
        yield Given("", f"line {number} of the input is empty; write {'a text' if takes == 'text' else 'a path'}")
    elif takes == "image":
        fault = _fault_of(word, output)
        yield from [Given(word, fault)] if fault else map(Given, _images(word, output))
    else:
        try:
            yield Given(line.decode("utf-8"))
        except UnicodeDecodeError as err:
            yield Given(word, f"line {number} of the input is no UTF-8 ({err.reason}); convert it with `iconv`")


def _images(word: str, output: Path | None) -> Iterator[str]:
    """The files that a word names: itself, those of a folder and the folders in it, or of a pattern."""
    path = Path(word).expanduser()
    if path.is_dir():
        for folder, folders, names in os.walk(path):
            folders.sort()
            if not _is_same(folder, output):
                yield from (os.path.join(folder, name) for name in sorted(names) if name.lower().endswith(ENDINGS))
    elif path.exists() or not has_magic(word):
        yield str(path)
    else:
        found = (path for path in sorted(iglob(str(path), recursive=True)) if Path(path).is_file())
        yield from (path for path in found if not _is_same(os.path.dirname(path), output))


def _is_same(folder: str, output: Path | None) -> bool:
    return output is not None and os.path.realpath(folder or ".") == os.path.realpath(output)


def _fault_of(word: str, output: Path | None) -> str | None:
    try:
        return _missing(word, output)
    except (OSError, RuntimeError) as err:  # a name that is too long, a folder of others, the home of nobody
        return f"{word} cannot be looked at ({getattr(err, 'strerror', None) or err}); name a file that can be read"


def _missing(word: str, output: Path | None) -> str | None:
    path = Path(word).expanduser()
    if path.is_dir() or (has_magic(word) and not path.exists()):
        found, left = (next(_images(word, folder), None) for folder in (None, output))
        if found and (not left or (path.is_dir() and _is_same(str(path), output))):
            return (
                f"the images of {word} lie in -o {output}, which is not read, as former answers lie there; name another "
                "folder for -o"
            )
        what = "has no image" if path.is_dir() else "matches no file"
        endings = f"; images end in {', '.join(ENDINGS)}" if path.is_dir() else "; write another pattern"
        return None if found else f"{word} {what}{endings}"
    if path.exists():
        return None
    if not path.parent.is_dir():
        return f"there is no image {word}, as there is no folder {path.parent}; name a file that is there"
    if word.startswith(("evaluator.", "data.")) and "=" in word:
        return f"there is no image {word}; as a key of the run it stands behind a flag: `--set {word}`"
    images = [
        inside.name for inside in path.parent.iterdir() if inside.is_dir() or inside.name.lower().endswith(ENDINGS)
    ]
    return f"there is no image {word}; {did_you_mean(path.name, images, 'name a file that is there')}"
