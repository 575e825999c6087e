"""Answers as they are printed and written: lines for a person or a pipe, JSON, files. Imports no torch."""

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
from experiments.results.predict.inputs import Takes

if TYPE_CHECKING:
    from modules.evaluator.base import Prediction


class Printed:
    """Prints a line an input, and nothing else, to standard output; what is wrong with one goes to standard error."""

    def __init__(self, takes: Takes, folder: Path | None, about: Mapping[str, Any] | None) -> None:
        """
        Args:
            takes: what inputs are.
            folder: that files are written to; None: they are left out.
            about: of the model, which every JSON object repeats; None: answers are for people.
        """
        self.takes, self.folder, self.about = takes, folder, about
        self.num_faults, self.num_files, self.num_left_out = 0, 0, 0
        self._names = Counter[str]()
        if isinstance(sys.stdout, io.TextIOWrapper):  # a path may be no text
            sys.stdout.reconfigure(errors="surrogateescape")

    def show(self, given: Sequence[str], answers: Sequence[Prediction]) -> None:
        """Print answers, and write their files.

        Raises:
            InputError: a file cannot be written.
        """
        width = max((len(value) for value in given if len(value) <= 60), default=0)
        for value, answer in zip(given, answers, strict=True):
            files = self._write(value, answer.files)
            if self.about is not None:
                self._print_json(
                    {"input": value, **answer.details, **({"files": files} if files else {}), **self.about}
                )
            elif not sys.stdout.isatty():
                print(f"{_escaped(value)}\t{_escaped(answer.text)}")
            elif "\n" in answer.text:
                print(f"{value}:\n{answer.text}\n")
            else:
                print(f"{value:<{width}}  {answer.text}")
        sys.stdout.flush()

    def tell(self, value: str, fault: str) -> None:
        """Say why there is no answer; the others go on."""
        self.num_faults += 1
        print(f"error: {fault}", file=sys.stderr)
        if self.about is not None:
            self._print_json({"input": value, "error": fault, **self.about})

    def close(self) -> None:
        """Say what became of files."""
        if self.folder is None:
            if self.num_left_out:
                print(f"{self.num_left_out} files were not written; -o DIR writes them", file=sys.stderr)
        elif self.num_files:
            print(f"{self.num_files} files in {self.folder}", file=sys.stderr)
        else:
            print(f"nothing is in {self.folder}, as answers of this run have no files", file=sys.stderr)

    def _write(self, value: str, files: Mapping[str, bytes]) -> list[str]:
        if self.folder is None or not files:
            self.num_left_out += len(files)
            return []
        stem = self._free(Path(value).stem if self.takes == "image" else "answer")
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

    def _free(self, name: str) -> str:
        """A name that no answer has yet: the second ``a.jpg`` may come after an ``a_2.jpg``."""
        while True:
            self._names[name] += 1
            free = name if self._names[name] == 1 else f"{name}_{self._names[name]}"
            if free == name or not self._names[free]:
                self._names[free] = max(1, self._names[free])
                return free

    def _print_json(self, told: Mapping[str, Any]) -> None:
        print(json.dumps(told, ensure_ascii=False, allow_nan=False), flush=True)


def _escaped(text: str) -> str:
    """One line, whatever a text holds."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")
