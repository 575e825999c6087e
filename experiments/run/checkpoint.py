"""Checkpoints of one run: written whole or not at all, pruned, and checked before they are used."""

from __future__ import annotations

import errno
import json
import math
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.core.atomic import fsync, write_text

STATE = "state.json"
BEST = "best.json"


class CheckpointError(Exception):
    """A checkpoint could not be written; those before it are intact.

    Attributes:
        step: of the checkpoint that is missing.
        reason: what the system said.
    """

    def __init__(self, message: str, step: int, reason: str) -> None:
        super().__init__(message)
        self.step, self.reason = step, reason


@dataclass(frozen=True)
class Checkpoint:
    """One that is complete on disk: ``folder`` is what an engine loads, ``state`` what the run put beside it."""

    step: int
    folder: Path
    state: dict[str, Any]


class Checkpoints:
    """Those of one run folder, in `checkpoints/step_00000120/`.

    Attributes:
        warnings: what was skipped or could not be tidied since the last look, one line each; the caller clears them.
    """

    def __init__(self, folder: Path, keep_last: int, attempt: int | None = None) -> None:
        """
        Args:
            folder: the run's; its name is what `lathe resume` takes.
            keep_last: how many of the newest stay; the best stays besides.
            attempt: whose they are; nothing is written any more once a later one has begun. None: nobody else's.
        """
        if keep_last < 1:
            raise ValueError(f"Checkpoints wants keep_last of at least 1, but got {keep_last}")
        self.run = folder.name
        self.attempt = attempt
        self.folder = folder / "checkpoints"
        self.keep_last = keep_last
        self.warnings: list[str] = []

    def save(self, step: int, write: Callable[[Path], None], state: dict[str, Any]) -> Checkpoint:
        """Write one, then remove those that need not stay.

        Args:
            step: steps that are done.
            write: fills the folder that it is given.
            state: plain JSON that `latest` gives back.

        Raises:
            CheckpointError: the disk is full, or refuses; nothing that was there is lost.
        """
        own = "" if self.attempt is None else f"-{self.attempt}"
        partial, folder = self.folder / f".partial-{step}{own}", self._folder_of(step)
        try:
            self._refuse_an_orphan(step)
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            partial.mkdir()
            write(partial)
            _seal(partial, step, state)
            self._refuse_an_orphan(step)
            if folder.exists():  # a resumed run comes past here again
                folder.rename(self.folder / f".partial-{step}-replaced")
            partial.rename(folder)
            fsync(self.folder)
        except OSError as err:
            num_bytes = _size(partial)
            shutil.rmtree(partial, ignore_errors=True)
            raise self._refusal(step, folder, num_bytes, err) from err
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self._prune(step)
        return Checkpoint(step, folder, state)

    def _refuse_an_orphan(self, step: int) -> None:
        """Keep an attempt that was taken to be dead from the checkpoints of the one that took its place."""
        attempts = self.folder.parent / "attempts"
        later = max((int(path.name) for path in attempts.glob("[0-9]*")), default=0)
        if self.attempt is not None and later > self.attempt:
            told = f"attempt {later} of this run has begun, so attempt {self.attempt} saves nothing any more"
            raise CheckpointError(told, step, told)

    def has(self, step: int) -> bool:
        """Whether the checkpoint of this step is there and whole."""
        return not _examine(self._folder_of(step))[0]

    def is_better(self, metric: str, value: float, mode: Literal["min", "max"]) -> bool:
        """Whether a value beats that of the best checkpoint, or there is none whole by this metric; NaN never does."""
        best = self._best()
        if math.isnan(value) or best is None or best["metric"] != metric or not self.has(best["step"]):
            return not math.isnan(value)
        return bool(value < best["value"] if mode == "min" else value > best["value"])

    def mark_best(self, step: int, metric: str, value: float, mode: Literal["min", "max"]) -> bool:
        """Keep a saved checkpoint for good if none was better by this metric; True where it is the best now.

        Raises:
            ValueError: there is no such checkpoint.
        """
        if not self._folder_of(step).exists():
            raise ValueError(f"mark_best wants a saved step, but there is no checkpoint of step {step}; save it first")
        if not self.is_better(metric, value, mode):
            return False
        try:
            write_text(self.folder / BEST, json.dumps({"step": step, "metric": metric, "value": value}) + "\n")
        except OSError as err:
            raise self._refusal(step, self.folder / BEST, 0, err) from err
        return True

    def latest(self) -> Checkpoint | None:
        """The newest that is whole; `warnings` names those that are not."""
        return next(self.newest_first(), None)

    def newest_first(self) -> Iterator[Checkpoint]:
        """Those that are whole; `warnings` names those that are not."""
        for step in sorted(self._steps(), reverse=True):
            if found := self._read(step):
                yield found

    def at(self, step: int) -> Checkpoint | None:
        """The one of a step, if it is whole; else `warnings` names it."""
        return self._read(step)

    def discard(self, step: int, fault: str) -> None:
        """Remove one that is whole by its sizes, but whose content cannot be restored; `warnings` names it."""
        self.warnings.append(f"the checkpoint of step {step} is damaged and was removed: {fault}")
        self._folder_of(step).rename(self.folder / f".partial-{step}-damaged")

    def best(self) -> Checkpoint | None:
        """The one that was marked; None where none was, or where it is damaged (`warnings`)."""
        best = self._best()
        return self._read(best["step"]) if best else None

    def _folder_of(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}"

    def _steps(self) -> list[int]:
        names = [path.name.removeprefix("step_") for path in self.folder.glob("step_*")]
        return [int(name) for name in names if name.isdecimal()]

    def _best(self) -> dict[str, Any] | None:
        try:
            best: dict[str, Any] = json.loads((self.folder / BEST).read_text())
        except FileNotFoundError:
            return None
        except ValueError:
            self.warnings.append(f"{self.folder / BEST} is not readable and was skipped; the next best replaces it")
            return None
        return best

    def _read(self, step: int) -> Checkpoint | None:
        folder = self._folder_of(step)
        damage, state = _examine(folder, whole=True)
        if damage:
            self.warnings.append(f"the checkpoint of step {step} in {folder} is damaged and was skipped: {damage}")
            return None
        return Checkpoint(step, folder, state)

    def _sweep(self) -> None:
        """Remove what a crash left half written."""
        for path in self.folder.glob(".partial-*"):
            shutil.rmtree(path)

    def _prune(self, saved: int) -> None:
        """Remove all but the newest whole ones, the best, and the one just saved."""
        whole = [step for step in self._steps() if self.has(step)]
        keep = {saved, *sorted(whole)[-self.keep_last :]}
        if best := self._best():
            keep.add(best["step"])
        try:
            for step in set(self._steps()) - keep:
                # Renamed first: a crash between two files must not leave something that looks like a checkpoint.
                self._folder_of(step).rename(self.folder / f".partial-{step}-pruned")
            self._sweep()
        except OSError as err:
            self.warnings.append(f"old checkpoints in {self.folder} could not be removed: {err.strerror}")

    def _refusal(self, step: int, path: Path, num_bytes: int, err: OSError) -> CheckpointError:
        intact = [other for other in self._steps() if self.has(other)]
        rescue = f"step {max(intact)} is intact" if intact else "there is no earlier one"
        reason = err.strerror or str(err)
        way_out = f"make {self.folder} writable"
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            wanted = max([num_bytes, *(_size(self._folder_of(other)) for other in intact)])
            free = shutil.disk_usage(self.folder if self.folder.exists() else self.folder.parent).free
            reason += f" ({'' if intact else 'more than '}{_megabytes(wanted)} wanted, {_megabytes(free)} free)"
            way_out = "free space" if err.errno == errno.ENOSPC else "free space in your quota"
        return CheckpointError(
            f"checkpoint of step {step} in {path} could not be written: {reason}; {rescue}; "
            f"{way_out}, then `lathe resume {self.run}`",
            step,
            err.strerror or str(err),
        )


def _seal(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Put every file on the disk, and beside them a list of what has to be there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = {path.relative_to(folder).as_posix(): [path.stat().st_size, _crc32(path)] for path in files}
    with (folder / STATE).open("w", encoding="utf-8") as file:
        json.dump({"step": step, "state": state, "files": sums}, file, indent=1)
    for path in [*folder.rglob("*"), folder]:
        fsync(path)


def _crc32(path: Path) -> int:
    """Checksum of a file; enough against damage, of which no one is the author."""
    crc32 = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            crc32 = zlib.crc32(block, crc32)
    return crc32


def _examine(folder: Path, *, whole: bool = False) -> tuple[str, dict[str, Any]]:
    """What is wrong with a checkpoint, or "", and the run's own state in it; ``whole`` reads every byte."""
    try:
        sealed = json.loads((folder / STATE).read_text())
        for name, (size, crc32) in sealed["files"].items():
            actual = (folder / name).stat().st_size
            if actual != size:
                return f"{name} has {actual} bytes of {size}", {}
            if whole and _crc32(folder / name) != crc32:
                return f"{name} has other bytes than were written", {}
        return "", sealed["state"]
    except FileNotFoundError as err:
        return f"{Path(err.filename).name} is missing", {}
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{STATE} is not readable", {}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB"
