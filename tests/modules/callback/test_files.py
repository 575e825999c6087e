"""Files that trackers show."""

from __future__ import annotations

import io
import json
import wave

import pytest
import torch
from PIL import Image

from modules.callback.files import count_values, draw_histograms, make_histograms, make_image, make_sound, make_text

SPARSE = torch.sparse_coo_tensor(torch.tensor([[0, 0, 4]]), torch.tensor([1.0, 2.0, 9.0]), (6,), check_invariants=False)


def test_images_are_a_grid_and_small_ones_are_enlarged() -> None:
    images = torch.zeros(5, 1, 16, 32)
    images[3] = 2.0  # cut off at 1
    picture = Image.open(io.BytesIO(make_image(images)))
    assert picture.size == (2 * 64 + 2, 3 * 32 + 2 * 2)
    assert [picture.getpixel(place) for place in ((70, 40), (10, 10))] == [(255, 255, 255), (0, 0, 0)]


@pytest.mark.parametrize("shape", [(2, 4, 5, 6), (3, 5, 6), (0, 1, 5, 6)], ids=str)
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"images must be \[images, 1 or 3, height, width\]"):
        make_image(torch.zeros(shape))


def test_a_sound_is_a_wav_file() -> None:
    with wave.open(io.BytesIO(make_sound(torch.tensor([0.0, 0.5, 3.0]), 16000)), "rb") as file:
        assert (file.getframerate(), file.getnframes(), file.getsampwidth()) == (16000, 3, 2)
        assert file.readframes(3) == b"\x00\x00\x00\x40\xff\x7f"


def test_texts_of_several_lines_are_paragraphs() -> None:
    assert make_text(["a", "ä"]) == "a\nä\n".encode()
    assert make_text(["a", "b\nc"]) == b"a\n\nb\nc\n"


@pytest.mark.parametrize(
    ("values", "counts", "num_not_finite"),
    [
        (torch.tensor([0.0, 0.1, 0.9, 1.0]), [2, 0, 2], 0),
        (torch.tensor([2.0, 2.0]), [2, 0, 0], 0),
        (torch.tensor([1.0, float("nan"), float("inf"), 4.0]), [1, 0, 1], 2),
        (torch.tensor([float("nan")]), [0, 0, 0], 1),
        (torch.tensor([[0, 1]]).bfloat16(), [1, 0, 1], 0),
        (SPARSE, [1, 0, 1], 0),
    ],
    ids=["plain", "equal", "not finite", "nothing finite", "bf16", "sparse"],
)
def test_values_are_counted(values: torch.Tensor, counts: list[int], num_not_finite: int) -> None:
    histogram = count_values(values, 3)
    assert (histogram.counts, histogram.num_not_finite) == (counts, num_not_finite)
    content = json.loads(make_histograms({"a": histogram}))
    assert content["a"]["counts"] == counts
    assert Image.open(io.BytesIO(draw_histograms([{"a" * 99: histogram}, {}]))).size == (600, 76)
