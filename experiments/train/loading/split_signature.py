"""Checks that a split of a user's data set can be asked for batches."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from typing_extensions import TypeIs

from modules.data.base import Split, Stream

SEEDS = "int64 [batch], one seed for each example"


def is_split(split: Split | Stream) -> TypeIs[Split]:
    """Whether this is a split, which has a length, and not a stream."""
    return hasattr(split, "__len__")


def check_signature(split: Split | Stream) -> None:
    """
    Raises:
        ValueError: the split has no method ``batch(indices, seeds)``, or has one that wants a generator; a stream has no
            ``batch(step, shard, seed)``.
    """
    name = type(split).__name__
    fetch = getattr(split, "batch", None)
    if not is_split(split):
        if not callable(fetch) or not _takes(fetch, 3):
            raise ValueError(
                f"{name} of data has neither a length nor a method batch(step, shard, seed), but a split needs __len__ and "
                "batch(indices, seeds), and a stream batch(step, shard, seed); write them, or use "
                "modules.data.adapters.torch_dataset.TorchDataset for a data set of torch"
            )
        return
    if not callable(fetch):
        raise ValueError(
            f"the split {name} of data has no method batch(indices, seeds), but every split needs it; write it, "
            f"with seeds as {SEEDS}, or use modules.data.adapters.torch_dataset.TorchDataset for a data set of torch"
        )
    try:
        signature = inspect.signature(fetch)
    except (TypeError, ValueError):  # written in C
        return
    if "seeds" not in signature.parameters and not _takes_seeds(signature):
        raise ValueError(
            f"the split {name} of data has batch({', '.join(signature.parameters)}), but every split gets indices and seeds, "
            f"{SEEDS}; change it to batch(indices, seeds), and draw from "
            "modules.data.sampling.example_random.ExampleRandom(seeds)"
        )


def _takes(function: Callable[..., object], num_arguments: int) -> bool:
    try:
        inspect.signature(function).bind(*[None] * num_arguments)
    except TypeError:
        return False
    except ValueError:  # written in C
        pass
    return True


def _takes_seeds(signature: inspect.Signature) -> bool:
    try:
        arguments = signature.bind(None, None).arguments
    except TypeError:
        return False
    name = list(arguments)[-1]
    return "generator" not in name.lower() and "Generator" not in str(signature.parameters[name].annotation)
