"""Prints and writes predictions: lines for a terminal or a pipe, JSON, files. Imports no torch."""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.core import atomic
from experiments.core.errors import InputError
from experiments.results.predict.inputs import FILES, Takes

if TYPE_CHECKING:
    from modules.evaluator.base import Prediction


class PredictionWriter:
    """Prints one line per input to standard output, and errors to standard error."""

    def __init__(self, takes: Takes, folder: Path | None, about: Mapping[str, Any] | None) -> None:
        """
        Args:
            takes: the kind of inputs.
            folder: for files; None: files are not written.
            about: facts about the model, part of every JSON object; None: no JSON.
        """
        self.takes, self.folder, self.about = takes, folder, about
        self.num_errors, self.num_files, self.num_left_out = 0, 0, 0
        self._names = Counter[str]()
        self._ranked: list[tuple[str, Prediction]] = []
        if isinstance(sys.stdout, io.TextIOWrapper):  # a path may not be valid text
            sys.stdout.reconfigure(errors="surrogateescape")

    def show(self, inputs: Sequence[str], predictions: Sequence[Prediction]) -> None:
        """Print predictions, and write their files; those with a score wait for `close`, which ranks them.

        Raises:
            InputError: a file cannot be written.
        """
        both = list(zip(inputs, predictions, strict=True))
        self._ranked += [each for each in both if each[1].score is not None]
        self._print([each for each in both if each[1].score is None])

    def _print(self, predictions: Sequence[tuple[str, Prediction]]) -> None:
        width = max((len(value) for value, _ in predictions if len(value) <= 60), default=0)
        for value, prediction in predictions:
            files = self._write(value, prediction.files)
            if self.about is not None:
                self._print_json(
                    {"input": value, **prediction.details, **({"files": files} if files else {}), **self.about}
                )
            elif not sys.stdout.isatty():
                print(f"{_escaped(value)}\t{_escaped(prediction.text)}")
            elif "\n" in prediction.text:
                print(f"{value}:\n{prediction.text}\n")
            else:
                print(f"{value:<{width}}  {prediction.text}")
        sys.stdout.flush()

    def show_error(self, value: str, problem: str) -> None:
        """Print why an input has no prediction."""
        self.num_errors += 1
        print(f"error: {problem}", file=sys.stderr)
        if self.about is not None:
            self._print_json({"input": value, "error": problem, **self.about})

    def close(self) -> None:
        """Print the ranked predictions, and how many files were written."""
        self._print(sorted(self._ranked, key=lambda each: -(each[1].score or 0.0)))
        if self.folder is None:
            if self.num_left_out:
                print(f"{self.num_left_out} files were not written; add -o DIR to write them", file=sys.stderr)
        elif self.num_files:
            print(f"{self.num_files} files in {self.folder}", file=sys.stderr)
        else:
            print(f"{self.folder} is empty, as predictions of this run have no files", file=sys.stderr)

    def _write(self, value: str, files: Mapping[str, bytes]) -> list[str]:
        if self.folder is None or not files:
            self.num_left_out += len(files)
            return []
        stem = self._free_name(Path(value).stem if self.takes in FILES else "answer")
        written = []
        for end, content in files.items():
            path = self.folder / f"{stem}.{end}"
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                atomic.write_bytes(path, content)
            except OSError as err:
                raise InputError(
                    [f"-o {self.folder}: {path} cannot be written ({err.strerror}); name another folder"]
                ) from err
            written.append(str(path))
        self.num_files += len(written)
        return written

    def _free_name(self, name: str) -> str:
        """A name that is not used yet: a second ``a.jpg`` can come after an ``a_2.jpg``."""
        while True:
            self._names[name] += 1
            free = name if self._names[name] == 1 else f"{name}_{self._names[name]}"
            if free == name or not self._names[free]:
                self._names[free] = max(1, self._names[free])
                return free

    def _print_json(self, document: Mapping[str, Any]) -> None:
        print(json.dumps(document, ensure_ascii=False, allow_nan=False), flush=True)


def _escaped(text: str) -> str:
    """A text as one line."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")
