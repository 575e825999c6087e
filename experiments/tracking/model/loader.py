"""What MLflow calls to load an exported model, with the code that lies beside it; there it is named `lathe_loader.py`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CODE = "code/lathe"
"""Below an exported model: the packages that it is made of, as they were when it was exported."""


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> Any:
    """The predictor in ``path``, the folder of the weights.

    Args:
        path: two folders below that of the model.
        model_config: ``device``, where it computes.
    """
    data = Path(path).resolve()
    with _import_own_code(data.parents[1] / CODE):
        predictor = importlib.import_module("experiments.tracking.model.predictor")
        return predictor.load(data, str((model_config or {}).get("device", "auto")))


@contextmanager
def _import_own_code(root: Path) -> Iterator[None]:
    """Import from ``root`` alone what it has, whatever of the same names is installed or imported already.

    Two models of different code can so be loaded beside each other, and beside a Lathe that trains. Where there is no
    other code of these names, the model's stays importable, as functions may import when they are called.
    """
    names = {entry.stem for entry in root.iterdir()}

    def imported() -> dict[str, Any]:
        return {name: module for name, module in sys.modules.items() if name.partition(".")[0] in names}

    before = imported()
    for name in before:
        del sys.modules[name]
    others = bool(before) or any(importlib.util.find_spec(name) for name in names)
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # the folder may be a store's
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
