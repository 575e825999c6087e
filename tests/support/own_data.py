"""Small data of a user: a table, a text, folders of photos and recordings, and what to choose with them."""

from __future__ import annotations

import wave
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
        "audio_folder": [f"data.folder={write_sounds(folder)}", "data.num_bands=8", "batch_size_global=4"],
    }
