"""Counts the tokens of a `tokenizer.json`. Imports no torch, see `locate`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules.data.own import columns
from modules.data.own.locate import find_root, sha256_of


def find_auto_values(data: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `PretrainedText` that its files determine; the tokenizer is below the current folder.

    Raises:
        ValueError: the text or the tokenizer is missing, or it is no tokenizer.
    """
    root = find_root(data, "path")
    return {"root": root, "files": {str(data["path"]): sha256_of(Path(root, str(data["path"])))}, **_count_tokens(data)}


def find_values_of_labelled_texts(data: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `LabelledTexts` that its files determine.

    Raises:
        ValueError: a file is missing, or is no table or tokenizer; or the table lacks a column.
    """
    text, path = str(data["text"]), str(data["path"])
    found = columns.find_auto_values({**data, "columns": {text: {}}, "kind": "classification"})
    names = columns.read_table(
        Path(found["root"], path), str(data["target"]), str(data["on_bad_example"])
    ).table.columns
    if text not in names:
        raise ValueError(
            f"data.text={text!r}: {path} has no such column; its columns are {', '.join(map(repr, names))}"
        )
    taken = ("root", "files", "classes", "num_classes", "num_train", "val_path", "test_path")
    return {name: found[name] for name in taken} | _count_tokens(data)


def _count_tokens(data: Mapping[str, Any]) -> dict[str, Any]:
    """Checksum and size of the tokenizer.

    Raises:
        ValueError: it is missing, or no tokenizer.
    """
    path = Path(str(data["tokenizer"])).expanduser() / "tokenizer.json"
    if not path.is_file():
        raise ValueError(
            f"data.tokenizer={data['tokenizer']}: there is no {path}; name a folder that save_pretrained of a fast tokenizer "
            "wrote"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        vocabulary = content["model"]["vocab"]
        ids = [*vocabulary.values()] if isinstance(vocabulary, dict) else [*range(len(vocabulary))]
        ids += [token["id"] for token in content.get("added_tokens") or ()]
        vocab_size = max(ids) + 1
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise ValueError(f"data.tokenizer={data['tokenizer']}: {path} is no tokenizer ({err}); save it again") from err
    return {"tokenizer_sha256": sha256_of(path), "vocab_size": vocab_size}
