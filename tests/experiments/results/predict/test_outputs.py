"""Files of answers are named for their inputs, and none takes another's place."""

from __future__ import annotations

from pathlib import Path

from experiments.results.predict.outputs import Printed
from modules.evaluator.base import Prediction


def test_no_file_takes_the_place_of_another(tmp_path: Path) -> None:
    printed = Printed("image", tmp_path, None)
    given = ["a.jpg", "a_2.jpg", "more/a.jpg", "b.png", "more/b.png", "b_2.png"]
    printed.show(given, [Prediction("", files={"mask.png": path.encode()}) for path in given])
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == sorted(given)
    assert (tmp_path / "a_2.mask.png").read_text() == "a_2.jpg"
