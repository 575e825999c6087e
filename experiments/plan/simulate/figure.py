"""The figure of a simulation: speed-up, waiting and staleness by the number of workers."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.core import figures as look
from experiments.plan.simulate.cluster import Cluster
from experiments.plan.simulate.modes import MODES
from experiments.plan.simulate.result import SimulationResult


def draw(cluster: Cluster, results: Sequence[SimulationResult]) -> look.RenderedFigure:
    """Three panels over the number of workers: speed-up, waiting fraction, mean staleness."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    modes = [mode for mode in MODES if any(result.mode == mode for result in results)]
    counts = sorted({result.workers for result in results})
    with look.new_figure(1, 3, 3.8) as (figure, axes):
        axes[0].plot(counts, counts, color=look.REST, linewidth=1.2, linestyle=(0, (2, 2)), label="linear")
        for number, mode in enumerate(modes):
            own = sorted((result for result in results if result.mode == mode), key=lambda result: result.workers)
            xs = [result.workers for result in own]
            style = {
                "color": look.SERIES[number], "marker": look.MARKERS[number], "markersize": 4.5, "linewidth": 1.6,
                "linestyle": look.DASHES[number],
            }  # fmt: skip
            axes[0].plot(xs, [result.speedup for result in own], label=mode, **style)
            axes[1].plot(xs, [100 * result.waiting_fraction for result in own], **style)
            axes[2].plot(xs, [result.staleness_mean for result in own], **style)
        for axis, title in zip(
            axes, ("Speed-up", "Waiting, % of a worker's time", "Mean staleness, updates"), strict=True
        ):
            axis.set_title(title)
            axis.set_xlabel("workers")
            if len(counts) > 1:
                axis.set_xscale("log", base=2)
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.xaxis.set_minor_formatter(NullFormatter())
        if len(counts) > 1:
            axes[0].set_yscale("log", base=2)
            axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
            axes[0].yaxis.set_minor_formatter(NullFormatter())
        axes[1].set_ylim(0, 100)
        axes[2].set_yscale("symlog", linthresh=1)
        axes[2].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes[2].set_ylim(bottom=0)
        figure.legend(loc="outside lower left", ncols=6, handlelength=3.2)
        best = max(results, key=lambda result: result.speedup)
        alt = f"Speed-up, waiting fraction and staleness of {', '.join(modes)} at {counts[0]} to {counts[-1]} workers; "
        alt += f"the largest speed-up is {best.speedup:.3g}, of {best.mode} at {best.workers}."
        return look.render(
            figure, "simulation", title="Simulated scaling", caption=f"Simulated from {cluster.name}.", alt=alt,
            tips=look.Tooltips(),
        )  # fmt: skip
