"""Settings of the fuzz tests: the same examples in every run, and at most 2 GB more memory than before.

CI takes a minute for all of them; with LATHE_LONG=1 each tries a hundred times as many examples.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.variants import IS_LONG

MAX_MORE_BYTES = 2 << 30

settings.register_profile(
    "lathe", derandomize=True, deadline=None, database=None, max_examples=6000 if IS_LONG else 60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)  # fmt: skip
settings.load_profile("lathe")


@pytest.fixture(autouse=True, scope="module")
def _limited_memory() -> Iterator[None]:
    """An input that takes gigabytes ends in a MemoryError, which is no error of the project's own."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MAX_MORE_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
