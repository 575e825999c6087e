"""Loads an exported model for MLflow, with the code in its folder, where this file is named `lathe_loader.py`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CODE = "code/lathe"
"""The folder of an exported model with a copy of its packages."""


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> Any:
    """Load the predictor of an exported model; MLflow requires this name.

    Args:
        path: folder of the weights, two levels below the model.
        model_config: ``device``, where the model computes.
    """
    data = Path(path).resolve()
    root = data.parents[1] / CODE
    prefix = "lathe." if (root / "lathe" / "experiments").is_dir() else ""
    folder = root / prefix.replace(".", "/") / "experiments" / "tracking" / "model"
    name = "raw_predictor" if (folder / "raw_predictor.py").is_file() else "predictor"
    with _import_own_code(root):
        predictor = importlib.import_module(f"{prefix}experiments.tracking.model.{name}")
        return predictor.load(data, str((model_config or {}).get("device", "auto")))


@contextmanager
def _import_own_code(root: Path) -> Iterator[None]:
    """Import the packages in ``root`` from there, even if others of the same names are installed or imported.

    Two models with different code can then be loaded in one process, also in one that trains with Lathe. If no other code
    has these names, the code of the model stays importable: its functions may import when they are called.
    """
    names = {entry.stem for entry in root.iterdir()}

    def imported() -> dict[str, Any]:
        return {name: module for name, module in sys.modules.items() if name.partition(".")[0] in names}

    before = imported()
    for name in before:
        del sys.modules[name]
    others = bool(before) or any(importlib.util.find_spec(name) for name in names)
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # the folder may belong to a store
    sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes
        if others:
            sys.path.remove(str(root))
            for name in imported():
                del sys.modules[name]
            sys.modules.update(before)
