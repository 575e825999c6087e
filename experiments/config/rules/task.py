"""The rules of a task and of callbacks: what they need, the engine has to serve. Imports no torch, and none of their classes."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.config import signature
from experiments.config.rules.base import ConfigView, NotApplicable
from experiments.config.rules.topology import is_auto

LBFGS = "torch.optim.lbfgs.LBFGS"
DESCRIPTIONS = {
    "inputs": "the inputs besides the outputs",
    "whole_model": "the whole model on each rank",
    "phases": "several updates in a step",
    "closure": "an optimizer that computes the loss several times",
    "collector": "data that the model makes",
    "per_example_gradients": "a gradient for each example",
    "gradients": "the whole gradients on each rank",
}


def read_names(target: str, attribute: str) -> tuple[str, ...]:
    """The tuple of names that a class attribute holds, read from the source; empty without one."""
    names = signature.read_literal(target, attribute)
    return tuple(map(str, names)) if isinstance(names, (tuple, list, set, frozenset)) else ()


def _needs(view: ConfigView) -> list[str]:
    if is_auto(view.config):
        raise NotApplicable
    engine = str(view.get("parallel", dict).get("_target_"))
    serves = read_names(engine, "serves")
    problems = []
    for key, target in _users(view):
        needs = _read_needs(key, target)
        missing = [need for need in needs if need not in serves]
        if missing:
            needed = " and ".join(DESCRIPTIONS.get(need, repr(need)) for need in missing)
            problems.append(
                f"{key}={target} needs {needed}, which parallel._target_={engine} does not serve; use parallel=single or data"
            )
    return problems


def _read_needs(key: str, target: str) -> tuple[str, ...]:
    if key.startswith("gradient."):
        return ("gradients",)
    if key.startswith("optimizer."):
        is_closure = target == LBFGS or signature.read_literal(target, "needs_closure") is True
        return ("closure",) if is_closure else ()
    return read_names(target, "needs")


def _users(view: ConfigView) -> Iterator[tuple[str, str]]:
    """The keys of the task, the data, the optimizer, the callbacks and the gradient transforms, and their classes."""
    nodes = {key: view.config.get(key) for key in ("task", "data", "optimizer")}
    for group in ("callback", "gradient"):
        own = view.config.get(group)
        nodes |= {f"{group}.{name}": node for name, node in own.items()} if isinstance(own, dict) else {}
    for key, node in nodes.items():
        if isinstance(node, dict) and isinstance(node.get("_target_"), str):
            yield f"{key}._target_", node["_target_"]


def _names(view: ConfigView) -> list[str]:
    return [
        f"{group}.{name!r}: a name consists of letters, digits and _; rename it"
        for group in ("callback", "gradient")
        for name in (view.get(group, dict) if group in view.config else ())
        if not str(name).isidentifier()
    ]


RULES = (_needs, _names)
