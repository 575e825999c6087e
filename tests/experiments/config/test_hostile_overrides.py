"""Overrides that a parser, a converter or a formatter could fail at. All are reported together."""

from __future__ import annotations

import pytest

from experiments.config.compose import compose
from experiments.config.overrides import MAX_DEPTH, MAX_ITEMS
from experiments.core.errors import ConfigError

HOSTILE = {
    "max_steps=" + "9" * 5000: "does not parse (Exceeds the limit",
    "tags=int(" + "9" * 5000 + ")": "does not parse (Exceeds the limit",
    "optimizer.lr=" + "9" * 400: "is larger than 2^63-1",
    "batch_size_global=-" + "9" * 20: "is larger than 2^63-1",
    "model.channels=[6," + "9" * 30 + "]": "is larger than 2^63-1",
    "hardware.nodes=1e400": "is infinite; write a number",
    "max_epochs=1e30": "max_epochs=1e30 is not a whole number or null; write `max_epochs=10`",
    "optimizer.weight_decay=nan": "optimizer.weight_decay=nan is not a number; write one",
    "optimizer.eps=inf": "optimizer.eps=inf is infinite; write a number",
    "optimizer.betas=[nan,0.9]": "optimizer.betas=[nan,0.9] is not a number; write one",
    "grad_clip_norm=-inf": "grad_clip_norm=-inf is infinite",
    "description=" + "[" * 300 + "]" * 300: f"has more than {MAX_DEPTH} levels of nesting",
    "name=" + "{a:" * 300 + "1" + "}" * 300: f"has more than {MAX_DEPTH} levels of nesting",
    "name=" + "sort(" * 300: f"has more than {MAX_DEPTH} levels of nesting",
    "a." * 500 + "b=1": f"has more than {MAX_DEPTH} levels of nesting",
    "freeze=[" + "a," * 100_000 + "a]": "has more than 100,000 characters",
    "freeze=[" + "a," * MAX_ITEMS + "a,a]": f"has more than {MAX_ITEMS:,} values",
    "xyz=${oc.env:NOPE}": "the environment variable NOPE is not set",
    "model.num_classes=${oc.env:NO_NUMBER}": "the environment variable NO_NUMBER is not set",
    "schedule._target_=${nope}": "schedule._target_=${nope} cannot be resolved",
    "evaluator.top_k=[1,${oc.env:NO_ITEM}]": "the environment variable NO_ITEM is not set",
    "uvw=${": "does not parse",
}


def test_hostile_overrides_are_each_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOPE", "NO_NUMBER", "NO_ITEM"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError) as err:
        compose([*HOSTILE])
    problems = err.value.problems
    assert [part for part in HOSTILE.values() if not any(part in problem for problem in problems)] == []
    assert max(map(len, problems)) < 500
