"""What follows from a configuration and its hardware, or every reason why it cannot run. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.faults import PlanError
from experiments.secrets import resolve

POSITIVE = (
    "batch_size_global", "batch_size_per_device", "batch_size_eval", "max_steps", "max_epochs", "eval_every_steps",
    "log_every_steps", "grad_clip_norm", "checkpoint.every_steps", "checkpoint.keep_last", "hardware.nodes",
    "hardware.devices_per_node", "hardware.cpu_threads", "hardware.memory_gb", "hardware.peak_tflops",
    "data.num_train",
)  # fmt: skip
NOT_NEGATIVE = ("seed", "num_data_workers", "schedule.warmup_steps")
MAY_BE_FRACTIONS = ("grad_clip_norm", "hardware.memory_gb", "hardware.peak_tflops")
LARGEST = 2**63 - 1  # what torch counts with; a seed is only hashed
FARTHEST = 10_000
"""How far a number that would do is looked for; farther away it helps nobody."""


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
    problems = find_problems(config)
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


def find_problems(config: dict[str, Any], told: Collection[str] = ()) -> list[str]:
    """Every reason why a configuration cannot run, as far as it can be judged: it may itself be faulty.

    Args:
        config: keys may be missing, and values of the wrong kind; whoever composed it has told of those.
        told: further keys whose value is not what it looks like, or may not be shown.
    """
    facts = _Facts(config, told)
    problems = [problem for key in (*POSITIVE, *NOT_NEGATIVE) if (problem := facts.out_of_range(key)) is not None]
    for rule in RULES:
        try:
            problem = rule(facts)
        except _NotJudgedError:  # what is wrong with the numbers it needs is told
            continue
        if problem is not None:
            problems.append(problem)
    return problems


class _NotJudgedError(Exception):
    """A rule needs a value that has a fault of its own."""


@dataclass(frozen=True)
class _Facts:
    """The values of a configuration that can be relied on."""

    config: dict[str, Any]
    told: Collection[str]

    def get(self, key: str, *kinds: type) -> Any:
        """The value of one of these kinds."""
        if any(fault == key or fault.startswith((f"{key}.", f"{key}[")) for fault in self.told):
            raise _NotJudgedError
        node: Any = self.config
        for name in key.split("."):
            if not isinstance(node, dict) or name not in node:
                raise _NotJudgedError
            node = node[name]
        if type(node) not in kinds:
            raise _NotJudgedError
        return node

    def whole(self, key: str) -> int:
        """A whole number in its range."""
        value: int = self.get(key, int)
        if self.out_of_range(key) is not None:
            raise _NotJudgedError
        return value

    def whole_or_none(self, key: str) -> int | None:
        """A whole number in its range; None where it is null."""
        return None if self.get(key, int, type(None)) is None else self.whole(key)

    def argument(self, part: str, name: str) -> int | None:
        """A whole number that a part may be given; None where it is null or not given."""
        return self.whole_or_none(f"{part}.{name}") if name in self.get(part, dict) else None

    def devices(self) -> int:
        return self.whole("hardware.nodes") * self.whole("hardware.devices_per_node")

    def out_of_range(self, key: str) -> str | None:
        try:
            value = self.get(key, *((int, float) if key in MAY_BE_FRACTIONS else (int,)))
        except _NotJudgedError:
            return None
        if key in POSITIVE and not value > 0:
            return f"{key}={value} is not more than 0; write a larger number"
        if key in NOT_NEGATIVE and value < 0:
            return f"{key}={value} is not 0 or more; write a larger number"
        if isinstance(value, int) and value > LARGEST and key != "seed":
            return f"{key}={value} is more than 2^63 - 1, the largest whole number; write a smaller one"
        return None


def _efficiency(facts: _Facts) -> str | None:
    efficiency = facts.get("hardware.efficiency", int, float)
    if 0 < efficiency <= 1:
        return None
    return f"hardware.efficiency={efficiency} is no part of 1; write a number such as 0.3"


def _best_metric(facts: _Facts) -> str | None:
    best = facts.get("checkpoint.best_metric", str)
    if best.startswith("val/"):
        return None
    return f"checkpoint.best_metric={best} is no metric of the evaluation; name one such as val/loss_nats"


def _files(facts: _Facts) -> str | None:
    """Files that are not there, before anything queues; their content is checked when they are read."""
    root, name, files = facts.get("data.root", str), facts.get("data.folder", str), facts.get("data.files", list, dict)
    try:
        folder = Path(resolve(root)).expanduser() / name
    except KeyError as err:
        return f"data.root={root} needs the environment variable {err.args[0]}; `export {err.args[0]}=...`"
    missing = [file for file in files if isinstance(file, str) and not (folder / file).is_file()]
    if not missing:
        return None
    return (
        f"data.folder={name}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not in {folder}; "
        "put the files there or point LATHE_DATA at a folder that has them (`lathe data` names their source)"
    )


def _one_device(facts: _Facts) -> str | None:
    if not _is_too_many(facts):
        return None
    hardware = facts.config["hardware"]
    given = f"nodes={hardware['nodes']} x devices_per_node={hardware['devices_per_node']}"
    return f"hardware {given} are {facts.devices()} devices, and parallel=single uses one; set both to 1"


def _is_too_many(facts: _Facts) -> bool:
    return facts.get("parallel._target_", str) == "modules.parallel.single.Single" and facts.devices() > 1


def _split(facts: _Facts) -> str | None:
    batch_size, devices = facts.whole("batch_size_global"), facts.devices()
    if batch_size % devices == 0 or _is_too_many(facts):
        return None
    return (
        f"batch_size_global={batch_size} cannot be split over {devices} devices; try {_multiples(batch_size, devices)}"
    )


def _micro_batch(facts: _Facts) -> str | None:
    batch_size, devices = facts.whole("batch_size_global"), facts.devices()
    micro = facts.whole_or_none("batch_size_per_device")
    share = batch_size // devices
    if micro is None or batch_size % devices or share % micro == 0 or _is_too_many(facts):
        return None
    whole = f"batch_size_global={batch_size}"
    if share != batch_size:
        whole = f"{share}, the device's share of {whole}"
    return f"batch_size_per_device={micro} does not divide {whole}; try {_divisors(share, micro)}"


def _enough_examples(facts: _Facts) -> str | None:
    batch_size, num_train = facts.whole("batch_size_global"), facts.argument("data", "num_train")
    if num_train is None or batch_size <= num_train:
        return None
    return f"batch_size_global={batch_size} is more than the {num_train} training examples; lower it"


def _length(facts: _Facts) -> str | None:
    """One of the two says how long; told also where the one that is given is out of its range."""
    max_steps, max_epochs = (facts.get(key, int, type(None)) for key in ("max_steps", "max_epochs"))
    if (max_steps is None) != (max_epochs is None):
        return None
    steps, epochs = ("null" if value is None else value for value in (max_steps, max_epochs))
    way_out = "give one" if max_steps is None else f"write `max_steps=null max_epochs={epochs}`, or the other way round"
    return f"max_steps={steps} and max_epochs={epochs}: exactly one says how long to train; {way_out}"


def _epochs(facts: _Facts) -> str | None:
    max_epochs = facts.whole_or_none("max_epochs")
    if max_epochs is None or facts.get("max_steps", int, type(None)) is not None or facts.argument("data", "num_train"):
        return None
    return f"max_epochs={max_epochs} needs data.num_train, the number of training examples; give it, or max_steps"


def _warmup(facts: _Facts) -> str | None:
    max_steps, max_epochs = facts.whole_or_none("max_steps"), facts.whole_or_none("max_epochs")
    warmup = facts.argument("schedule", "warmup_steps") or 0
    if (max_steps is None) == (max_epochs is None):
        return None
    num_steps, named = max_steps, f"max_steps={max_steps}"
    if max_epochs is not None:
        num_steps = max_epochs * ((facts.argument("data", "num_train") or 0) // facts.whole("batch_size_global"))
        named = f"max_epochs={max_epochs} ({num_steps} steps)"
    if not num_steps or warmup <= num_steps:  # none: that the data are too few is told
        return None
    return f"schedule.warmup_steps={warmup} is longer than {named}; lower the one or raise the other"


RULES: tuple[Callable[[_Facts], str | None], ...] = (
    _efficiency, _best_metric, _files, _one_device, _split, _micro_batch, _enough_examples, _length, _epochs, _warmup,
)  # fmt: skip


def _multiples(value: int, step: int) -> str:
    below, above = value // step * step, -(-value // step) * step
    return f"{below} or {above}" if below else str(above)


def _divisors(share: int, wanted: int) -> str:
    """The nearest divisors on both sides; where none is near, 1 and the share, which always are."""
    start = min(wanted, share)
    below = next((d for d in range(start, max(0, start - FARTHEST), -1) if share % d == 0), 1)
    above = next((d for d in range(start, min(share, start + FARTHEST) + 1) if share % d == 0), share)
    return f"{below} or {above}" if below != above else str(below)
