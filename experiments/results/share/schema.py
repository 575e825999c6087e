"""The closed schema of a shared file: every key with its type and meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class SharedFileSchema:
    """The root; `lathe share` writes the keys in this order."""

    lathe_share: int
    """Version of this format."""
    name: str
    description: str | None
    how_to_run: list[str]
    """For readers; Lathe ignores it."""
    configuration: dict[str, Any]
    """Resolved; the settings of a machine have their local defaults, so that the receiver chooses them."""
    trial_id: str
    overrides: list[str]
    """The overrides that the run was composed with; for readers."""
    code: list[CodeSection]
    """One entry per checkout."""
    environment: EnvironmentSection
    data: DataSection
    seeds: dict[str, int]
    expected: ExpectedSection
    bundle: dict[str, str] | None
    """SHA-256 of every other file of the archive, by name; null outside an archive."""


@dataclass
class CodeSection:
    """One checkout."""

    name: str
    sha256: str
    """Of the commit and all uncommitted changes."""
    git_sha: str | None
    dirty: bool | None
    """Whether it had uncommitted changes; null outside git."""
    diff: str | None
    """File in the folder ``code`` of the archive with the changes; null without changes or without an archive."""
    untracked: str | None
    """The same for untracked files."""


@dataclass
class EnvironmentSection:
    """The environment of the run."""

    python: str
    platform: str
    torch: str | None
    device_name: str | None
    cpu_capability: str | None
    cpu_threads: int | None
    packages: dict[str, str]


@dataclass
class DataSection:
    """The data that the run read."""

    files: dict[str, str] | None
    """SHA-256 by file name, where the configuration states them."""
    num_files: int | None
    names_and_sizes_sha256: str | None
    splits: dict[str, SplitSection]


@dataclass
class SplitSection:
    """One split of the data."""

    digest: str
    num_examples: int


@dataclass
class ExpectedSection:
    """The results of the run."""

    metrics: dict[str, PointsSection]
    """Only metrics that a repetition reproduces."""


@dataclass
class PointsSection:
    """Up to 200 points of one metric."""

    steps: list[int]
    values: list[float]
