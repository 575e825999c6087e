"""The rules of a task and of callbacks: what they need, the engine has to serve. Imports no torch, and none of their classes."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from experiments.config import signature
from experiments.config.rules.base import ConfigView, NotApplicable
from experiments.config.rules.engine import FIXED, read_declared
from experiments.config.rules.topology import is_auto, resolve_topology

SUPERVISED = "modules.task.supervised.Supervised"
EVALUATION_ONLY = "modules.task.evaluation_only.EvaluationOnly"
DP_SGD = "modules.task.dp_sgd.DpSgd"
DESCRIPTIONS = {
    "inputs": "the inputs besides the outputs",
    "whole_model": "the whole model on each rank",
    "phases": "several updates in a step",
    "closure": "an optimizer that computes the loss several times",
    "collector": "data that the model makes",
    "per_example_gradients": "a gradient for each example",
    "gradients": "the whole gradients on each rank",
    "trial_steps": "trial steps before the training",
}


def read_names(target: str, attribute: str) -> tuple[str, ...]:
    """The tuple of names that a class attribute holds, read from the source; empty without one."""
    names = read_declared(target, attribute)
    return tuple(map(str, names)) if isinstance(names, (tuple, list, set, frozenset)) else ()


def _needs(view: ConfigView) -> list[str]:
    view.get("parallel", dict)
    if is_auto(view.config):
        raise NotApplicable
    engine = view.engine.target
    serves, limits = read_names(engine, "serves"), read_declared(engine, "serves_up_to")
    problems = []
    for key, target in _users(view):
        needs = _read_needs(key, target)
        missing = [need for need in needs if need not in serves]
        exceeded = {} if missing or not isinstance(limits, dict) else _find_exceeded(view, needs, limits)
        if not missing and not exceeded:
            continue
        needed = " and ".join(DESCRIPTIONS.get(need, repr(need)) for need in missing or exceeded)
        rule, hint = "does not serve", "use parallel=single or data"
        if exceeded:
            most = dict(item for each in exceeded.values() for item in each.items())
            rule = f"serves only with {' and '.join(f'{name} of at most {value}' for name, value in most.items())}"
            hint = f"lower {'it' if len(most) == 1 else 'them'}, or {hint}"
        problems.append(f"{key}={target} needs {needed}, which parallel._target_={engine} {rule}; {hint}")
    return problems


def _find_exceeded(view: ConfigView, needs: Iterable[str], limits: dict[str, Any]) -> dict[str, dict[str, int]]:
    """By need, the settings that are larger than what the engine serves it with, and the largest value."""
    topology = resolve_topology(view)
    values = {**vars(topology), "stage": view.setting_integer("stage") if view.engine.has("stage") else 0}
    exceeded = {
        need: {
            view.engine.key(meaning): most for meaning, most in limits.get(need, {}).items() if values[meaning] > most
        }
        for need in needs
    }
    return {need: settings for need, settings in exceeded.items() if settings}


def _refusals(view: ConfigView) -> list[str]:
    """Callbacks that do not work with what the task, the data or the optimizer need."""
    callbacks, problems = _callbacks(view), list[str]()
    users = [(key, target, _read_needs(key, target)) for key, target in _users(view)] if callbacks else []
    for callback, its_class in callbacks:
        refused = read_names(its_class, "refuses")
        for key, target, needs in users:
            if found := [need for need in needs if need in refused and not key.startswith("callback.")]:
                reason = " and ".join(DESCRIPTIONS.get(need, repr(need)) for need in found)
                problems.append(
                    f"{callback}={its_class} does not work with {key}={target}, which has {reason}; remove the callback"
                )
    return problems


def _samples(view: ConfigView) -> list[str]:
    """Callbacks that show what the task or the evaluator makes, if neither makes anything."""
    callbacks = [
        (key, target) for key, target in _callbacks(view) if signature.read_literal(target, "shows_samples") is True
    ]
    if not callbacks:
        return []
    task, evaluator = ((view.config.get(key) or {}) for key in ("task", "evaluator"))
    makers = ((task, "samples"), (evaluator, "artifacts"))
    try:
        if any(_has_method(node, method) for node, method in makers):
            return []
    except signature.SourceError as err:  # another check reports it
        raise NotApplicable from err
    return [
        f"{key}={target} shows what the task or the evaluator makes, but {task.get('_target_', 'the task')} has no method "
        f"`samples` and {evaluator.get('_target_', 'the evaluator')} no method `artifacts`; write one of them, or remove "
        "the callback"
        for key, target in callbacks
    ]


def _has_method(node: object, method: str) -> bool:
    """Whether the class of a node has a method; or that of a node within, such as one of several evaluators."""
    if not isinstance(node, dict):
        return False
    target = node.get("_target_")
    if isinstance(target, str) and signature.has_method(signature.read(target), {method}):
        return True
    return any(_has_method(each, method) for each in node.values())


def _callbacks(view: ConfigView) -> list[tuple[str, str]]:
    return [(key, target) for key, target in _users(view) if key.startswith("callback.")]


def _read_needs(key: str, target: str) -> tuple[str, ...]:
    return (_find_fixed_needs if target.startswith(FIXED) else _find_needs)(key, target)


def _find_needs(key: str, target: str) -> tuple[str, ...]:
    if key.startswith("gradient."):
        return ("gradients",)
    if key.startswith("optimizer."):
        is_closure = signature.read_literal(target, "needs_closure") is True
        return ("closure",) if is_closure or signature.requires_argument(target, "step", "closure") else ()
    needs = read_names(target, "needs")
    # An engine that does not serve "inputs" computes the objective itself, and would ignore what the task computes.
    if not key.startswith("task.") or target == SUPERVISED or "inputs" in needs:
        return needs
    owners = {signature.find_owner(target, method) for method in ("loss", "evaluate")}
    return needs if owners == {SUPERVISED} else ("inputs", *needs)


_find_fixed_needs = lru_cache(_find_needs)


def _users(view: ConfigView) -> Iterator[tuple[str, str]]:
    """The keys of the task, the data, the optimizer, the callbacks and the gradient transforms, and their classes."""
    nodes = {key: view.config.get(key) for key in ("task", "data", "optimizer")}
    for group in ("callback", "gradient"):
        own = view.config.get(group)
        nodes |= {f"{group}.{name}": node for name, node in own.items()} if isinstance(own, dict) else {}
    for key, node in nodes.items():
        if isinstance(node, dict) and isinstance(node.get("_target_"), str):
            yield f"{key}._target_", node["_target_"]


def _packages(view: ConfigView) -> str | None:
    """Epsilon comes from a package of an extra."""
    task = view.get("task", dict)
    if task.get("_target_") != DP_SGD or task.get("delta") is None or importlib.util.find_spec("opacus") is not None:
        return None
    return (
        f"task.delta={task['delta']} needs the package 'opacus' to compute epsilon, which is not installed; "
        "`pip install 'lathe-dl[privacy]'`, or set task.delta=null"
    )


def _trains_nothing(view: ConfigView) -> str | None:
    """Models that are only evaluated take no steps."""
    target = view.get("task", dict).get("_target_")
    if target != EVALUATION_ONLY or view.config.get("max_steps") == 0:
        return None
    return f"task={target} trains nothing; set max_steps=0, or choose another task"


def _names(view: ConfigView) -> list[str]:
    return [
        f"{group}.{name!r}: a name consists of letters, digits and _; rename it"
        for group in ("callback", "gradient", "evaluation_sets")
        for name in (view.get(group, dict) if group in view.config else ())
        if not str(name).isidentifier()
    ]


RULES = (_needs, _refusals, _samples, _packages, _trains_nothing, _names)
