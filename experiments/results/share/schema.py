"""The closed schema of a shared file: every key of it, with its type and meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class File:
    """The root; the keys stand in this order."""

    lathe_share: int
    """Version of this format."""
    name: str
    note: str | None
    how_to_run: list[str]
    """For people; nothing reads it."""
    configuration: dict[str, Any]
    """Resolved; where it runs is said by the local defaults, so that the receiver decides."""
    trial_id: str
    overrides: list[str]
    """What the configuration was composed of; for people."""
    code: list[dict[str, Any]]
    """A `Code` for every checkout that took part."""
    environment: Environment
    data: DataSection
    seeds: dict[str, int]
    expected: Expected
    bundle: dict[str, str] | None
    """SHA-256 of every other file of the archive; null where this file is alone."""


@dataclass
class Code:
    """One checkout."""

    name: str
    sha256: str
    """Over the commit and everything by which the checkout differed from it."""
    git_sha: str | None
    dirty: bool | None
    """Whether it differed from its commit; null outside git."""
    diff: str | None
    """File of the bundle's folder ``code`` that holds the differences; null where there is none, or no bundle."""
    untracked: str | None
    """Likewise with the files that git did not know."""
    branch: str | None = None
    """Of files from before: it may bear somebody's name, and nothing needs it."""


@dataclass
class Environment:
    """What it ran on."""

    python: str
    platform: str
    torch: str | None
    device_name: str | None
    cpu_capability: str | None
    cpu_threads: int | None
    packages: dict[str, str]


@dataclass
class DataSection:
    """Which data it read."""

    files: dict[str, str] | None
    """SHA-256 by name, where the configuration states them."""
    num_files: int | None
    names_and_sizes_sha256: str | None
    splits: dict[str, Any]
    """A `SplitSection` by name."""


@dataclass
class SplitSection:
    """One split of the data, as the run read it."""

    digest: str
    num_examples: int


@dataclass
class Expected:
    """What came out."""

    metrics: dict[str, Any]
    """`Points` by name, of those metrics that a repetition gives again; thinned."""


@dataclass
class Points:
    """Points of one metric."""

    steps: list[int]
    values: list[float]
