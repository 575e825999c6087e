"""The fields of each kind of event, and what their values must be: of the journal of an attempt and the ledger of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.core.files.field_types import (
    Check,
    is_bool,
    is_count,
    is_int,
    is_map,
    is_name,
    is_number,
    is_number_map,
    is_one_of,
    is_text,
    is_time,
    matches,
    optional,
)  # fmt: skip  # isort: skip

Kinds = Mapping[str, Mapping[str, Check]]
JOURNAL: Kinds = {
    "state": {
        "state": is_one_of("running", "finished", "failed", "interrupted"), "step": is_count, "attempt": is_count,
        "host": is_text, "pid": is_count, "reason": optional(is_text),
    },
    "metrics": {"step": is_int, "metrics": is_number_map},
    "params": {"params": is_map},
    "artifact": {"path": is_text},
    "notification": {"on": is_text, "channel": is_text, "error": optional(is_text)},
    "data": {"name": is_text, "digest": is_text, "num_examples": is_count, "split": is_text},
}  # fmt: skip
LEDGER: Kinds = {
    "trial": {"trial": is_name, "point": is_count, "values": is_map, "seed": is_int, "reused": optional(is_map)},
    "claimed": {"trial": is_text, "attempt": is_count, "worker": is_name, "host": is_text, "devices": is_count},
    "ended": {
        "trial": is_text, "attempt": is_count, "step": is_count, "value": optional(is_number),
        "state": is_one_of("pending", "finished", "pruned", "failed", "cancelled"), "failure": optional(is_text),
        "reason": optional(is_text), "wasted": is_bool, "until": is_time,
    },
    "cancelled": {"trial": is_text, "reason": is_text},
    "again": {"trial": is_text},
    "reported": {"trial": is_text, "step": is_count, "value": is_number, "prune": is_bool, "rungs": is_map},
    "submitted": {"job": is_text, "workers": is_count},
    "submitting": {"workers": is_count},
    "refused": {},
    "closed": {"reason": is_text},
    "reopened": {},
}  # fmt: skip
_REUSED: Mapping[str, Check] = {"value": optional(is_number), "folder": is_text}


def is_valid(event: Any, kinds: Kinds) -> bool:
    """Whether a decoded line is an event with all the fields of its kind."""
    if not is_map(event) or not is_time(event.get("time")) or not is_text(event.get("event")):
        return False
    reused = event.get("reused")
    is_complete = event["event"] in kinds and matches(event, kinds[event["event"]])
    return is_complete and (event["event"] != "trial" or reused is None or matches(reused, _REUSED))
