"""The environment of a trial: installed packages and the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=1)
def installed_packages() -> dict[str, str]:
    """Name and version of every installed distribution."""
    versions = {
        dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions() if dist.metadata["Name"]
    }
    return dict(sorted(versions.items(), key=lambda item: item[0].lower()))


def describe_machine() -> dict[str, Any]:
    """The Python and the host of this process."""
    return {
        "python": platform.python_version(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
    }
