"""Finds and reads the files of a data set of Hugging Face on this disk. Imports neither torch nor `datasets`.

`Dataset.save_to_disk` writes a folder with ``state.json`` and Arrow files, `DatasetDict.save_to_disk` one such folder for each
split. In the local cache of `load_dataset`, all splits are files in one folder, such as ``NAME-train.arrow``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

if TYPE_CHECKING:
    import pyarrow as pa

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
            tables[-1].validate(full=True)  # a damaged length would end the process when the cells are read
        except (pa.ArrowException, OSError) as err:
            raise ValueError(f"{file.name} is no Arrow file of datasets: {err}") from err
    whole = pa.concat_tables(tables)
    is_nested = any(pa.types.is_nested(each.type) for each in whole.schema)
    table = pd.DataFrame(whole.to_pylist(), columns=whole.column_names) if is_nested else whole.to_pandas()
    for name, classes in _find_classes(whole.schema).items():
        numbers = whole.column(name).to_pylist()  # pandas makes floats of those beside a missing one
        if max(filter(None, numbers), default=0) >= len(classes):
            raise ValueError(
                f"column {name!r} has a class of the number {max(filter(None, numbers))}, but {len(classes)} names"
            )
        table[name] = [None if number is None or number < 0 else classes[number] for number in numbers]
    return table


def _find_classes(schema: pa.Schema) -> dict[str, list[str]]:
    """The names of the classes of each column of whole numbers that has classes.

    Raises:
        ValueError: the description in the file is damaged.
    """
    import pyarrow as pa

    try:
        features: Any = (
            json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        )
        named = {
            name: [str(each) for each in feature["names"]]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
        }
    except (ValueError, AttributeError, TypeError, RecursionError) as err:
        raise ValueError(f"its description of the columns is damaged ({err})") from err
    whole_numbers = {
        each.name for each in schema if pa.types.is_integer(each.type) and schema.get_field_index(each.name) >= 0
    }  # the index is -1 for a name that two columns have
    return {name: classes for name, classes in named.items() if name in whole_numbers}


def _find_in(folder: Path) -> list[Path]:
    if (folder / STATE).is_file():
        try:
            state = json.loads((folder / STATE).read_text("utf-8"))
            files = [folder / Path(each["filename"]).name for each in state["_data_files"]]
            missing = [file.name for file in files if not file.is_file()]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as err:
            raise ValueError(f"{folder / STATE} cannot be read ({err}); save the data set again") from err
        if missing or not files:
            raise ValueError(
                f"{folder} lacks {repr(missing[0]) if missing else 'files'}, which {STATE} must name; copy the whole folder, or "
                "save the data set again"
            )
        return files
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
