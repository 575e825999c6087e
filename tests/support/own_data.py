"""Small data of a user: tables, a text, folders of photos and recordings, and what to choose with them."""

from __future__ import annotations

import json
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

REGRESSION = ("model=mlp", "objective=regression", "evaluator=regression")
LANGUAGE = ("model=gpt_nano", "evaluator=perplexity")


def write_table(folder: Path, num_rows: int = 200) -> Path:
    """A table with numbers, texts and empty cells; its price is nearly linear in the area."""
    path = folder / "houses.csv"
    noise = np.random.RandomState(0).normal(size=num_rows)
    cells = [
        f"{n % 90 + 30 if n % 11 else ''},{'Rome' if n % 3 else 'Oslo'},{2 * (n % 90) + 50 * (n % 3) + noise[n]:.2f}"
        for n in range(num_rows)
    ]
    path.write_text("\n".join(["area,city,price", *cells]) + "\n")
    return path


def write_text(folder: Path) -> Path:
    path = folder / "book.txt"
    path.write_text("Once upon a time there was a small house in a large wood. " * 60)
    return path


def write_photos(folder: Path, per_class: int = 10) -> Path:
    """Photos of two classes, without folders for the splits."""
    for number, name in enumerate(("ant", "bee")):
        (folder / "pets" / name).mkdir(parents=True)
        for photo in range(per_class):
            Image.new("RGB", (12, 10 + photo), (200 * number, 20 * photo, 9)).save(
                folder / "pets" / name / f"{photo}.png"
            )
    return folder / "pets"


def write_sound(path: Path, hertz: float, seconds: float, rate: int = 8000) -> None:
    """A tone as a WAV file of 16 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(
            (np.sin(2 * np.pi * hertz / rate * np.arange(int(rate * seconds))) * 9000).astype("<i2").tobytes()
        )


def write_sounds(folder: Path, per_class: int = 10) -> Path:
    """Tones of two classes, without folders for the splits."""
    for name, hertz in (("low", 300), ("high", 1500)):
        for take in range(per_class):
            write_sound(folder / "sounds" / name / f"{take}.wav", hertz + 9 * take, 0.1)
    return folder / "sounds"


def write_reviews(folder: Path, num_rows: int = 40) -> Path:
    """JSON lines with a text, a number and a class, which follows from a word of the text."""
    path = folder / "reviews.jsonl"
    rows = [
        {
            "text": f"It was a {('dull', 'great')[n % 2]} film, number {n}",
            "stars": n % 7 / 2,
            "label": ("bad", "good")[n % 2],
        }
        for n in range(num_rows)
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def write_saved_dataset(
    folder: Path, splits: Sequence[str] = ("train", "validation", "test"), layout: str = "dict"
) -> Path:
    """The reviews in each split, in the files that `datasets` writes: a `DatasetDict`, one `Dataset` or the cache."""
    import pyarrow as pa

    rows = [json.loads(line) for line in write_reviews(folder).read_text().splitlines()]
    names = ["bad", "good"]
    features = {"label": {"names": names, "_type": "ClassLabel"}, "text": {"dtype": "string", "_type": "Value"}}
    table = pa.table(
        {
            "text": [row["text"] for row in rows],
            "stars": [row["stars"] for row in rows],
            "label": [names.index(row["label"]) for row in rows],
        }
    ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    saved = folder / "saved"
    for split in splits:
        own = saved / split if layout == "dict" and len(splits) > 1 else saved
        own.mkdir(parents=True, exist_ok=True)
        name = f"reviews-{split}.arrow" if layout == "cache" else "data-00000-of-00001.arrow"
        with pa.OSFile(str(own / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
        if layout == "dict":
            (own / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    return saved


def write_pairs(folder: Path, num_rows: int = 40) -> Path:
    """A table with questions and answers."""
    path = folder / "pairs.csv"
    rows = (f"Who owns house {number}?,Owner {number} does.\n" for number in range(num_rows))
    path.write_text("question,answer\n" + "".join(rows))
    return path


def write_all(folder: Path) -> dict[str, list[str]]:
    """Write all; returns the overrides that go with each option of the group `data`."""
    return {
        "csv": [f"data.path={write_table(folder)}", "data.target=price", *REGRESSION],
        "text": [f"data.path={write_text(folder)}", *LANGUAGE, "batch_size_global=4"],
        "image_folder": [
            f"data.folder={write_photos(folder)}",
            "data.image_size=8",
            "data.resize_size=9",
            "batch_size_global=4",
        ],
        "jsonl": [f"data.path={write_reviews(folder)}", "data.target=label", "model=mlp", "batch_size_global=4"],
        "huggingface": [
            f"data.path={write_saved_dataset(folder)}",
            "data.target=label",
            "model=mlp",
            "batch_size_global=4",
        ],
        "text_pairs": [
            f"data.path={write_pairs(folder)}",
            "data.source=question",
            "data.target=answer",
            "model=seq2seq_attention",
            "evaluator=perplexity",
            "batch_size_global=4",
        ],
        "audio_folder": [f"data.folder={write_sounds(folder)}", "data.num_bands=8", "batch_size_global=4"],
    }
