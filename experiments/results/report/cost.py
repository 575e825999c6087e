"""Device time, throughput and load of a sweep or of runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from experiments.core import figures
from experiments.core.format import format_duration, format_number, format_point
from experiments.results.report.findings import Findings, ReportRun, rank_key

USAGE_PREFIXES = ("perf/", "cost/", "system/")
MAX_ROWS = 40


@dataclass(frozen=True)
class UsageMetric:
    """One throughput, cost or load metric over all runs."""

    name: str
    low: tuple[float, str]
    """Smallest value, and the id of its run."""
    median: float
    high: tuple[float, str]
    num_runs: int


def collect_usage(findings: Findings) -> list[UsageMetric]:
    """Collect throughput, cost and load: the last value of a run for cost/, the median over the run for the others."""
    names = dict.fromkeys(name for run in findings.runs for name in run.series if name.startswith(USAGE_PREFIXES))
    metrics = []
    for name in sorted(names):
        values = [(value, run.id) for run in findings.runs if (value := _value(run, name)) is not None]
        if values:
            middle = median(value for value, _ in values)
            metrics.append(UsageMetric(name, min(values), middle, max(values), len(values)))
    return sorted(
        metrics, key=lambda metric: [metric.name.startswith(prefix) for prefix in USAGE_PREFIXES], reverse=True
    )[:MAX_ROWS]


def _value(run: ReportRun, name: str) -> float | None:
    if name not in run.series:
        return None
    return run.last(name) if name.startswith("cost/") else run.series[name].median()


def summarize_cost(findings: Findings) -> Mapping[str, str]:
    """Format the total cost."""
    totals = {"device time": format_device_time(findings.used_h)}
    if findings.wasted_h:
        totals["wasted"] = f"{format_device_time(findings.wasted_h)} ({findings.wasted_h / findings.used_h:.0%})"
    elif findings.wasted_h is not None:
        totals["wasted"] = "none"
    if findings.elapsed_s is not None:
        totals["wall time"] = format_duration(findings.elapsed_s)
    return totals | {
        "attempts": f"{findings.attempts} for {len(findings.runs)} {findings.noun}{'s' * (len(findings.runs) != 1)}"
    }


def format_device_time(hours: float) -> str:
    """Format device-hours, the unit of billing; below one hour in smaller units."""
    return f"{hours:,.1f} h" if hours >= 1 else format_duration(hours * 3600)


def format_quantity(value: float) -> str:
    """Format a value with four significant digits."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"


def draw(findings: Findings) -> figures.RenderedFigure | None:
    """Draw the result of every trial against the device time used until its end; None for fewer than three results."""
    ended = sorted(
        (run for run in findings.runs if run.ended is not None and run.used_h), key=lambda run: (run.ended, run.id)
    )
    if findings.kind != "sweep" or sum(run.is_measured for run in ended) < 3:
        return None
    unit, per_hour = next(
        (u, k) for u, k in (("s", 3600), ("min", 60), ("h", 1)) if findings.used_h * k <= 200 or k == 1
    )
    tips = figures.Tooltips()
    with figures.new_figure(1, 1, 2.7) as (figure, (axis,)):
        spent, best = 0.0, None
        steps: list[tuple[float, float]] = []
        for run in ended:
            spent += (run.used_h or 0.0) * per_hour
            if not run.is_measured or run.value is None:
                continue
            is_whole = run.state == "finished"
            (mark,) = axis.plot(
                [spent], [run.value], linestyle="none", marker="o" if is_whole else "^", markersize=5.0, alpha=0.75, zorder=3,
                markerfacecolor=figures.SERIES[0] if is_whole else "none", markeredgecolor=figures.SERIES[0],
            )  # fmt: skip
            tips.mark(
                mark,
                f"{format_point(run.values, findings.short)}\n{findings.value_name} {format_number(run.value)}\n{run.id}",
                run.id,
            )
            if is_whole and (best is None or rank_key(run.value, findings.mode) < rank_key(best, findings.mode)):
                best = run.value
            steps += [(spent, best)] if best is not None else []
        if steps:
            axis.step(
                [x for x, _ in steps], [y for _, y in steps], where="post", color=figures.BEST, linewidth=1.8, zorder=2
            )
        cut = figures.scale_axis(axis, [run.value for run in ended if run.value is not None])
        axis.set_xlabel(f"device time of the trials that have ended, {unit}")
        axis.set_ylabel(findings.value_name)
        return figures.render(
            figure, "cost", title="Cost", alt=f"Results against {format_device_time(findings.used_h)} of device time",
            caption=f"Each mark is a trial when it ended; the line is the best single trial so far. {cut}".rstrip(), tips=tips,
        )  # fmt: skip
