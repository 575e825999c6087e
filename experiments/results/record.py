"""What is known of a run, wherever it comes from: a run folder, a shared file, an experiment that has not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.results.streams import Stream


@dataclass(frozen=True)
class Record:
    """Everything that two runs can differ by, as plain data."""

    name: str
    """As the user named it."""
    trial_id: str
    config: Mapping[str, Any]
    """Resolved; `${oc.env:NAME}` stands as it is."""
    code: Sequence[Mapping[str, Any]]
    """An entry a checkout, as `snapshot.snapshots` gives it: name, sha256, git_sha, dirty, diff, untracked."""
    environment: Mapping[str, Any]
    """python, platform, packages (by name), and what the run itself noted: cpu_threads, cpu_capability, device_name, torch."""
    data: Mapping[str, Any]
    """files (checksums by name, or None), and splits: by name digest and num_examples, where it has run."""
    streams: Mapping[str, Stream] = field(default_factory=dict)
    """Empty for an experiment that has not run."""
    run_key: str | None = None
