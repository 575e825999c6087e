"""Processes that fetch batches ahead of the training, and hand them over in shared memory."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Listener
from multiprocessing.reduction import ForkingPickler
from typing import Final, Protocol, cast

from torch import Generator, Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, Dataset

from experiments.core.errors import TrainingError
from modules.data.base import Batch, Data, DataError

SHARED_MEMORY: Final = "/dev/shm"
"""Where torch puts the tensors that a worker sends."""
PREFETCHED_BATCHES: Final = 2
"""Batches that each worker prepares ahead; torch's default."""
SPARE_DESCRIPTORS: Final = 8


class Batches(Protocol):
    """Batches by number. Workers receive only numbers and look up the examples themselves."""

    def __getitem__(self, number: int) -> Batch: ...


def check_handover(data: Data, batch_size: int, num_workers: int, num_ranks: int) -> None:
    """Check, before training starts, that data workers can hand their batches over.

    Args:
        data: says how large an example is.
        batch_size: examples of a batch of one rank.
        num_workers: processes of one rank that prefetch.
        num_ranks: ranks on this machine.

    Raises:
        ValueError: the shared memory is too small, or no socket can be opened in the folder for temporary files.
    """
    num_bytes = batch_size * _count_bytes(data.example(1))
    needed, free = PREFETCHED_BATCHES * num_workers * num_ranks * num_bytes, _free_shared_bytes()
    if free is not None and needed > free:
        raise ValueError(
            f"num_data_workers={num_workers} needs {needed / 1e6:,.1f} MB of shared memory ({PREFETCHED_BATCHES} batches of "
            f"{num_bytes / 1e6:,.1f} MB for each worker, on {num_ranks} ranks), but {SHARED_MEMORY} has "
            f"{free / 1e6:,.1f} MB free; lower num_data_workers, set it to 0, or enlarge {SHARED_MEMORY} (Docker: --shm-size)"
        )
    try:
        Listener(family="AF_UNIX").close()
    except OSError as err:
        raise ValueError(
            f"num_data_workers={num_workers}: workers hand batches over by a socket in TMPDIR, but {tempfile.gettempdir()} does "
            f"not allow it ({err.strerror or err}); set TMPDIR to a short path of an existing folder, or num_data_workers=0"
        ) from err


def _count_bytes(batch: Batch) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(batch) if isinstance(leaf, Tensor))


def _free_shared_bytes() -> int | None:
    """None where the system has no such folder."""
    try:
        stats = os.statvfs(SHARED_MEMORY)
    except OSError:
        return None
    return stats.f_bavail * stats.f_frsize


class Workers:
    """Processes that fetch batches by number ahead of their use. They live until `close`, over several passes."""

    def __init__(self, batches: Batches, numbers: Sequence[int], num_workers: int) -> None:
        """
        Args:
            batches: looked up in the processes.
            numbers: of the batches of one pass.
            num_workers: at least 1.
        """
        self._num_workers = num_workers
        self._loader: DataLoader[bytes] = DataLoader(
            cast("Dataset[bytes]", _PackedBatches(batches)),
            batch_size=None,
            sampler=numbers,
            num_workers=num_workers,
            prefetch_factor=PREFETCHED_BATCHES,
            persistent_workers=True,
            collate_fn=_identity,
            worker_init_fn=_ignore_signals,
            generator=Generator(),  # else the loader uses torch's global generator, and dropout would depend on num_workers
        )

    def __iter__(self) -> Iterator[Batch]:
        """One pass. An error, or a pass that is not used up, ends the processes.

        Raises:
            DataError: an example cannot be read.
            TrainingError: a batch cannot be handed over.
        """
        is_complete = False
        try:
            with _as_handover_error(self._num_workers):
                packed_batches = iter(self._loader)
            for packed in packed_batches:
                if isinstance(packed, DataError):
                    raise packed
                if isinstance(packed, _NotPacked):
                    raise _handover_error(self._num_workers, packed.reason, packed.num_bytes)
                with _as_handover_error(self._num_workers):
                    batch = pickle.loads(packed)
                yield batch
            is_complete = True
        finally:
            if not is_complete:
                self.close()

    def close(self) -> None:
        """End the processes.

        The loader ends them when it is freed, but the traceback of an error may hold it until the process ends, which
        then waits for them, as they ignore SIGTERM.
        """
        running, self._loader._iterator = self._loader._iterator, None
        if running is not None:
            running._shutdown_workers()  # type: ignore[attr-defined]


class _PackedBatches:
    """Batches in the form in which a worker sends them: pickled, with tensors in shared memory.

    The loader would pickle them in a thread of the worker. That thread only prints an error, and the training would wait for
    ever. A `DataError` is a value too, as the loader would add the worker's traceback to its message.
    """

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __getitem__(self, number: int) -> bytes | DataError | _NotPacked:
        try:
            batch = self.batches[number]
        except DataError as err:
            return err
        try:
            with ExitStack() as stack:  # the server of the sockets needs some descriptors later
                for _ in range(SPARE_DESCRIPTORS):
                    stack.enter_context(open(os.devnull, encoding="utf-8"))
            return bytes(ForkingPickler.dumps(_own_storage(batch)))
        except Exception as err:  # system errors, and whatever the objects of a user raise
            return _NotPacked(f"{type(err).__name__}: {err}", _count_bytes(batch))


@dataclass(frozen=True)
class _NotPacked:
    """Why a batch could not be pickled, and its size."""

    reason: str
    num_bytes: int


def _own_storage(batch: Batch) -> Batch:
    """Copy tensors that are parts of larger ones, as the whole memory of a tensor is sent."""
    return cast(Batch, tree_map(_compact, batch))


def _compact(leaf: object) -> object:
    is_part = isinstance(leaf, Tensor) and leaf.untyped_storage().nbytes() > leaf.nbytes
    return leaf.clone() if isinstance(leaf, Tensor) and is_part else leaf


@contextmanager
def _as_handover_error(num_workers: int) -> Iterator[None]:
    try:
        yield
    except Exception as err:
        raise _handover_error(num_workers, f"{type(err).__name__}: {err}") from err


def _handover_error(num_workers: int, reason: str, num_bytes: int | None = None) -> TrainingError:
    """Say why a worker's batch did not arrive, and what can be done."""
    free, size = _free_shared_bytes(), "" if num_bytes is None else f" of {num_bytes / 1e6:,.1f} MB"
    room = "" if free is None else f", {SHARED_MEMORY} has {free / 1e6:,.1f} MB free"
    return TrainingError(
        f"num_data_workers={num_workers}: a batch{size} could not be handed over by a data worker ({' '.join(reason.split())}); "
        f"workers need shared memory, file descriptors and sockets in TMPDIR ({tempfile.gettempdir()}{room}, at most "
        f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]} descriptors); enlarge what is short (Docker: --shm-size; `ulimit -n`), "
        "or set num_data_workers=0"
    )


def _identity(fetched: object) -> object:
    return fetched


def _ignore_signals(worker: int) -> None:
    """Ignore stop signals. SLURM and Ctrl-C send them to every process, and without workers the parent could not save.

    Workers still end with their parent: the loader ends them, and they watch its process id.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
