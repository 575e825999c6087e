"""Creates objects from configuration nodes. Only this module calls a `_target_`."""

from __future__ import annotations

import functools
import importlib
import inspect
import traceback
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from experiments.components.user_code import find_user_frame, get_message
from experiments.config import signature
from experiments.config.allowlist import GROUPS, INNER_GROUPS, MARK, OWN, find_groups, is_allowed, is_own, is_trusted
from experiments.config.renamed_targets import TARGETS
from experiments.config.signature import SourceError
from experiments.config.type_check import wanted_groups
from experiments.core.errors import InputError, PlanError
from experiments.core.files.packages import find_conflict, import_name, public_name
from experiments.core.secrets import resolve

MAX_ERROR_LENGTH = 500
WEIGHTS = ("weight", "pos_weight")
"""Arguments of torch's losses that are tensors."""


def instantiate(node: dict[str, Any], key: str, trust: Collection[str] = (), *, group: str | None = None) -> Any:
    """Create the object that a node of the configuration describes, inner nodes first.

    All targets are checked before the first constructor runs.

    Args:
        node: plain values with `_target_`. `_partial_: true` gives a factory that takes the remaining arguments.
        key: dotted key of the node, for messages.
        trust: packages, besides the built-in ones, that the configuration may name.
        group: that the component must be of; None: the one that `key` names.

    Raises:
        InputError: a target is not on the allow-list or not in its place, or its constructor rejects the values.
    """
    _check_targets(node, key, trust, frozenset({group or key}))
    return _create(node, key, trust)


def check_trackers(config: Mapping[str, Any], trust: Collection[str] = ()) -> None:
    """Make the trackers that are not Lathe's once, so that an error in them is reported before the training and not after it.

    Raises:
        InputError: with all problems.
    """
    problems = list[str]()
    for name, node in (config["tracking"].get("trackers") or {}).items():
        if not is_own(node["_target_"]):
            try:
                instantiate(node, f"tracking.trackers.{name}", trust, group="tracking")
            except InputError as err:
                problems += err.problems
    if problems:
        raise PlanError(problems, f"the plan for '{config['name']}'")


def make_own_launcher(node: Mapping[str, Any]) -> Any:
    """One of Lathe's launchers with default arguments, whatever the node says; None for another class."""
    try:
        return _load(str(node["_target_"]), "launcher._target_", (), frozenset({"launcher"}))()
    except (InputError, KeyError, TypeError):
        return None


def _create(node: dict[str, Any], key: str, trust: Collection[str]) -> Any:
    try:
        values = resolve({name: value for name, value in node.items() if name not in ("_target_", "_partial_")})
    except KeyError as err:
        raise InputError([f"{key} needs the environment variable {err.args[0]}; `export {err.args[0]}=...`"]) from err
    target = _load(str(node["_target_"]), f"{key}._target_", trust, GROUPS)
    later = getattr(target, "created_later", ())
    arguments = {
        name: (_create_later if name in later else _create_inner)(value, f"{key}.{name}", trust)
        for name, value in values.items()
    }
    if node["_target_"].startswith("torch.nn.modules.loss."):
        arguments = {name: _as_tensor(value) if name in WEIGHTS else value for name, value in arguments.items()}
    # Check this first: the constructor of a user's launcher can start processes.
    if key == "launcher" and not (hasattr(target, "launch") or hasattr(target, "submit")):
        raise InputError(
            [f"launcher._target_={node['_target_']} has neither launch nor submit; name a class that has one of them"]
        )
    if node.get("_partial_"):
        return functools.partial(target, **arguments)
    try:
        return target(**arguments)
    except ValueError as err:
        raise PlanError([f"{key}: {describe_error(err)}"], f"the component '{key}'") from err
    except Exception as err:  # any code; torch raises RuntimeError for a number that is too large
        raise PlanError(
            [f"{key}: {describe_error(err)}; correct its values or its code"], f"the component '{key}'"
        ) from err


def _as_tensor(value: Any) -> Any:
    """A list of numbers as a tensor."""
    import torch

    return torch.tensor(value, dtype=torch.float32) if isinstance(value, list) else value


def describe_error(err: Exception) -> str:
    """An exception on one line, with the line of the user's code: ``KeyError: 'a' (net.py:12)``.

    Without the user's code it is the last line that is not in torch or here.
    """
    text = " ".join(get_message(err).partition("Exception raised from")[0].split())  # torch appends C++ frames
    text = f"{text[:MAX_ERROR_LENGTH]}..." if len(text) > MAX_ERROR_LENGTH else text
    project = Path(__file__).parents[1]
    frames = [
        frame
        for frame in traceback.extract_tb(err.__traceback__)
        if not Path(frame.filename).is_relative_to(project) and "/torch/" not in frame.filename
    ]
    user_frame = find_user_frame(err)
    place = (
        (user_frame.path, user_frame.line)
        if user_frame
        else (frames[-1].filename, frames[-1].lineno)
        if frames
        else None
    )
    location = f" ({Path(place[0]).name}:{place[1]})" if place else ""
    kind = "" if isinstance(err, ValueError) and text else type(err).__name__
    return f"{': '.join(filter(None, (kind, text)))}{location if kind else ''}"


def _create_later(value: Any, key: str, trust: Collection[str]) -> Any:
    """A function that creates the object of a node; for arguments that a class lists in ``created_later``."""
    if not (isinstance(value, dict) and "_target_" in value):
        raise InputError([f"{key}={value} names no class, but an object is created there; set {key}._target_"])
    return functools.partial(_create, value, key, trust)


def _create_inner(value: Any, key: str, trust: Collection[str]) -> Any:
    if isinstance(value, dict) and "_target_" in value:
        return _create(value, key, trust)
    if isinstance(value, dict):
        return {name: _create_inner(inner, f"{key}.{name}", trust) for name, inner in value.items()}
    if isinstance(value, list):
        return [_create_inner(inner, f"{key}[{index}]", trust) for index, inner in enumerate(value)]
    return value


def _check_targets(value: Any, key: str, trust: Collection[str], groups: frozenset[str]) -> None:
    """Check every target in a value, whose components may be of these groups."""
    if isinstance(value, dict) and "_target_" in value:
        target = str(value["_target_"])
        _load(target, f"{key}._target_", trust, groups)
        for name, inner in value.items():
            if isinstance(inner, (dict, list)):
                _check_targets(inner, f"{key}.{name}", trust, _wanted_groups(target, name))
    elif isinstance(value, (dict, list)):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            _check_targets(inner, f"{key}.{name}" if isinstance(value, dict) else f"{key}[{name}]", trust, groups)


def _wanted_groups(target: str, name: str) -> frozenset[str]:
    try:
        return wanted_groups(signature.read(target), name)
    except SourceError:  # a class without source, which only a trusted package can have
        return frozenset() if is_own(target) else INNER_GROUPS


def _load(target: str, key: str, trust: Collection[str], groups: frozenset[str]) -> Any:
    """Import the class or function of a target, after the allow-list accepts it.

    Args:
        target: full name of the class.
        key: dotted key of the target.
        trust: packages that the user trusts; their classes fit everywhere.
        groups: that a component here may be of.
    """
    package = target.partition(".")[0]
    refusal = f"{key}={target} is not on the list of code that may run; if you trust it, add `--trust {package}`"
    if not is_allowed(target, trust):
        raise InputError([refusal])
    needs_mark = not is_trusted(target, trust)
    if needs_mark and not find_groups(target) & groups:
        takes = f"a component for {' or '.join(sorted(groups))}" if groups else "no component"
        raise InputError([f"{key}={target} is in the wrong place, which takes {takes}; name another class"])
    module_name, _, name = target.rpartition(".")
    try:
        target_object = getattr(importlib.import_module(import_name(module_name)), name)
    except (ImportError, AttributeError) as err:
        hint = find_conflict(getattr(err, "name", None) or module_name) or "check the path and what it imports"
        hint = f"it is now called {TARGETS[target]!r}" if target in TARGETS else hint
        raise InputError([f"{key}={target} cannot be imported: {err}; {hint}"]) from err
    except Exception as err:  # of the module's own code, also a SyntaxError
        raise InputError(
            [f"{key}={target} cannot be imported: {describe_error(err)}; correct the module that the error names"]
        ) from err
    is_component = inspect.isclass(target_object) or (inspect.isfunction(target_object) and not is_own(target))
    if not is_component or not is_allowed(_find_home(target_object, target), trust):
        raise InputError([refusal])
    if needs_mark and not _is_component(target_object, _find_home(target_object, target), groups):
        raise InputError(
            [
                f"{key}={target} is not a component, so a configuration may not name it; `lathe options` lists the options"
            ]
        )
    return target_object


def _find_home(target_object: Any, target: str) -> str:
    """The module of a class with a dot. Some of torch's optimizers name the package instead, which lists them."""
    module = public_name(target_object.__module__)
    return f"{target.rpartition('.')[0] if module == 'torch.optim' else module}."


def _is_component(target_object: Any, home: str, groups: frozenset[str]) -> bool:
    """Whether a class of Lathe has the mark itself, not by a base, and serves one of these groups; others are from torch."""
    return bool(find_groups(home) & groups) and (not home.startswith(OWN) or vars(target_object).get(MARK) is True)
