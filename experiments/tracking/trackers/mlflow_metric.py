"""Names of metrics in MLflow."""

from __future__ import annotations

from typing import Final

from experiments.trial.parameters import clean_key

MACHINE_METRICS: Final = ("perf/", "cost/", "async/")
"""Prefixes of metrics that describe the execution of a run, not its results."""


def make_metric_name(metric: str) -> str:
    """Make MLflow's name of a metric: ``perf/mfu`` becomes ``system/perf_mfu``.

    MLflow 3.17 sorts charts by the part of the name before the last slash. Only ``system/`` has a place of its own: a second tab
    on the page of a run, and the end of a page of several runs. So the charts of results come first.
    """
    if metric.startswith(MACHINE_METRICS):
        metric = f"system/{metric.replace('/', '_')}"
    return clean_key(metric)
