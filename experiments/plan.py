"""What follows from a configuration and its hardware, or every reason why it cannot run. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.faults import PlanError
from experiments.secrets import resolve

POSITIVE = (
    "batch_size_global", "batch_size_per_device", "batch_size_eval", "max_steps", "max_epochs", "eval_every_steps",
    "log_every_steps", "grad_clip_norm", "checkpoint.every_steps", "checkpoint.keep_last", "hardware.nodes",
    "hardware.devices_per_node", "hardware.cpu_threads", "hardware.memory_gb", "hardware.peak_tflops",
)  # fmt: skip
NOT_NEGATIVE = ("seed", "num_data_workers", "schedule.warmup_steps")


@dataclass(frozen=True)
class Plan:
    """Every derived number, computed once."""

    name: str
    num_devices: int
    batch_size_global: int
    batch_size_per_device: int
    """Examples that one device holds at once."""
    num_accumulation: int
    """Micro-batches of one update on one device."""
    num_train: int | None
    """Examples of the training split; None where only reading it tells."""
    steps_per_epoch: int | None
    num_steps: int
    """Updates of the whole training."""
    num_evaluations: int
    num_checkpoints: int


def make_plan(config: dict[str, Any]) -> Plan:
    """Do the arithmetic of a run.

    Raises:
        PlanError: with every problem that was found.
    """
    problems = _out_of_range(config) + _data_problems(config) + _device_problems(config)
    if not problems:
        problems = _batch_problems(config) + _length_problems(config)
    if problems:
        raise PlanError(problems, f"the plan for '{config['name']}'")
    devices = config["hardware"]["nodes"] * config["hardware"]["devices_per_node"]
    batch_size = config["batch_size_global"]
    share = batch_size // devices
    per_device = config["batch_size_per_device"] or share
    num_train = config["data"].get("num_train")
    steps_per_epoch = num_train // batch_size if num_train else None
    num_steps = config["max_steps"] or config["max_epochs"] * steps_per_epoch
    return Plan(
        name=config["name"],
        num_devices=devices,
        batch_size_global=batch_size,
        batch_size_per_device=per_device,
        num_accumulation=share // per_device,
        num_train=num_train,
        steps_per_epoch=steps_per_epoch,
        num_steps=num_steps,
        num_evaluations=-(-num_steps // config["eval_every_steps"]),
        num_checkpoints=-(-num_steps // config["checkpoint"]["every_steps"]),
    )


def _select(config: dict[str, Any], key: str) -> Any:
    node: Any = config
    for name in key.split("."):
        node = node.get(name) if isinstance(node, dict) else None
    return node


def _out_of_range(config: dict[str, Any]) -> list[str]:
    problems = []
    for keys, least, rule in ((POSITIVE, 0, "more than 0"), (NOT_NEGATIVE, -1, "0 or more")):
        for key in keys:
            value = _select(config, key)
            if isinstance(value, (int, float)) and not value > least:
                problems.append(f"{key}={value} is not {rule}; write a larger number")
    efficiency = config["hardware"]["efficiency"]
    if not 0 < efficiency <= 1:
        problems.append(f"hardware.efficiency={efficiency} is no part of 1; write a number such as 0.3")
    best = config["checkpoint"]["best_metric"]
    if best is not None and not best.startswith("val/"):
        problems.append(f"checkpoint.best_metric={best} is no metric of the evaluation; name one such as val/loss_nats")
    return problems


def _data_problems(config: dict[str, Any]) -> list[str]:
    """Files that are not there, before anything queues; their content is checked when they are read."""
    data = config["data"]
    if not {"root", "folder", "files"} <= data.keys():
        return []
    folder = Path(resolve(data["root"])).expanduser() / data["folder"]
    missing = [name for name in data["files"] if not (folder / name).is_file()]
    if not missing:
        return []
    return [
        f"data.folder={data['folder']}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not in {folder}; "
        "put the files there or point LATHE_DATA at a folder that has them (`lathe data` names their source)"
    ]


def _device_problems(config: dict[str, Any]) -> list[str]:
    hardware = config["hardware"]
    devices = hardware["nodes"] * hardware["devices_per_node"]
    if config["parallel"]["_target_"] == "modules.parallel.single.Single" and devices > 1:
        given = f"nodes={hardware['nodes']} x devices_per_node={hardware['devices_per_node']}"
        return [f"hardware {given} are {devices} devices, and parallel=single uses one; set both to 1"]
    return []


def _batch_problems(config: dict[str, Any]) -> list[str]:
    hardware, batch_size = config["hardware"], config["batch_size_global"]
    devices = hardware["nodes"] * hardware["devices_per_node"]
    problems = []
    if batch_size % devices:
        problems.append(
            f"batch_size_global={batch_size} cannot be split over {devices} devices; try {_multiples(batch_size, devices)}"
        )
    elif (micro := config["batch_size_per_device"]) and (batch_size // devices) % micro:
        share = batch_size // devices
        problems.append(
            f"batch_size_per_device={micro} does not divide the device's share of batch_size_global={batch_size}, {share}; "
            f"try {_divisors(share, micro)}"
        )
    num_train = config["data"].get("num_train")
    if num_train and batch_size > num_train:
        problems.append(f"batch_size_global={batch_size} is more than the {num_train} training examples; lower it")
    return problems


def _length_problems(config: dict[str, Any]) -> list[str]:
    max_steps, max_epochs = config["max_steps"], config["max_epochs"]
    if (max_steps is None) == (max_epochs is None):
        return [
            f"max_steps={max_steps or 'null'} and max_epochs={max_epochs or 'null'}: exactly one says how long to train; "
            f"{'give one' if max_steps is None else 'set the other to null'}"
        ]
    num_train = config["data"].get("num_train")
    if max_epochs and not num_train:
        return [f"max_epochs={max_epochs} needs data.num_train, the number of training examples; give it, or max_steps"]
    num_steps = max_steps or max_epochs * (num_train // config["batch_size_global"])
    warmup = config["schedule"].get("warmup_steps") or 0
    if warmup > num_steps:
        named = f"max_steps={max_steps}" if max_steps else f"max_epochs={max_epochs} ({num_steps} steps)"
        return [f"schedule.warmup_steps={warmup} is longer than {named}; lower the one or raise the other"]
    return []


def _multiples(value: int, step: int) -> str:
    below, above = value // step * step, -(-value // step) * step
    return f"{below} or {above}" if below else str(above)


def _divisors(share: int, wanted: int) -> str:
    known = [d for d in range(1, share + 1) if share % d == 0]
    below, above = max(d for d in known if d <= wanted), min((d for d in known if d >= wanted), default=share)
    return f"{below} or {above}" if below != above else str(below)
