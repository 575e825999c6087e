"""Finds and reads the files of a data set of Hugging Face on this disk. Imports neither torch nor `datasets`.

`Dataset.save_to_disk` writes a folder with ``state.json`` and Arrow files, `DatasetDict.save_to_disk` one such folder for each
split. In the local cache of `load_dataset`, all splits are files in one folder, such as ``NAME-train.arrow``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

STATE: Final = "state.json"
NAMES: Final = {"train": ("train",), "val": ("validation", "valid", "val", "dev"), "test": ("test",)}
"""Names of the splits, the usual one first."""


def find_arrow_files(path: Path) -> list[Path]:
    """The files of a split; none if the path is a file of another format.

    Args:
        path: of a folder: the training split if it has several. ``FOLDER/SPLIT`` names another split of any layout.

    Raises:
        ValueError: the folder has no data set, or several.
    """
    if path.is_dir():
        return _find_in(path)
    if path.suffix == ".arrow" and path.is_file():
        return [path]
    return [] if path.exists() or not path.parent.is_dir() else _list_split(path.parent, path.name)


def find_splits(path: Path) -> dict[str, str]:
    """The names of the splits for validation and test that a folder has; none of a file of another format.

    Raises:
        ValueError: as `find_arrow_files`.
    """
    files = find_arrow_files(path)
    if not files:
        return {}
    train = files[0].parent
    folder = train if not (train / STATE).is_file() else train.parent
    return {
        split: name
        for split in ("val", "test")
        for name in [next((name for name in NAMES[split] if find_arrow_files(folder / name)), None)]
        if name is not None and (folder == train or train != path)
    }


def read_arrow(files: Sequence[Path]) -> pd.DataFrame:
    """Read Arrow files; a class becomes its name, and a class that is not known (-1) a missing value.

    Raises:
        ValueError: a file is damaged.
    """
    import pyarrow as pa

    tables = []
    for file in files:
        try:
            with pa.memory_map(str(file)) as source:
                tables.append(pa.ipc.open_stream(source).read_all())
        except (pa.ArrowInvalid, OSError) as err:
            raise ValueError(f"{file.name} is no Arrow file of datasets: {err}") from err
    whole = pa.concat_tables(tables)
    is_nested = any(pa.types.is_nested(each.type) for each in whole.schema)
    table = pd.DataFrame(whole.to_pylist(), columns=whole.column_names) if is_nested else whole.to_pandas()
    for name, classes in _find_classes(whole.schema.metadata or {}).items():
        table[name] = [classes[number] if pd.notna(number) and number >= 0 else None for number in table[name]]
    return table


def _find_classes(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """The names of the classes of each column that has classes."""
    features: Any = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    return {
        name: feature["names"]
        for name, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
    }


def _find_in(folder: Path) -> list[Path]:
    if (folder / STATE).is_file():
        try:
            names = [each["filename"] for each in json.loads((folder / STATE).read_text("utf-8"))["_data_files"]]
        except (ValueError, KeyError, TypeError) as err:
            raise ValueError(f"{folder / STATE} cannot be read ({err})") from err
        return [folder / Path(name).name for name in names]
    if found := _list_split(folder, "train"):
        return found
    below = {file.parent for file in folder.rglob("*.arrow")}
    inner = sorted({each.parent if (each / STATE).is_file() and each.parent != folder else each for each in below})
    if len(inner) == 1:
        return _find_in(inner[0])
    found_names = ", ".join(str(each.relative_to(folder)) for each in inner[:5]) or "no Arrow file"
    raise ValueError(
        f"{folder} has {found_names}; name a folder that save_to_disk of datasets wrote, with one training split"
    )


def _list_split(folder: Path, name: str) -> list[Path]:
    """The files of a split below a folder with several."""
    if (folder / name / STATE).is_file():
        return _find_in(folder / name)
    alone = [folder / f"{name}.arrow"] if (folder / f"{name}.arrow").is_file() else []
    return alone or sorted([*folder.glob(f"*-{name}.arrow"), *folder.glob(f"*-{name}-*-of-*.arrow")])
