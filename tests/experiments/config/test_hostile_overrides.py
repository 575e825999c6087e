"""Overrides that a parser, a converter or a formatter could fail at. All are reported together."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.config.compose import compose
from experiments.config.overrides import MAX_DEPTH, MAX_ITEMS
from experiments.config.source_map import SourceMap
from experiments.config.validate import MAX_SUGGESTIONS, Validation
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


class CountingDict(dict[str, Any]):
    """Counts how often its items are listed."""

    num_listed = 0

    def items(self) -> Any:
        self.num_listed += 1
        return super().items()


def test_the_work_for_many_unknown_keys_is_linear() -> None:
    config = CountingDict(compose([]).config | {f"unknown_{number}": number for number in range(3000)})
    validation = Validation(SourceMap(), ())
    validation.check_root(config)
    assert sum("has no key" in problem for problem in validation.problems) == 3000
    assert config.num_listed <= MAX_SUGGESTIONS + 10
