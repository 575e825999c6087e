"""The checkpoints of one run: written atomically, pruned, and checked before use."""

from __future__ import annotations

import errno
import json
import math
import shutil
import stat
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from experiments.core.atomic import fsync, write_text
from experiments.core.errors import InputError
from experiments.core.files.field_types import is_count, is_number, is_text, matches
from experiments.core.files.read_file import DamagedFileError, MissingFileError, read_json_map
from experiments.run import journal
from experiments.run.folder_watch import try_again_once_back

STATE = "state.json"
TRAINED, DELIVERED = "model.safetensors", "delivered.safetensors"
WEIGHTS = (TRAINED, DELIVERED)
"""The trained weights; and, where they differ, those that the run delivers, such as an average."""
BEST = "best.json"


class CheckpointError(Exception):
    """A checkpoint could not be written; earlier ones are intact.

    Attributes:
        step: step of the missing checkpoint.
        reason: message of the operating system.
    """

    def __init__(self, message: str, step: int, reason: str) -> None:
        super().__init__(message)
        self.step, self.reason = step, reason


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: an engine loads ``folder``; ``state`` is what the run stored with it."""

    step: int
    folder: Path
    state: dict[str, Any]
    journals: dict[str, int] = field(default_factory=dict)
    """The journals up to its step, as `journal.measure` found them; empty for checkpoints of earlier versions."""

    @property
    def weights(self) -> Path:
        """The weights that the run delivers if this is its checkpoint."""
        delivered = self.folder / DELIVERED
        return delivered if delivered.exists() else self.folder / TRAINED


class Checkpoints:
    """The checkpoints of one run folder, in `checkpoints/step_00000120/`.

    Attributes:
        warnings: one line for each checkpoint that was skipped or could not be removed; the caller clears them.
    """

    def __init__(
        self, folder: Path, keep_last: int, attempt: int | None = None, needed: Collection[str] | None = None,
        writer: journal.Journal | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            folder: of the run; `lathe resume` takes its name.
            keep_last: how many of the newest to keep, besides the best one.
            attempt: number of the writing attempt; it writes nothing after a later attempt has begun. None: no check.
            needed: the only files that have to be there, such as those of the model; None: all.
            writer: writes the journal of the attempt, so that a checkpoint can tell whether lines of it are lost.
        """
        if keep_last < 1:
            raise ValueError(f"Checkpoints wants keep_last of at least 1, but got {keep_last}")
        self.run = folder.name
        self.attempt, self.needed, self.writer = attempt, needed, writer
        self.folder = folder / "checkpoints"
        self.keep_last = keep_last
        self.warnings: list[str] = []

    def save(self, step: int, write: Callable[[Path], None], state: dict[str, Any]) -> Checkpoint:
        """Write a checkpoint, then remove old ones.

        Args:
            step: number of finished steps.
            write: writes the files into the given folder.
            state: plain JSON that `latest` returns.

        Raises:
            CheckpointError: it cannot be written, for example because the disk is full; earlier ones are intact.
            JournalLostError: the journal of the attempt was removed or cut off, so the checkpoint would not continue it.
        """
        own = "" if self.attempt is None else f"-{self.attempt}"
        partial, folder = self.folder / f".partial-{step}{own}", self.locate(step)
        try:
            self._check_no_later_attempt(step)
            # Another process may remove `checkpoints`, or rename the run folder for a moment.
            journals = try_again_once_back(self.folder.parent, lambda: self._write(step, write, state, partial, folder))
        except OSError as err:
            num_bytes = _size(partial)
            shutil.rmtree(partial, ignore_errors=True)
            raise self._describe_failure(step, folder, num_bytes, err) from err
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self._prune(step)
        return Checkpoint(step, folder, state, journals)

    def _write(
        self, step: int, write: Callable[[Path], None], state: dict[str, Any], partial: Path, folder: Path
    ) -> dict[str, int]:
        """Write the files under a temporary name, rename them, and return the journals that they continue."""
        self.folder.mkdir(exist_ok=True)  # without its parents: a run folder that was removed must not come back empty
        self._remove_partial()
        partial.mkdir()
        write(partial)
        written = self.writer.written if self.writer is not None else 0  # first: the training goes on
        journals = journal.measure(self.folder.parent)
        if self.attempt is not None and (size := journals.get(str(self.attempt), -1)) < written:
            harm = "removed" if size < 0 else "cut off"
            raise journal.JournalLostError(
                f"the journal of attempt {self.attempt} was {harm} while the run was training"
            )
        seal(partial, step, state, journals)
        self._check_no_later_attempt(step)
        if folder.exists():  # a resumed run repeats the step
            folder.rename(self.folder / f".partial-{step}-replaced")
        partial.rename(folder)
        fsync(self.folder)
        return journals

    def _check_no_later_attempt(self, step: int) -> None:
        """Stop an attempt that was considered dead from overwriting checkpoints of its successor."""
        attempts = self.folder.parent / "attempts"
        later = max((int(path.name) for path in attempts.glob("[0-9]*") if path.name.isdecimal()), default=0)
        if self.attempt is not None and later > self.attempt:
            message = f"attempt {later} of this run has begun, so attempt {self.attempt} saves no more checkpoints"
            raise CheckpointError(message, step, message)

    def has(self, step: int) -> bool:
        """Whether the checkpoint of this step is complete."""
        return not _examine(self.locate(step), self.needed)[0]

    def is_better(self, metric: str, value: float, mode: Literal["min", "max"]) -> bool:
        """Whether a value is better than that of the best complete checkpoint, if there is one; NaN never is."""
        best = self._best()
        if math.isnan(value) or best is None or best["metric"] != metric or not self.has(best["step"]):
            return not math.isnan(value)
        return bool(value < best["value"] if mode == "min" else value > best["value"])

    def mark_best(self, step: int, metric: str, value: float, mode: Literal["min", "max"]) -> bool:
        """Mark a saved checkpoint as the best, unless another one is better. Returns whether it is the best now.

        Raises:
            ValueError: there is no such checkpoint.
        """
        if not self.locate(step).exists():
            raise ValueError(f"mark_best wants a saved step, but there is no checkpoint of step {step}; save it first")
        if not self.is_better(metric, value, mode):
            return False
        try:
            write_text(self.folder / BEST, json.dumps({"step": step, "metric": metric, "value": value}) + "\n")
        except OSError as err:
            raise self._describe_failure(step, self.folder / BEST, 0, err) from err
        return True

    def latest(self) -> Checkpoint | None:
        """The newest complete checkpoint; `warnings` names damaged ones."""
        return next(self.newest_first(), None)

    def newest_first(self) -> Iterator[Checkpoint]:
        """The complete checkpoints; `warnings` names damaged ones."""
        for step in sorted(self._steps(), reverse=True):
            if checkpoint := self._read(step):
                yield checkpoint

    def list_steps(self) -> list[int]:
        """The steps that have a checkpoint, also a damaged one."""
        return sorted(self._steps())

    def at(self, step: int) -> Checkpoint | None:
        """The checkpoint of a step; None if it is damaged (`warnings`)."""
        return self._read(step)

    def discard(self, step: int, reason: str) -> None:
        """Remove a checkpoint whose content cannot be restored; `warnings` names it."""
        self.warnings.append(f"the checkpoint of step {step} is damaged and was removed: {reason}")
        self.locate(step).rename(self.folder / f".partial-{step}-damaged")
        if (best := self._best()) and best["step"] == step:
            self.unmark_best()

    def unmark_best(self) -> None:
        """Remove the mark of the best checkpoint, so that the run delivers its newest one."""
        (self.folder / BEST).unlink(missing_ok=True)

    def best(self) -> Checkpoint | None:
        """The checkpoint that was marked as best; None if there is none or it is damaged (`warnings`)."""
        best = self._best()
        return self._read(best["step"]) if best else None

    @property
    def has_best(self) -> bool:
        """Whether a checkpoint is marked as best."""
        return self._best() is not None

    def delivered(self) -> Checkpoint | None:
        """The checkpoint that the run delivers: the best one, or the newest one if none is marked as best.

        It is measured on the test split, exported, used by `lathe predict`, logged as the model of the run, bundled by
        `lathe share`, and read by `init_from`. None if there is none, or if the marked one is damaged (`warnings`).
        """
        return self.best() if self.has_best else self.latest()

    def find_delivered_step(self) -> int | None:
        """The step that the run delivers, by its mark alone: no file is checked. None without a checkpoint."""
        best = self._best()
        return int(best["step"]) if best else max(self._steps(), default=None)

    def delivers(self, newest: int) -> bool:
        """Whether the run delivers the step that was saved last: it is marked as best, or no step is."""
        best = self._best()
        return best is None or best["step"] == newest

    def locate(self, step: int) -> Path:
        """The folder of the checkpoint of a step, which need not exist."""
        return self.folder / f"step_{step:08d}"

    def list_unneeded(self) -> list[Path]:
        """The checkpoints that a run does without: neither the newest complete ones nor the best; also damaged ones.

        Empty unless one is complete, and while `best.json` is damaged, because the best is not known then.
        """
        is_best_unknown = (self.folder / BEST).exists() and self._best() is None
        if is_best_unknown or not any(self.has(step) for step in self._steps()):
            return []
        return [self.locate(step) for step in sorted(self._list_unneeded())]

    def _steps(self) -> list[int]:
        names = [path.name.removeprefix("step_") for path in self.folder.glob("step_*")]
        return [int(name) for name in names if name.isdecimal()]

    def _best(self) -> dict[str, Any] | None:
        try:
            best = read_json_map(self.folder / BEST)
        except MissingFileError:
            return None
        except DamagedFileError as err:
            if isinstance(err.__cause__, PermissionError):
                raise _make_unreadable_error(err.__cause__) from err
            best = {}
        if not matches(best, {"step": is_count, "metric": is_text, "value": is_number}):
            self.warnings.append(f"{self.folder / BEST} is not readable and was skipped; the next best replaces it")
            return None
        return best

    def _read(self, step: int) -> Checkpoint | None:
        folder = self.locate(step)
        damage, sealed = _examine(folder, self.needed, check_content=True)
        if damage:
            self.warnings.append(f"the checkpoint of step {step} in {folder} is damaged and was skipped: {damage}")
            return None
        return Checkpoint(step, folder, sealed["state"], sealed.get("journals", {}))

    def _remove_partial(self) -> None:
        """Remove incomplete checkpoints that a crash left."""
        for path in self.folder.glob(".partial-*"):
            shutil.rmtree(path)

    def _prune(self, saved: int) -> None:
        """Remove all but the newest complete ones, the best, and the one just saved."""
        try:
            for step in self._list_unneeded() - {saved}:
                # Rename first: a crash between two files must not leave a folder that looks like a checkpoint.
                self.locate(step).rename(self.folder / f".partial-{step}-pruned")
            self._remove_partial()
        except OSError as err:
            self.warnings.append(f"old checkpoints in {self.folder} could not be removed: {err.strerror}")

    def _list_unneeded(self) -> set[int]:
        """All steps but the newest complete ones and the best."""
        complete = [step for step in self._steps() if self.has(step)]
        best = self._best()
        return {*self._steps()} - {*sorted(complete)[-self.keep_last :]} - ({best["step"]} if best else set())

    def _describe_failure(self, step: int, path: Path, num_bytes: int, err: OSError) -> CheckpointError:
        intact = [other for other in self._steps() if self.has(other)]
        rescue = f"step {max(intact)} is intact" if intact else "there is no earlier one"
        reason = err.strerror or str(err)
        hint = f"make {self.folder} writable"
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            needed = max([num_bytes, *(_size(self.locate(other)) for other in intact)])
            free = shutil.disk_usage(self.folder if self.folder.exists() else self.folder.parent).free
            reason += f" ({'' if intact else 'more than '}{_megabytes(needed)} needed, {_megabytes(free)} free)"
            hint = "free space" if err.errno == errno.ENOSPC else "free space in your quota"
        return CheckpointError(
            f"checkpoint of step {step} in {path} could not be written: {reason}; {rescue}; "
            f"{hint}, then `lathe resume {self.run}`",
            step,
            err.strerror or str(err),
        )


def seal(folder: Path, step: int, state: dict[str, Any], journals: dict[str, int]) -> None:
    """Flush every file to the disk, and write a list of all files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = {path.relative_to(folder).as_posix(): [path.stat().st_size, _crc32(path)] for path in files}
    plain = {"step": step, "state": state, "journals": journals, "files": sums}
    content = json.loads(json.dumps(plain))  # as it is read: keys are texts
    with (folder / STATE).open("w", encoding="utf-8") as file:
        json.dump({**content, "crc32": _crc32_of(content)}, file, indent=1)
    for path in [*folder.rglob("*"), folder]:
        fsync(path)


def _crc32_of(content: Mapping[str, Any]) -> int:
    """Checksum of the other values of `state.json`, as JSON gives them back."""
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _crc32(path: Path) -> int:
    """Checksum of a file; it detects damage, not manipulation."""
    crc32 = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            crc32 = zlib.crc32(block, crc32)
    return crc32


def _examine(
    folder: Path, needed: Collection[str] | None = None, *, check_content: bool = False
) -> tuple[str, dict[str, Any]]:
    """The damage of a checkpoint, or "", and the content of its `state.json`; ``check_content`` reads every byte.

    Raises:
        InputError: this user may not read a file.
    """
    try:
        sealed = read_json_map(folder / STATE)
        expected = sealed.pop("crc32", None)  # checkpoints of the first version have none
        if expected is not None and expected != _crc32_of(sealed):
            return f"{STATE} has the wrong checksum", {}
        for name, (size, crc32) in sealed["files"].items():
            if needed is not None and name not in needed:
                continue
            found = (folder / name).stat()
            if not stat.S_ISREG(found.st_mode):  # reading a FIFO or a device has no end
                return f"{name} is not a file", {}
            actual = found.st_size
            if actual != size:
                return f"{name} has {actual} bytes of {size}", {}
            if check_content and _crc32(folder / name) != crc32:
                return f"{name} has the wrong checksum", {}
        if needed is None and (loss := journal.find_loss(folder.parent.parent, sealed.get("journals", {}))):
            return loss, {}
        assert isinstance(sealed["state"], dict)
        return "", sealed
    except MissingFileError:
        return f"{STATE} is missing", {}
    except FileNotFoundError as err:
        return f"{Path(err.filename).name} is missing", {}
    except PermissionError as err:
        raise _make_unreadable_error(err) from err
    except DamagedFileError as err:
        if isinstance(err.__cause__, PermissionError):
            raise _make_unreadable_error(err.__cause__) from err
        return f"{STATE} is not readable", {}
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError):
        return f"{STATE} is not readable", {}


def _make_unreadable_error(err: PermissionError) -> InputError:
    return InputError(
        [f"{err.filename} cannot be read ({err.strerror}); ask its owner for `chmod -R a+rX` on the run folder"]
    )


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB"
