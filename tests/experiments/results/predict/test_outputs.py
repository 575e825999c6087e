"""Files of predictions are named after their inputs, and never overwrite each other."""

from __future__ import annotations

from pathlib import Path

from experiments.results.predict.outputs import PredictionWriter
from modules.evaluator.base import Prediction


def test_no_file_overwrites_another(tmp_path: Path) -> None:
    writer = PredictionWriter("image", tmp_path, None)
    inputs = ["a.jpg", "a_2.jpg", "more/a.jpg", "b.png", "more/b.png", "b_2.png"]
    writer.show(inputs, [Prediction("", files={"mask.png": path.encode()}) for path in inputs])
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == sorted(inputs)
    assert (tmp_path / "a_2.mask.png").read_text() == "a_2.jpg"
