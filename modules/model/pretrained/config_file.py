"""Reads the `config.json` of a folder that `save_pretrained` of transformers wrote. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAX_BYTES = 4_000_000
DROPPED = ("transformers_version", "dtype", "torch_dtype", "auto_map", "quantization_config", "attn_implementation")
"""Keys that say nothing about the architecture, or that would load code: weights train in fp32, see `precision`."""


def find_auto_values(model: Mapping[str, Any]) -> dict[str, Any]:
    """The argument ``config`` of `HuggingFace`.

    Raises:
        ValueError: the folder has no `config.json`, or one that cannot be used.
    """
    folder = model.get("folder")
    if not isinstance(folder, str):
        raise ValueError(
            "model.config=auto needs a folder with config.json; set init_from.weights=FOLDER, or only model.folder=FOLDER for "
            "random weights"
        )
    path = Path(folder).expanduser() / "config.json"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("it is too large")
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise ValueError(
            f"model.folder={folder}: there is no {path}; name a folder that save_pretrained of transformers wrote"
        ) from err
    except (OSError, ValueError, RecursionError) as err:
        raise ValueError(f"model.folder={folder}: {path} cannot be read ({err}); copy the folder again") from err
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ValueError(f"model.folder={folder}: {path} has no model_type, so it is no model of transformers")
    if "${" in json.dumps(config):
        raise ValueError(f"model.folder={folder}: {path} has a text with '${{', which would be a reference; remove it")
    return {"config": {key: value for key, value in config.items() if key not in DROPPED and not key.startswith("_")}}
