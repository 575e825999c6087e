"""Files of predictions are named after their inputs, and never overwrite each other; predictions with a score are ranked."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.results.predict.outputs import PredictionWriter
from modules.evaluator.base import Prediction


def test_no_file_overwrites_another(tmp_path: Path) -> None:
    writer = PredictionWriter("image", tmp_path, None)
    inputs = ["a.jpg", "a_2.jpg", "more/a.jpg", "b.png", "more/b.png", "b_2.png"]
    writer.show(inputs, [Prediction("", files={"mask.png": path.encode()}) for path in inputs])
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == sorted(inputs)
    assert (tmp_path / "a_2.mask.png").read_text() == "a_2.jpg"


def test_predictions_with_a_score_are_printed_at_the_end_by_their_score(capsys: pytest.CaptureFixture[str]) -> None:
    writer = PredictionWriter("image", None, None)
    writer.show(["a", "b"], [Prediction("low", score=-2.0), Prediction("best", score=1.0)])
    writer.show(["c"], [Prediction("middle", score=0.0)])
    assert capsys.readouterr().out == ""
    writer.close()
    assert capsys.readouterr().out == "b\tbest\nc\tmiddle\na\tlow\n"
