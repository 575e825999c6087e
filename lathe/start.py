"""Runs one of Lathe's modules in a process of its own: `python -P PATH/lathe/start.py MODULE ARGUMENT...`.

Processes start this file by its path, so that no package on PYTHONPATH can take the place of Lathe's.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path


def import_lathe() -> None:
    """Import the package `lathe` that this file belongs to, which pins Lathe's packages."""
    spec = importlib.util.spec_from_file_location("lathe", Path(__file__).with_name("__init__.py"))
    assert spec is not None
    assert spec.loader is not None
    package = sys.modules["lathe"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)


def run(module: str) -> None:
    """Run a module of Lathe as `python -m` does. Its arguments are in `sys.argv`.

    Args:
        module: its name in a checkout, such as ``experiments.cli``.
    """
    import_lathe()
    from lathe.names import PREFIX

    runpy.run_module(f"{PREFIX}{module}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    del sys.argv[0]
    run(sys.argv[0])
