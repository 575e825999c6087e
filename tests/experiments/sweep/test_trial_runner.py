"""How a trial ends, without workers."""

from __future__ import annotations

import pytest

from experiments.launch.outcome import Outcome
from experiments.sweep.worker.trial_runner import TrialRunner


@pytest.mark.parametrize(
    ("value", "is_measured", "state", "failure", "reason"),
    [
        (0.5, True, "finished", None, None),
        (float("inf"), True, "finished", None, None),
        (None, True, "failed", "exception", "sweep.metric=val/x is not a number (NaN) for the weights that the trial delivers"),
        (None, False, "failed", "config error", "sweep.metric=val/x was not measured; choose a metric that the evaluator"),
    ],
)  # fmt: skip
def test_a_metric_that_is_nan_is_not_reported_as_missing(
    value: float | None, is_measured: bool, state: str, failure: str | None, reason: str | None
) -> None:
    runner = TrialRunner.__new__(TrialRunner)
    runner.metric = "val/x"
    ended = runner._determine_state(Outcome("finished", None), value, is_measured=is_measured)
    assert ended[:2] == (state, failure)
    assert (ended[2] or "").startswith(reason or "")
