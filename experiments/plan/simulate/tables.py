"""The printed output of `lathe simulate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table

from experiments.core.format import format_duration
from experiments.plan.simulate.cluster import Cluster
from experiments.plan.simulate.from_run import RecordedRun
from experiments.plan.simulate.modes import MODES
from experiments.plan.simulate.result import SimulationResult

MIB = 1 << 20


def heading(cluster: Cluster, workers: Sequence[int], source: RecordedRun | None) -> Iterator[str]:
    """The assumptions of the simulation, in a few lines."""
    machine = cluster.machine
    yield f"simulated from {cluster.name}"
    yield f"  a worker's step   {cluster.batch_size:,} examples, computed in {cluster.times}"
    yield f"  gradients         {cluster.num_bytes / MIB:,.1f} MiB, applied by {_servers(cluster)} in {_ms(cluster.apply_s)}"
    if (message_times := cluster.measured_message_times) is not None:
        yield (
            f"  messages          pull {_ms(message_times.pull_s)}, push {_ms(message_times.push_s)}, "
            f"{_ms(message_times.rest_s)} until the next work (measured)"
        )
    per_node = machine.devices_per_node
    cores = f", {machine.concurrent_devices:g} computing at once" if machine.concurrent_devices < per_node else ""
    yield f"  nodes             {per_node} worker{'s'[: per_node > 1]} each{cores}; {_links(cluster, max(workers))}"
    if cluster.num_slow:
        yield f"  slow              {cluster.num_slow} workers, {cluster.slowness:g} times slower"
    if source is not None and source.log_every_steps > 1 and not source.parts_ms:
        yield (
            f"  note              each measured time is the mean of {source.log_every_steps} steps, which hides their variation; "
            "use a run with log_every_steps=1"
        )


def _servers(cluster: Cluster) -> str:
    return "one server" if cluster.num_servers == 1 else f"{cluster.num_servers} servers"


def _links(cluster: Cluster, most: int) -> str:
    machine = cluster.machine
    within = f"{machine.link_bytes_per_s / 1e9:g} GB/s within"
    between = f"{machine.network_bytes_per_s / 1e9:g} GB/s between"
    if most <= machine.devices_per_node:
        return within
    return between if machine.devices_per_node == 1 else f"{within}, {between}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"


def results_table(results: Sequence[SimulationResult], num_samples: int) -> Table:
    """One row for each number of workers and mode."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("workers", justify="right")
    table.add_column("mode")
    for name in (
        "speed-up", "examples/s", "updates/s", "stale mean", "95 %", "waiting", "servers busy", "dropped",
        f"{num_samples:,} examples",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    for position, result in enumerate(results):
        is_first = position == 0 or results[position - 1].workers != result.workers
        if is_first and position:
            table.add_section()
        table.add_row(str(result.workers) if is_first else "", result.mode, *_cells(result, num_samples))
    modes = dict.fromkeys(result.mode for result in results)
    table.caption = "; ".join(f"{mode}: {MODES[mode]}" for mode in modes)
    table.caption_justify = "left"
    return table


def _cells(result: SimulationResult, num_samples: int) -> list[str]:
    is_served = result.mode != "sync"
    is_stale = result.mode in ("async", "hybrid")
    return [
        f"{result.speedup:.2f}",
        f"{result.examples_per_s:,.4g}",
        f"{result.updates_per_s:,.4g}",
        f"{result.staleness_mean:.1f}" if is_stale else "-",
        f"{result.staleness_p95:.0f}" if is_stale else "-",
        f"{result.waiting_fraction:.0%}",
        f"{result.server_busy_fraction:.0%}" if is_served else "-",
        f"{result.dropped_fraction:.1%}" if result.mode == "backup" else "-",
        format_duration(result.time_to_s(num_samples)),
    ]


def comparison_table(pairs: Sequence[tuple[RecordedRun, SimulationResult]]) -> Table:
    """The predicted and the measured speed of other runs."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name in ("run", "mode"):
        table.add_column(name)
    for name in ("workers", "predicted examples/s", "measured examples/s", "error"):
        table.add_column(name, justify="right")
    for other, prediction in pairs:
        error = prediction.examples_per_s / other.examples_per_s - 1
        numbers = [f"{value:,.4g}" for value in (prediction.examples_per_s, other.examples_per_s)]
        table.add_row(other.name, other.mode, str(other.workers), *numbers, f"{error:+.1%}")
    return table
