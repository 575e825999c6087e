"""The tables of `lathe plan`: a plan, its stages and the layouts that `parallel=auto` compared."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from experiments.config.rules.slurm import SLURM
from experiments.core.secrets import resolve
from experiments.trial.parameters import mask_password

if TYPE_CHECKING:
    from experiments.plan.estimate import ResourceEstimate
    from experiments.plan.layout_search import Candidate, SearchResult
    from experiments.plan.plan import Plan

MIB, GIB = 2**20, 2**30
MOST_SHOWN = 10
LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
"""Variables that MLflow sends to the server of the store."""


def plan_tables(plan: Plan, estimate: ResourceEstimate, seconds_per_step: float | None) -> Iterator[Table]:
    """The table of a plan, and of its stages if it is a pipeline."""
    yield _plan_table(plan, estimate, seconds_per_step)
    if plan.topology.pipe > 1:
        yield _stages_table(plan, estimate)


def describe_plan(plan: Plan, estimate: ResourceEstimate, seconds_per_step: float | None) -> dict[str, Any]:
    """A plan as plain values, for `lathe plan --json`; docs/programs.md describes the keys."""
    topology = plan.topology
    return {
        "name": plan.name,
        "ranks": {"pipe": topology.pipe, "data": topology.data, "model": topology.model, "servers": plan.num_servers},
        "num_parameters": estimate.num_parameters,
        "num_trained_parameters": estimate.num_trained,
        "memory_bytes": estimate.total_bytes,
        "batch_size_global": plan.batch_size_global,
        "batch_size_per_device": plan.batch_size_per_device,
        "num_accumulation": plan.num_accumulation,
        "num_train": plan.num_train,
        "steps_per_epoch": plan.steps_per_epoch,
        "num_steps": plan.num_steps,
        "num_evaluations": plan.num_evaluations,
        "num_checkpoints": plan.num_checkpoints,
        "flops_per_step": estimate.flops_per_step,
        "step_time_s": seconds_per_step,
        "training_time_s": None if seconds_per_step is None else seconds_per_step * plan.num_steps,
    }


def machine_table(config: Mapping[str, Any]) -> Table | None:
    """What a shell runs for this experiment, and what is sent to other machines; None if neither happens.

    Args:
        config: of the experiment, with references to environment variables.
    """
    rows = [*_shell_rows(config), *_sent_rows(config)]
    if not rows:
        return None
    table = Table(title="commands and addresses", show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(style="dim", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _shell_rows(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    notify = config.get("notify") or {}
    if notify.get("command"):
        yield "shell", notify["command"], "notify.command"
    if notify.get("webhook"):
        yield "results go to", notify["webhook"], "notify.webhook"
    settings, launcher = config["hardware"]["slurm"], config["launcher"]
    if launcher["_target_"] != SLURM or not settings:
        return
    for line in settings["setup"]:
        yield "shell", line, "hardware.slurm.setup"
    if launcher.get("python"):
        yield "interpreter", launcher["python"], "launcher.python"
    if settings["container"]:
        yield "container", settings["container"], "hardware.slurm.container"
    if settings["srun_args"]:
        yield "srun", " ".join(settings["srun_args"]), "hardware.slurm.srun_args"
    for name, value in settings["sbatch"].items():
        yield "sbatch", f"--{name}={value}" if value else f"--{name}", "hardware.slurm.sbatch"


def _sent_rows(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    if config["launcher"].get("environment"):
        yield "sent to the nodes", " ".join(config["launcher"]["environment"]), "launcher.environment"
    if (store := config["tracking"]["store"]) and config["tracking"]["sync"] != "off":
        login = " and ".join(name for name in LOGIN if name in os.environ)
        address = mask_password(str(resolve(store)))
        text = f"{address}, with {login}" if login and address.startswith("http") else address
        yield "results go to", text, "tracking.store"
    for label, node in (config["tracking"].get("trackers") or {}).items():
        for name, value in node.items():
            if name != "_target_" and isinstance(value, str):
                yield f"{label} gets", f"{name}={mask_password(value)}", f"tracking.trackers.{label}.{name}"


def _plan_table(plan: Plan, estimate: ResourceEstimate, seconds_per_step: float | None) -> Table:
    table = Table(title=escape(f"plan of '{plan.name}'"), show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right")
    table.add_column(style="dim")
    rows = [
        *_topology_rows(plan),
        *_server_rows(plan),
        *_memory_rows(plan, estimate),
        None,
        ("batch", f"{plan.batch_size_global:,}", _batch_arithmetic(plan)),
        ("training examples", *_epoch_texts(plan)),
        ("steps", f"{plan.num_steps:,}", _epochs_text(plan)),
        ("evaluations", f"{plan.num_evaluations:,}", ""),
        ("checkpoints", f"{plan.num_checkpoints:,}", "and the best"),
        None,
        ("work", _work(estimate.flops_per_step, "GFLOP"), "per step, forward and backward"),
        ("work", _work(estimate.flops_per_step * plan.num_steps, "TFLOP"), "in total"),
    ]
    for row in rows:
        if row is None:
            table.add_section()
        else:
            table.add_row(*row)
    if seconds_per_step is not None:
        duration = _duration(seconds_per_step * plan.num_steps)
        table.add_row("estimated time", duration, f"at {_time(seconds_per_step)} per step, without evaluations")
    return table


def _topology_rows(plan: Plan) -> list[tuple[str, str, str] | None]:
    if plan.topology.world == 1:
        return []
    return [("ranks", f"{plan.topology.world:,}", f"{plan.topology}"), None]


def _server_rows(plan: Plan) -> list[tuple[str, str, str] | None]:
    if not plan.num_servers:
        return []
    note = "each holds a part of the weights and optimizer state; memory and time below are those of parallel=data"
    return [("parameter servers", f"{plan.num_servers:,}", note), None]


def _memory_rows(plan: Plan, estimate: ResourceEstimate) -> list[tuple[str, str, str] | None]:
    fullest, several = estimate.fullest, plan.topology.world > 1
    trained = f"{estimate.num_trained:,} are trained" if estimate.num_trained < estimate.num_parameters else ""
    rows: list[tuple[str, str, str] | None] = [
        ("parameters", f"{estimate.num_parameters:,}", trained),
        ("weights", _size(fullest.weights_bytes), "parameters and buffers"),
        ("gradients", _size(fullest.gradients_bytes), ""),
        ("optimizer state", _size(fullest.optimizer_bytes), ""),
    ]
    if fullest.buffers_bytes:
        rows.append(("engine's buffers", _size(fullest.buffers_bytes), "gradients and weights in transfer"))
    at_once = f"of {plan.batch_size_per_device} examples at once"
    whose = "peak of the rank that needs most" if several else "peak of one device"
    return [
        *rows,
        ("activations", _size(fullest.activations_bytes), at_once),
        ("memory", _size(estimate.total_bytes), f"{whose}, without the framework and the data"),
    ]


def _stages_table(plan: Plan, estimate: ResourceEstimate) -> Table:
    waits = f"ideal bubble {plan.bubble:.1%} of a step, with {plan.num_accumulation} micro-batches"
    table = Table(title=f"stages: {waits}", title_justify="left")
    table.add_column("stage")
    table.add_column("layers")
    for heading in ("parameters of a rank", "weights", "optimizer state", "activations", "memory"):
        table.add_column(heading, justify="right")
    for number, stage in enumerate(estimate.stages):
        sizes = (stage.weights_bytes, stage.optimizer_bytes, stage.activations_bytes, stage.total_bytes)
        last = f" to {stage.last - 1}" if stage.last - stage.first > 1 else ""
        numbers = [_size(size) for size in sizes]
        table.add_row(str(number), f"{stage.first}{last}", f"{stage.num_parameters:,}", *numbers)
    return table


def layouts_table(result: SearchResult) -> Table:
    """The best layouts that `parallel=auto` found, and how many it dropped for which reason."""
    shown = result.ranked[:MOST_SHOWN]
    table = Table(title=escape(f"layouts of '{result.name}'"), title_justify="left", caption_justify="left")
    table.caption = "\n".join(_left_out(result, len(shown)))
    for heading in ("", "layout", "at once"):
        table.add_column(heading, no_wrap=True)
    for heading in ("memory", "step", "compute", "bubble", "model", "stages", "data"):
        table.add_column(heading, justify="right", no_wrap=True)
    for number, candidate in enumerate(shown, start=1):
        table.add_row(str(number), *_layout_row(candidate))
    return table


def _layout_row(candidate: Candidate) -> list[str]:
    cost = candidate.cost
    parts = (
        cost.total_s, cost.compute_s, cost.bubble_s, cost.model_s, cost.point_to_point_s, cost.data_s,
    )  # fmt: skip
    at_once = f"{candidate.layout.batch_size_per_device} x {candidate.layout.num_micro_batches}"
    return [candidate.name, at_once, _size(candidate.memory_bytes), *(_time(part) if part else "-" for part in parts)]


def _time(seconds: float) -> str:
    """Such as ``0.54 ms`` or ``2.62 s``."""
    return f"{seconds * 1e3:.3g} ms" if seconds < 0.9995 else f"{seconds:,.2f} s"


def _size(number: float) -> str:
    """Such as ``0.1 MiB`` or ``57.2 GiB``."""
    return f"{number / MIB:.1f} MiB" if number < GIB else f"{number / GIB:,.1f} GiB"


def _work(flops: float, unit: str) -> str:
    """A number of FLOPs in a unit, or in PFLOP if it is very large."""
    scale = {"GFLOP": 1e9, "TFLOP": 1e12}[unit]
    return f"{flops / scale:.3g} {unit}" if flops < 1e5 * scale else f"{flops / 1e15:,.1f} PFLOP"


def _left_out(result: SearchResult, num_shown: int) -> Iterator[str]:
    yield "at once: examples of a micro-batch x micro-batches; memory: the rank that needs most; times: estimates of one step."
    yield "communication, model: between ranks that share layers; stages: between stages; data: between replicas, not overlapped."
    if (slower := len(result.ranked) - num_shown) > 0:
        yield f"{slower} more fit and are slower."
    for reason, number in sorted(result.dropped.items(), key=lambda pair: -pair[1]):
        yield f"{number} dropped, {reason.partition(';')[0]}"


def _duration(seconds: float) -> str:
    """Such as ``00:05:10`` or ``3 d 04:05:10``."""
    days, rest = divmod(round(seconds), 86400)
    if seconds < 1:
        return "under a second"
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days:,} d {clock}" if days else clock


def _epoch_texts(plan: Plan) -> tuple[str, str]:
    if plan.num_train is None:
        return "?", "known when the data is read"
    return f"{plan.num_train:,}", f"{plan.steps_per_epoch:,} steps per epoch"


def _epochs_text(plan: Plan) -> str:
    return f"{plan.num_steps / plan.steps_per_epoch:.2f} epochs" if plan.steps_per_epoch else ""


def _batch_arithmetic(plan: Plan) -> str:
    replicas, pieces = plan.num_shards, f"{plan.num_accumulation} accumulated"
    if plan.topology.pipe > 1:
        pieces = f"{plan.num_accumulation} micro-batches"
    who = "device" if plan.topology.world == 1 else "replica" if replicas == 1 else "replicas"
    return f"= {replicas} {who} x {pieces} x {plan.batch_size_per_device} at once"
