"""`lathe data check`: reads every example of a data set, and lists those that cannot be read."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from experiments.components.instantiate import instantiate
from experiments.config.allowlist import trusted
from experiments.config.compose import compose
from experiments.core.console import make_console
from modules.data.base import Data, DataError, Split

SPLITS = ("train", "val", "test")
BATCH_SIZE = 64
MOST_SHOWN = 1000
"""Faults of a split that are printed."""


def check_data(args: argparse.Namespace) -> int:
    """Read all splits of the data set of an experiment; returns 1 if an example or a split cannot be read.

    Raises:
        InputError: the experiment cannot be composed.
    """
    experiment = compose(args.overrides, config_dirs=args.config_dir, trust=args.trust)
    data: Data = instantiate(experiment.config["data"], "data", trusted(args.trust))
    num_faults = sum(_check_split(data, split) for split in SPLITS)
    print(f"faults: {num_faults}" if num_faults else "every example can be read")
    return 1 if num_faults else 0


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
    for fault in faults[:MOST_SHOWN]:
        print(f"  {fault}")
    if len(faults) > MOST_SHOWN:
        print(f"  and {len(faults) - MOST_SHOWN:,} more")
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
