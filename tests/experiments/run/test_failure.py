"""The failure class that follows from the output of a scheduler."""

from __future__ import annotations

import pytest

from experiments.run.failure import classify_loss


@pytest.mark.parametrize(
    ("output", "failure"),
    [
        (
            "worker 1_0.0 is lost: REQUEUED\nslurmstepd: error: StepId=1.0 exceeded memory limit (2 > 1)",
            "out of host memory",
        ),
        ("slurmstepd: error: Exceeded job memory limit", "out of host memory"),
        ("worker 1_0.0 on n1 is lost: OUT_OF_MEMORY", "out of host memory"),
        (
            "error: Detected 1 oom_kill event in StepId=1.0.",
            "out of host memory",
        ),
        ("worker 1_0.0 on n1 is lost: TIMEOUT", "time-out"),
        ("*** JOB 1 ON n1 CANCELLED AT 2026-11-24T18:55:44 DUE TO TIME LIMIT ***", "time-out"),
        ("*** JOB 1 ON n1 CANCELLED AT 2026-11-24T18:55:44 DUE TO PREEMPTION ***", "preempted"),
        ("worker 1_0.0 on n1 is lost: NODE_FAIL", "node lost"),
        ("worker w0 on node7 has sent no heartbeat for 31 s", "node lost"),
    ],
)
def test_the_output_of_a_scheduler_gives_the_failure_class(output: str, failure: str) -> None:
    assert classify_loss(output) == failure
