"""CIDEr-D by hand, and metrics, texts and pictures of captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from modules.data.captions.captioned_photos import CaptionedPhotos
from modules.evaluator.texts.captions import Captions
from modules.evaluator.texts.cider import CiderD
from modules.model.captions.attention_captioner import AttentionCaptioner
from modules.model.resnet import ResNet
from tests.support.captions import FILES, write_captions


def test_cider_counts_rare_words_and_the_length() -> None:
    cider = CiderD([["a b"], ["a c", "a c"]])  # "a" is of all photos, so it weighs 0
    assert cider.score("a b", ["a b"]) == pytest.approx(10 * (1 + 1) / 4)
    assert cider.score("a b b", ["a b"]) == pytest.approx(10 * (0.5 + 0.5**0.5) / 4 * 2.718281828 ** (-1 / 72))
    assert cider.score("a b", ["a b", "a c"]) == pytest.approx(2.5)
    assert cider.score("a", ["a b"]) == cider.score("", ["a b"]) == cider.score("x", ["a b"]) == 0
    assert CiderD([["a b"]]).score("a b", ["a b"]) == 0, "one photo has no rare words"


@pytest.fixture
def data(tmp_path: Path) -> CaptionedPhotos:
    write_captions(tmp_path)
    return CaptionedPhotos(
        str(tmp_path), "set", FILES, num_train=None, num_val=1, num_test=1, shuffle_seed=0, photo_size=9,
        image_shape=[3, 8, 8], num_features=192, flip=True, turn=False, vocab_size=16, min_count=1, max_tokens=4,
    )  # fmt: skip


def test_training_draws_captions_and_evaluation_takes_the_first(data: CaptionedPhotos) -> None:
    train, rows = data.load("train"), torch.zeros(20, dtype=torch.int64)
    _, (targets, numbers) = train.batch(rows, torch.arange(20))
    texts = {data.target_text(row[row >= 0]) for row in targets}
    assert texts == {"deep water .", "a boat on the"}, "the second is longer than max_tokens"
    assert data.pair(int(numbers[0])).source == "one"
    (_, shifted), (first, _) = data.load("test").batch(torch.tensor([0]), torch.tensor([5]))
    assert data.target_text(first[0]) == "<unk> <unk> ."
    assert shifted[0, 0] == 1
    assert shifted[0, 1:].tolist() == first[0, :-1].tolist()


def test_captions_have_a_constant_beside_them_and_become_pictures(data: CaptionedPhotos, tmp_path: Path) -> None:
    options: dict[str, Any] = {"beam_size": 2, "length_alpha": 0.0, "max_tokens": 5, "tokenize": "none"}
    evaluator = Captions(**options, num_examples=None, num_examples_logged=3)
    evaluator.setup(data)
    pairs = [data.pair(0), data.pair(3)]
    assert len(evaluator.count_batch(["deep water .", "a boat ."], pairs)) == evaluator.num_counts
    assert evaluator.constant in {text for photo in data.references("train") for text in photo}
    network = ResNet([3, 8, 8], 1, num_blocks=[1, 1], base_channels=4, stem_size=3, stem_stride=1, stem_pool=False)
    model = AttentionCaptioner(network, "layer2", [3, 8, 8], 16, 4, 6, 5, 4, 0.0).eval()
    test = data.load("test")
    sums = evaluator.update_with_model(model, test.batch(torch.tensor([0]), torch.tensor([0])))
    assert set(evaluator.compute_with_model(model, sums)) == {"bleu", "cider_d", "bleu_constant", "cider_d_constant"}
    files = evaluator.artifacts(model, test)
    assert set(files) == {"captions.txt", "captions.png", "attention.png"}
    photo = tmp_path / "photo.png"
    photo.write_bytes(files["captions.png"])
    restored = CaptionedPhotos.__new__(CaptionedPhotos)
    restored.crop = data.crop
    restored.restore_reader(data.save_reader())
    (prediction,) = Captions(**options, num_examples=None, num_examples_logged=0).predict(model, restored, [str(photo)])
    assert prediction.details == {"caption": prediction.text}
    assert prediction.files["attention.png"].startswith(b"\x89PNG")


def test_data_without_captions_are_refused() -> None:
    with pytest.raises(ValueError, match="wants a data set"):
        Captions(1, 0.0, 5, "none", None, 0).setup(object())  # type: ignore[arg-type]
