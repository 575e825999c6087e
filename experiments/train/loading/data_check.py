"""`lathe data check`: reads every example of a data set, and lists those that cannot be read."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from experiments.components.instantiate import instantiate
from experiments.config.allowlist import trusted
from experiments.config.compose import compose_data
from experiments.core.console import make_console
from experiments.core.errors import InputError
from modules.data.base import Data, DataError, SkipsBadExamples, Split

SPLITS = ("train", "val", "test")
BATCH_SIZE = 64
MOST_SHOWN = 1000
"""Faults of a data set or split that are printed."""


def check_data(args: argparse.Namespace) -> int:
    """Read all splits of a data set; returns 1 if an example or a split cannot be read.

    Raises:
        InputError: the data set cannot be composed.
    """
    num_faults = 0
    data = _compose(args)
    if isinstance(data, SkipsBadExamples):
        faults = data.find_faults()
        num_faults = len(faults)
        _show([*faults, *(f"note: {each}" for each in data.find_odd_files())])
    num_faults += sum(_check_split(data, split) for split in SPLITS)
    print(f"faults: {num_faults}" if num_faults else "every example can be read")
    return 1 if num_faults else 0


def _compose(args: argparse.Namespace) -> Data:
    """The data set; one that can skip bad examples does, so that the first of them does not end the command."""
    options: dict[str, Any] = {"config_dirs": args.config_dir, "trust": args.trust}
    try:
        config = compose_data([*args.overrides, "data.on_bad_example=skip"], **options)
    except InputError:
        config = compose_data(args.overrides, **options)
    data: Data = instantiate(config, "data", trusted(args.trust))
    return data


def _show(lines: Sequence[str]) -> None:
    for line in lines[:MOST_SHOWN]:
        print(f"  {line}")
    if len(lines) > MOST_SHOWN:
        print(f"  and {len(lines) - MOST_SHOWN:,} more")


def _check_split(data: Data, name: str) -> int:
    """Read a split and print what is found; returns the number of faults."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            split: Any = data.load(name)
        except (DataError, ValueError) as err:
            print(f"{name}: {err}")
            return 1
        faults = list(_find_faults(split)) if hasattr(split, "__len__") else []
    counted = (
        f"{len(split):,} examples" if hasattr(split, "__len__") else "no fixed number of examples, so none is read"
    )
    print(f"{name}: {counted}{_count_classes(split, getattr(data, 'class_names', None))}")
    for text in dict.fromkeys(str(each.message) for each in caught):
        print(f"  note: {text}")
    _show(faults)
    return len(faults)


def _find_faults(split: Split) -> Iterator[str]:
    """Read all examples in batches; of a batch that fails each example alone."""
    with make_console(sys.stderr).status("reading") as status:
        for first in range(0, len(split), BATCH_SIZE):
            rows = torch.arange(first, min(first + BATCH_SIZE, len(split)))
            status.update(f"reading {first:,} of {len(split):,}")
            if _read(split, rows) is None:
                continue
            for row in rows:
                if (fault := _read(split, row[None])) is not None:
                    yield f"example {int(row)}: {fault}"


def _read(split: Split, rows: Any) -> str | None:
    """Why examples cannot be read; None if they can."""
    try:
        split.batch(rows, rows)
    except Exception as err:  # a data set of a user may raise any error
        return str(err) or type(err).__name__
    return None


def _count_classes(split: Any, names: Any) -> str:
    """The classes with the fewest and the most examples; "" if the split has no list of classes."""
    targets = getattr(split, "targets", None)
    if targets is None or getattr(targets, "dim", lambda: 0)() != 1 or targets.is_floating_point() or not len(targets):
        return ""
    counts = targets.bincount()
    least, most = int(counts.argmin()), int(counts.argmax())
    shown = [str(names[each]) if names and each < len(names) else str(each) for each in (least, most)]
    return f" of {len(counts)} classes, {shown[0]} {int(counts[least]):,} to {shown[1]} {int(counts[most]):,}"
