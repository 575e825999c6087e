"""Checks that a split of a user's data set can be asked for batches."""

from __future__ import annotations

import inspect

SEEDS = "int64 [batch], one seed for each example"


def check_signature(split: object) -> None:
    """
    Raises:
        ValueError: the split has no method ``batch(indices, seeds)``, or has one that wants a generator.
    """
    name = type(split).__name__
    fetch = getattr(split, "batch", None)
    if not callable(fetch):
        raise ValueError(
            f"the split {name} of data has no method batch(indices, seeds), but every split needs it; write it, "
            "with seeds as " + SEEDS
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


def _takes_seeds(signature: inspect.Signature) -> bool:
    try:
        arguments = signature.bind(None, None).arguments
    except TypeError:
        return False
    name = list(arguments)[-1]
    return "generator" not in name.lower() and "Generator" not in str(signature.parameters[name].annotation)
