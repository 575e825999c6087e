"""A digest of a data split, which shows whether two runs used the same data."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from experiments.core.errors import TrainingError
from experiments.run.journal import Journal
from experiments.run.split_digest import PARTIAL, SEPARATOR, differ, is_partial
from experiments.train.loading.split_signature import check_signature, is_split
from modules.data.base import (
    Batch,
    Collector,
    ComponentWarning,
    Data,
    ReadsFiles,
    Split,
    Stream,
    StreamShard,
    has_method,
)

NUM_IN_MEMORY, NUM_READ = 1000, 16
MAX_BYTES = 2**28
"""Of a larger array, evenly spaced blocks of together this many bytes are read."""
MAX_OBJECTS = 100_000
"""Of a longer list of tensors or other objects, evenly spaced ones are read; each takes 20 us (2026-11-29)."""


def load_split(
    data: Data,
    name: str,
    config: Mapping[str, Any],
    journal: Journal,
    before: Mapping[str, str],
    *,
    is_first: bool,
    set_name: str = "",
) -> Split | Stream | Collector:
    """Load a split, or what makes the training data.

    The first rank records its digest and compares it with that of an earlier attempt.

    Args:
        data: the data set.
        name: of the split.
        config: of the data set, for its name.
        journal: gets the digest.
        before: digests of earlier attempts by split.
        is_first: whether this is the first rank.
        set_name: of an evaluation set; "" for the data of the training.

    Raises:
        TrainingError: the data differ from those of an earlier attempt, so its curves could not be continued.
        ValueError: the split has no ``batch(indices, seeds)``, or is a stream and not for training.
    """
    split = data.load(name)
    if name == "train" and isinstance(split, Collector):
        return split
    check_signature(split)
    if not is_split(split) and (num_train := config.get("num_train")) is not None:
        raise ValueError(
            f"data.num_train={num_train}: the training data of {_source(config)} is a stream, which has no length and no epochs; "
            "set data.num_train=null, and max_steps instead of max_epochs"
        )
    if name != "train" and not is_split(split):
        raise ValueError(
            f"data={_source(config)} gives a stream for '{name}', but evaluation shows every example once; return a split "
            "with a length"
        )
    if not is_first:
        return split
    label = f"{set_name}/{name}" if set_name else name
    digest = fingerprint(split)
    source = _source(config)
    if differ(earlier := before.get(label, digest), digest):
        raise TrainingError(
            f"data={source} has changed: the split '{label}' has the digest {digest}, and an earlier attempt had {earlier}; "
            "restore the files, or start a new run"
        )
    if is_partial(earlier, digest):
        warnings.warn(f"data={source}, split '{label}': {PARTIAL}", ComponentWarning, stacklevel=2)
    journal.data(name=source, digest=digest, num_examples=len(split) if is_split(split) else 0, split=label)
    return split


def _source(config: Mapping[str, Any]) -> str:
    return str(config.get("folder") or config["_target_"].rpartition(".")[2].lower())


def fingerprint(split: Split | Stream) -> str:
    """Return two times 16 hexadecimal digits.

    The first 16 cover the number of examples and the first examples as the model gets them, with their preprocessing. The
    others cover everything that the split holds: all targets, tensors, arrays and lists, and the sizes of its files if it
    is a `ReadsFiles`. If it holds nothing, they cover examples from all over the split. Of a stream, both cover the first
    examples.
    """
    if not is_split(split):
        digest = hashlib.sha256(b"stream")
        _add_tensors(digest, split.batch(0, StreamShard(0, 1, NUM_READ), 0))
        return SEPARATOR.join([digest.hexdigest()[:16]] * 2)
    count = min(len(split), NUM_IN_MEMORY if split.in_memory else NUM_READ)
    first = hashlib.sha256(str(len(split)).encode())
    _add_examples(first, split, torch.arange(count))
    whole, is_empty = hashlib.sha256(), True
    for name, value in sorted(getattr(split, "__dict__", {}).items()):
        for content in _contents(value):
            whole.update(name.encode() + content)
            is_empty = False
    if isinstance(split, ReadsFiles) and has_method(split, "file_sizes"):
        whole.update(split.file_sizes().tobytes())
    if is_empty:
        _add_examples(whole, split, torch.linspace(0, len(split) - 1, count).long())
    return first.hexdigest()[:16] + SEPARATOR + whole.hexdigest()[:16]


def _add_examples(digest: Any, split: Split, indices: Tensor) -> None:
    _add_tensors(digest, split.batch(indices, indices))


def _add_tensors(digest: Any, batch: Batch) -> None:
    for tensor in tree_leaves(batch):
        if isinstance(tensor, Tensor):
            digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode() + _bytes_of(tensor).numpy().tobytes())


def _bytes_of(tensor: Tensor) -> Tensor:
    """uint8 [bytes]; NumPy does not know all dtypes of torch."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _contents(value: object) -> Iterator[bytes]:
    """The bytes of tensors, arrays, and lists of numbers, names and such; paths count by their last part only."""
    if isinstance(value, Tensor):
        if value.device.type == "cpu" and value.layout == torch.strided:
            yield f"{value.dtype}".encode()
            yield from _contents(_bytes_of(value).numpy())
    elif isinstance(value, np.ndarray):
        if value.dtype != object:
            yield f"{value.dtype}{value.shape}".encode()
            yield from _blocks(value)
    elif isinstance(value, Mapping):
        yield from _contents([*value.keys(), *value.values()])
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for each in dataclasses.fields(value):
            yield from _contents(getattr(value, each.name, None))
    elif isinstance(value, list | tuple):
        plain = [each for each in map(_plain, value) if each is not None]
        if plain:
            yield "\0".join(plain).encode(errors="surrogateescape")
        if len(plain) < len(value):
            for each in value[:: len(value) // MAX_OBJECTS + 1]:
                yield from _contents(each)


def _plain(value: object) -> str | None:
    """A number or text of a list."""
    if isinstance(value, int | float | np.number | bytes):
        return repr(value)
    if isinstance(value, PurePath) or (isinstance(value, str) and os.path.isabs(value)):
        return os.path.basename(value)
    return value if isinstance(value, str) else None


def _blocks(array: np.ndarray) -> Iterator[bytes]:
    size = 2**20
    if array.nbytes <= MAX_BYTES:
        yield np.ascontiguousarray(array).tobytes()
        return
    flat = array.reshape(-1).view(np.uint8) if array.flags.c_contiguous else array.reshape(-1)
    for start in np.linspace(0, len(flat) - size, MAX_BYTES // size).astype(np.int64).tolist():
        yield flat[start : start + size].tobytes()
