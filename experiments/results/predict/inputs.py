"""Reads the inputs of `lathe predict`: texts, image or WAV files and folders, rows of tables, or lines of standard input.
Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from glob import has_magic, iglob
from pathlib import Path
from typing import Literal

from experiments.core.errors import InputError, did_you_mean
from experiments.core.files.paths import user_path
from experiments.results.predict import rows

STDIN = "-"
Takes = Literal["text", "image", "audio", "row"]
KINDS = {"text": "a text", "image": "a path", "audio": "a path", "row": "a JSON object"}
"""What a line of standard input is."""
PLURALS = {"text": "texts", "image": "images", "audio": "recordings", "row": "files with rows"}


@dataclass(frozen=True)
class InputFiles:
    """What is read from files and folders."""

    noun: str
    """Of one file, with its article."""
    endings: tuple[str, ...]
    """Of files in a folder; a file that is named itself may have any ending."""


FILES = {
    "image": InputFiles(
        "an image", (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
    ),
    "audio": InputFiles("a recording", (".wav", ".wave")),
}


@dataclass(frozen=True)
class ModelInput:
    """One input: a text, a row or the path of a file, or the reason why it is not valid."""

    value: str
    problem: str | None = None


def find_problems(args: Sequence[str], takes: Takes, output: Path | None = None) -> list[str]:
    """All problems of the arguments of a command line; standard input is checked later, line by line.

    Args:
        args, takes, output: as for `read_inputs`.
    """
    named = [arg for arg in args if arg != STDIN]
    kind = FILES.get(takes)
    problems = [problem for arg in named if arg and kind and (problem := _find_problem(arg, kind, output))]
    problems += [problem for arg in named if arg and takes == "row" and (problem := rows.find_problem(arg))]
    problems += [
        f"INPUT='' is empty; write {'a text' if takes == 'text' else 'a path'}, or leave it out"
        for arg in named
        if not arg
    ]
    return problems + (
        ["INPUT - is given twice, but standard input is read once; leave one out"] if args.count("-") > 1 else []
    )


def read_inputs(
    args: Sequence[str], takes: Takes, pipe: Iterable[bytes], output: Path | None = None
) -> Iterator[ModelInput]:
    """Iterate over the inputs in order, and read each when it is needed.

    Args:
        args: of the command line; without any, standard input is read.
        takes: whether they are texts, files and folders of images or recordings, or files with rows, each of which is an
            input. A line
            of standard input is then a JSON object.
        pipe: the lines of standard input; each is an argument.
        output: the folder for predictions. Folders and patterns skip it, as it holds earlier predictions.
    """
    for arg in args or [STDIN]:
        if arg == STDIN:
            for number, line in enumerate(pipe, start=1):
                if takes in FILES and _is_content(line):
                    rule = "but must be a list of paths, one per line; name the file instead of `-`"
                    yield ModelInput("-", f"INPUT - is {FILES[takes].noun}, {rule}")
                    return
                yield from _read_line(number, line.rstrip(b"\r\n"), takes, output)
        else:
            yield from map(ModelInput, _find_inputs(arg, takes, output))


def _find_inputs(arg: str, takes: Takes, output: Path | None) -> Iterable[str]:
    """The inputs that an argument names."""
    if takes == "text":
        return [arg]
    return rows.read_rows(arg) if takes == "row" else _find_files(arg, FILES[takes], output)


def skips_output(args: Sequence[str], output: Path) -> bool:
    """True if the folder for predictions exists inside of an input folder, so that it is skipped."""
    inside = os.path.realpath(output)
    folders = [user_path(arg) for arg in args]
    return output.is_dir() and any(
        Path(inside).is_relative_to(os.path.realpath(each)) for each in folders if each.is_dir()
    )


def _is_content(line: bytes) -> bool:
    """True if a line is the beginning of a PNG or JPEG, or holds a NUL byte, which no path has."""
    return line.startswith((b"\x89PNG", b"\xff\xd8\xff")) or b"\0" in line


def _read_line(number: int, line: bytes, takes: Takes, output: Path | None) -> Iterator[ModelInput]:
    arg = os.fsdecode(line)
    if not line:
        yield ModelInput("", f"line {number} of the input is empty; write {KINDS[takes]}")
    elif kind := FILES.get(takes):
        problem = _find_problem(arg, kind, output)
        yield from [ModelInput(arg, problem)] if problem else map(ModelInput, _find_files(arg, kind, output))
    else:
        try:
            yield ModelInput(line.decode("utf-8"))
        except UnicodeDecodeError as err:
            yield ModelInput(arg, f"line {number} of the input is not UTF-8 ({err.reason}); convert it with `iconv`")


def _find_files(arg: str, kind: InputFiles, output: Path | None) -> Iterator[str]:
    """The files that an argument names: one file, all of a kind below a folder, or the matches of a pattern."""
    path = user_path(arg)
    if path.is_dir():
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            names = [name for name in names if not name.startswith(".")]
            if not _is_same(folder, output):
                yield from (os.path.join(folder, name) for name in sorted(names) if name.lower().endswith(kind.endings))
    elif path.exists() or not has_magic(arg):
        yield str(path)
    else:
        files = (path for path in sorted(iglob(str(path), recursive=True)) if Path(path).is_file())
        yield from (path for path in files if not _is_same(os.path.dirname(path), output))


def _is_same(folder: str, output: Path | None) -> bool:
    return output is not None and os.path.realpath(folder or ".") == os.path.realpath(output)


def _find_problem(arg: str, kind: InputFiles, output: Path | None) -> str | None:
    try:
        return _find_missing(arg, kind, output)
    except InputError as err:
        return err.problems[0]
    except OSError as err:  # the folder is not readable
        return f"{arg} cannot be read ({err.strerror}); name a file that can be read"


def _find_missing(arg: str, kind: InputFiles, output: Path | None) -> str | None:
    path, name = user_path(arg), kind.noun.partition(" ")[2]
    if path.is_dir() or (has_magic(arg) and not path.exists()):
        first, first_read = (next(_find_files(arg, kind, folder), None) for folder in (None, output))
        if first and (not first_read or (path.is_dir() and _is_same(str(path), output))):
            return (
                f"the {name}s of {arg} are in -o {output}, which is skipped, as it holds earlier predictions; name another "
                "folder for -o"
            )
        rule = f"has no {name}" if path.is_dir() else "matches no file"
        endings = f"; {name}s end in {', '.join(kind.endings)}" if path.is_dir() else "; write another pattern"
        return None if first else f"{arg} {rule}{endings}"
    if path.exists():
        return None
    if not path.parent.is_dir():
        return f"there is no {name} {arg}, as there is no folder {path.parent}; name an existing file"
    if arg.startswith(("evaluator.", "evaluator=", "data.")) and "=" in arg:
        return f"there is no {name} {arg}; to change the run's configuration, write `--set {arg}`"
    files = [
        inside.name for inside in path.parent.iterdir() if inside.is_dir() or inside.name.lower().endswith(kind.endings)
    ]
    return f"there is no {name} {arg}; {did_you_mean(path.name, files, 'name an existing file')}"
