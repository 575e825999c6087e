"""Values that are `auto`: a function of the data set or model finds them in its files; the evaluator names its best metric.
Imports no torch by itself."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from experiments.config import signature
from experiments.config.allowlist import is_allowed
from experiments.core.errors import InputError

AUTO: Final = "auto"
MARK: Final = "auto_values"
"""Class attribute of a data set or model: the full name of the function, such as ``package.module.find``.

The function takes the arguments of the data set, by name, and returns the values of those that are `auto`. It may also
replace ``root``, the folder of the files. It raises `ValueError` if it cannot find a value. Best it imports no torch: every
command that composes the data set calls it.
"""
ENCODING: Final = "encoding"
HEADLINE: Final = "headline"
LOWER_IS_BETTER: Final = ("loss", "error", "perplexity", "mae", "rmse", "mse")


def find_auto_keys(data: Mapping[str, Any], trust: Collection[str]) -> tuple[str, ...]:
    """The arguments of a data set that are `auto`, if its class can find them in the files."""
    target = data.get("_target_")
    keys = tuple(key for key, value in data.items() if value == AUTO)
    return keys if keys and isinstance(target, str) and _name_function(target, trust) else ()


def find_auto_values(
    data: Mapping[str, Any], keys: Collection[str], trust: Collection[str], group: str = "data"
) -> dict[str, Any]:
    """Find the values of arguments that are `auto`.

    Args:
        data: arguments of the data set and its class, resolved.
        keys: those to find.
        trust: packages whose code may run.
        group: "data", or "model" for the arguments of a model.

    Raises:
        InputError: a value cannot be found.
    """
    function = _name_function(str(data["_target_"]), trust)
    shown = ", ".join(f"{group}.{key}=auto" for key in keys)
    if function is None:
        raise InputError([f"{shown}: {data['_target_']} finds no values; write them"])
    arguments = {key: value for key, value in data.items() if key != "_target_"} | dict.fromkeys(keys, AUTO)
    try:
        found = _load(function)(arguments)
    except ValueError as err:
        raise InputError([str(err)]) from err
    except Exception as err:  # the code of a user may raise any error
        raise InputError([f"{shown}: {function} failed with {type(err).__name__}: {err}; correct it"]) from err
    missing = [f"{group}.{key}=auto" for key in keys if found.get(key, AUTO) == AUTO]
    if missing:
        raise InputError([f"{', '.join(missing)}: {function} does not find this value in the files; write it"])
    return {key: value for key, value in found.items() if key in keys or (key == "root" and key in data)}


def keep_encoding(trained: Mapping[str, Any], data: Any) -> Any:
    """Data of the kind that a model was trained with, in which `auto` values that say what the model gets stay as they were.

    Args:
        trained: arguments of the data set of the training. The class names these arguments in its attribute ``encoding``.
        data: those of another data set, of any class; they are kept if its class names the same arguments.
    """
    target = data.get("_target_") if isinstance(data, dict) else None
    names = signature.read_literal(str(target), ENCODING)
    if target != trained.get("_target_") and names != signature.read_literal(str(trained.get("_target_")), ENCODING):
        names = None
    kept = (
        [name for name in names or () if data.get(name) == AUTO and name in trained] if isinstance(names, tuple) else []
    )
    return {**data, **{name: trained[name] for name in kept}} if kept else data


def find_best_metric(
    evaluator: str, metric: str | None, mode: str, name_of_evaluator: str | None = None
) -> tuple[str | None, str]:
    """The metric by which the best checkpoint is chosen, and whether more or less of it is better.

    Args:
        evaluator: full name of its class. Its attribute ``headline`` names its most important metric and what is better, such
            as ``("r2", "max")``; it is empty if there are no metrics. Without it the metric is the accuracy.
        metric: of the configuration; "auto": that of the evaluator.
        mode: "max" or "min"; "auto": as the evaluator says of this metric, else "min" for losses and errors.
        name_of_evaluator: of the first of several evaluators; it is part of the names of its metrics.
    """
    headline = signature.read_literal(evaluator, HEADLINE)
    name, better = headline if isinstance(headline, tuple) and len(headline) == 2 else ("accuracy_top1", "max")
    if name_of_evaluator is not None:
        name = f"{name_of_evaluator}/{name}"
    if metric == AUTO:
        metric = None if headline == () else f"val/{name}"
    if mode == AUTO:
        is_lower = isinstance(metric, str) and any(word in metric.rpartition("/")[2] for word in LOWER_IS_BETTER)
        mode = str(better) if metric == f"val/{name}" else "min" if is_lower else "max"
    return metric, mode


def _name_function(target: str, trust: Collection[str]) -> str | None:
    """The function of a data set, if its code may run."""
    if not is_allowed(target, trust):
        return None
    function = signature.read_literal(target, MARK)
    return function if isinstance(function, str) and "." in function and is_allowed(function, trust) else None


def _load(function: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    module, _, name = function.rpartition(".")
    loaded: Callable[[Mapping[str, Any]], dict[str, Any]] = getattr(importlib.import_module(module), name)
    return loaded
