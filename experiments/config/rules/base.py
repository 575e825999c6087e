"""What every validation rule uses: a view of the valid values of a configuration. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from experiments.config.rules.engine import DeclaredEngine, read_engine
from modules.parallel.topology import Meaning

POSITIVE = (
    "batch_size_global", "batch_size_per_device", "batch_size_eval", "max_epochs", "eval_every_steps",
    "log_every_steps", "system_every_s", "grad_clip_norm", "checkpoint.every_steps", "checkpoint.keep_last", "hardware.nodes",
    "stop_timeout_s", "overfit_batches", "notify.stall_min",
    "hardware.devices_per_node", "hardware.cpu_threads", "hardware.cpu_cores", "hardware.memory_gb", "hardware.peak_tflops",
    "hardware.link_gb_per_s", "hardware.link_latency_us", "hardware.network_gb_per_s", "hardware.network_latency_us",
    "data.num_train",
)  # fmt: skip
NOT_NEGATIVE = ("max_steps", "seed", "num_data_workers", "schedule.warmup_steps")
ENGINE_POSITIVE: tuple[Meaning, ...] = (
    "pipe", "data", "model", "num_servers", "group_size", "push_every_steps", "pull_every_steps", "snapshot_every_steps",
)  # fmt: skip
"""Settings of an engine, by meaning."""
ENGINE_NOT_NEGATIVE: tuple[Meaning, ...] = ("num_backup_workers", "max_staleness", "warm_start_steps")
MAY_BE_FRACTIONS = (
    "system_every_s", "grad_clip_norm", "stop_timeout_s", "notify.stall_min", "hardware.memory_gb", "hardware.peak_tflops",
    "hardware.link_gb_per_s", "hardware.link_latency_us", "hardware.network_gb_per_s", "hardware.network_latency_us",
)  # fmt: skip


class NotApplicable(Exception):
    """A rule needs a value that is missing or has an error of its own."""


@dataclass(frozen=True)
class ConfigView:
    """The valid values of a configuration; any other access raises `NotApplicable`."""

    config: dict[str, Any]
    reported: Collection[str]

    def get(self, key: str, *kinds: type) -> Any:
        """The value, if its type is one of ``kinds``."""
        if any(fault == key or fault.startswith((f"{key}.", f"{key}[")) for fault in self.reported):
            raise NotApplicable
        node: Any = self.config
        for name in key.split("."):
            if not isinstance(node, dict) or name not in node:
                raise NotApplicable
            node = node[name]
        if type(node) not in kinds:
            raise NotApplicable
        return node

    def integer(self, key: str) -> int:
        """A whole number within its range."""
        value: int = self.get(key, int)
        if self.out_of_range(key) is not None:
            raise NotApplicable
        return value

    def integer_or_none(self, key: str) -> int | None:
        """A whole number within its range, or None for null."""
        return None if self.get(key, int, type(None)) is None else self.integer(key)

    def argument(self, part: str, name: str) -> int | None:
        """A whole number that is an optional argument of a component; None if it is null or missing."""
        return self.integer_or_none(f"{part}.{name}") if name in self.get(part, dict) else None

    @cached_property
    def engine(self) -> DeclaredEngine:
        return read_engine(self.config)

    def setting(self, meaning: Meaning, *kinds: type) -> Any:
        """The value of a setting of the engine, by its meaning, if its type is one of ``kinds``."""
        if not self.engine.has(meaning):
            raise NotApplicable
        key = self.engine.key(meaning)
        if key.removeprefix("parallel.") in self.engine.node:
            return self.get(key, *kinds)
        value = self.engine.get(meaning)
        if type(value) not in kinds:
            raise NotApplicable
        return value

    def setting_integer(self, meaning: Meaning) -> int:
        """A whole number within its range."""
        value: int = self.setting(meaning, int)
        if self.out_of_range(self.engine.key(meaning)) is not None:
            raise NotApplicable
        return value

    def positive_keys(self) -> list[str]:
        return [*POSITIVE, *map(self.engine.key, filter(self.engine.has, ENGINE_POSITIVE))]

    def not_negative_keys(self) -> list[str]:
        return [*NOT_NEGATIVE, *map(self.engine.key, filter(self.engine.has, ENGINE_NOT_NEGATIVE))]

    def devices(self) -> int:
        return self.integer("hardware.nodes") * self.integer("hardware.devices_per_node")

    def hardware(self) -> str:
        """The number of devices as a product, for messages."""
        return f"nodes={self.integer('hardware.nodes')} x devices_per_node={self.integer('hardware.devices_per_node')}"

    def out_of_range(self, key: str) -> str | None:
        try:
            value = self.get(key, *((int, float) if key in MAY_BE_FRACTIONS else (int,)))
        except NotApplicable:
            return None
        if key in self.positive_keys() and not value > 0:
            return f"{key}={value} is not more than 0; write a larger number"
        if key in self.not_negative_keys() and value < 0:
            return f"{key}={value} is not 0 or more; write a larger number"
        return None
