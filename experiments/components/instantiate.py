"""Trial to live parts: the only caller of `_target_`."""

from __future__ import annotations

import functools
import importlib
import inspect
import traceback
from collections.abc import Collection
from pathlib import Path
from typing import Any

from experiments.config.allowlist import is_allowed, is_own
from experiments.core.errors import InputError, PlanError
from experiments.core.secrets import resolve

MOST_TOLD = 500


def instantiate(node: dict[str, Any], key: str, trust: Collection[str] = ()) -> Any:
    """Make the object that a node of the configuration describes, parts inside it first.

    Args:
        node: plain values with `_target_` and perhaps `_partial_: true`, for what needs a live object first.
        key: the node's dotted key, for messages.
        trust: packages beyond the house's own that may be named.

    Raises:
        InputError: the target is not on the allow-list, is no class, or its constructor refuses the values.
    """
    try:
        values = resolve({name: value for name, value in node.items() if name not in ("_target_", "_partial_")})
    except KeyError as err:
        raise InputError([f"{key} needs the environment variable {err.args[0]}; `export {err.args[0]}=...`"]) from err
    arguments = {name: _inner(value, f"{key}.{name}", trust) for name, value in values.items()}
    target = _load(str(node["_target_"]), f"{key}._target_", trust)
    # Before it is made: a launcher may start processes.
    if key == "launcher" and not (hasattr(target, "launch") or hasattr(target, "submit")):
        raise InputError(
            [f"launcher._target_={node['_target_']} has no launch and no submit; name a class that has one"]
        )
    if node.get("_partial_"):
        return functools.partial(target, **arguments)
    try:
        return target(**arguments)
    except ValueError as err:
        raise PlanError([f"{key}: {describe_error(err)}"], f"the part '{key}'") from err
    except Exception as err:  # code of anyone's; a number that torch cannot hold is a RuntimeError
        raise PlanError([f"{key}: {describe_error(err)}; mend its values or its code"], f"the part '{key}'") from err


def describe_error(err: Exception) -> str:
    """What someone's code raised, and where in it, past this folder's and torch's: ``KeyError: 'a' (net.py:12)``."""
    text = " ".join(str(err).partition("Exception raised from")[0].split())  # then torch shows its C++ frames
    text = f"{text[:MOST_TOLD]}..." if len(text) > MOST_TOLD else text
    project = Path(__file__).parents[1]
    frames = [
        frame
        for frame in traceback.extract_tb(err.__traceback__)
        if not Path(frame.filename).is_relative_to(project) and "/torch/" not in frame.filename
    ]
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    kind = "" if isinstance(err, ValueError) and text else type(err).__name__
    return f"{': '.join(filter(None, (kind, text)))}{place if kind else ''}"


def _inner(value: Any, key: str, trust: Collection[str]) -> Any:
    if isinstance(value, dict) and "_target_" in value:
        return instantiate(value, key, trust)
    if isinstance(value, dict):
        return {name: _inner(inner, f"{key}.{name}", trust) for name, inner in value.items()}
    if isinstance(value, list):
        return [_inner(inner, f"{key}[{index}]", trust) for index, inner in enumerate(value)]
    return value


def _load(target: str, key: str, trust: Collection[str]) -> Any:
    """The class or function itself; refused before anything is imported where it is not on the allow-list."""
    package = target.partition(".")[0]
    refusal = f"{key}={target} is not on the list of code that may run; if you trust it, add `--trust {package}`"
    if not is_allowed(target, trust):
        raise InputError([refusal])
    module_name, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as err:
        raise InputError([f"{key}={target} cannot be imported: {err}; check the path and what it imports"]) from err
    is_part = inspect.isclass(found) or (inspect.isfunction(found) and not is_own(target))
    if not is_part or not is_allowed(f"{found.__module__}.", trust):
        raise InputError([refusal])
    return found
