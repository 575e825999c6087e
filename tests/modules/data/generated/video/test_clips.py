import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modules.data.base import END, IGNORED, START, DataError, StreamShard, UserInputError
from modules.data.generated.video.clips import DIRECTIONS
from modules.data.generated.video.descriptions import NUM_PHRASINGS, Fact, describe, find_facts
from modules.data.sampling.example_random import ExampleRandom, example_seeds
from tests.support.clips import NAMES, make_clips


def test_clips_do_not_depend_on_replicas_and_look_like_the_example(tmp_path: Path) -> None:
    for data in (make_clips(tmp_path), make_clips(tmp_path, class_names=NAMES)):
        train = data.load("train")
        whole = torch.utils._pytree.tree_leaves(train.batch(1, StreamShard(0, 1, 4), 0))
        halves = [torch.utils._pytree.tree_leaves(train.batch(1, StreamShard(n, 2, 2), 0)) for n in range(2)]
        for number, (together, *parts) in enumerate(zip(whole, *halves, strict=True)):
            if together.shape != (4,):  # pair ids count within a batch
                assert torch.equal(together, torch.cat(parts)), number
        blank = torch.utils._pytree.tree_leaves(data.example(4))
        assert [(each.shape, each.dtype) for each in whole] == [(each.shape, each.dtype) for each in blank]


def test_images_move_along_one_axis_and_bounce(tmp_path: Path) -> None:
    data = make_clips(tmp_path)
    movement = data.move(ExampleRandom(example_seeds(0, 0, 200)), num_frames=12)
    assert set(movement.directions.unique().tolist()) == set(range(len(DIRECTIONS)))
    assert movement.corners.min() == 0
    assert movement.corners.max() == data.room
    steps = movement.corners.diff(dim=2)
    assert steps.abs().max() <= 2
    signs = torch.tensor(list(DIRECTIONS.values()))[movement.directions]
    assert (steps[signs[:, :, None].expand_as(steps) == 0] == 0).all(), "along one axis"
    first = (movement.corners[:, :, 3] - movement.corners[:, :, 0]).sign()
    assert torch.equal(first[signs != 0], signs[signs != 0]), "in its direction, before it bounces"
    moved_back = (movement.corners[:, :, -2:].diff(dim=2)[:, :, 0].sign() == -signs).any(2) & (signs != 0).any(2)
    assert (movement.returned[moved_back] > 0).all()


def test_overlapping_images_show_the_brighter_pixel(tmp_path: Path) -> None:
    data = make_clips(tmp_path)
    images = torch.tensor([0.2, 0.7])[None, :, None, None].expand(1, 2, 3, 3)
    corners = torch.tensor([[[[0, 0]], [[1, 2]]]])
    (frame,) = data.draw(images, corners)[0, 0]
    expected = torch.zeros(10, 10)
    expected[:3, :3], expected[1:4, 2:5] = 0.2, 0.7
    assert torch.equal(frame, expected)


def test_splits_show_different_images(tmp_path: Path) -> None:
    data = make_clips(tmp_path)
    assert [len(data.images(split)[0]) for split in ("train", "val", "test")] == [27, 3, 7]
    assert data.images("val")[1].tolist() == [0, 1, 2]


def test_sentences_state_the_facts_of_their_clip(tmp_path: Path) -> None:
    data = make_clips(tmp_path, class_names=NAMES)
    (_, tokens), (following, numbers) = data.load("test").batch(torch.arange(40), torch.zeros(40))
    assert numbers.tolist() == list(range(5, 45))
    seen = set()
    for row, after, number in zip(tokens, following, numbers.tolist(), strict=True):
        pair = data.pair(number)
        assert (pair.split, pair.index) == ("test", number - 5)
        assert row[0] == START
        after = after[after != IGNORED]
        assert after[-1] == END
        assert data.target_text(after) in pair.references
        (facts,) = {tuple(find_facts(text, NAMES)) for text in pair.references}
        assert facts == tuple(sorted(data.facts("test")[number - 5]))
        seen |= set(facts)
    assert {fact.turns for fact in seen} == {False, True}


def test_facts_of_other_sentences_differ() -> None:
    facts = [Fact("ant", "left", True), Fact("bee", "still", False)]
    for phrasing in range(NUM_PHRASINGS):
        assert find_facts(describe(facts, phrasing), NAMES) == facts
        assert find_facts(describe(facts[::-1], phrasing), NAMES) == facts
    for wrong in (
        "the ant goes left and then turns back",
        "the ant goes left while the bee stands still",
        "ant ant",
        "",
    ):
        assert find_facts(wrong, NAMES) != facts


def test_a_picture_of_frames_is_read(tmp_path: Path) -> None:
    pixels = np.arange(4)[None].repeat(8, 0).repeat(8, 1).astype(np.uint8) * 51
    Image.fromarray(pixels).save(tmp_path / "strip.png")
    frames = make_clips(tmp_path).read([str(tmp_path / "strip.png")])
    assert frames.shape == (1, 4, 1, 10, 10)
    assert frames[0, :, 0, 5, 5].tolist() == pytest.approx([0, 0.2, 0.4, 0.6], abs=0.01)
    described = make_clips(tmp_path, class_names=NAMES, num_seen_frames=4).read([str(tmp_path / "strip.png")])
    assert described[1].tolist() == [[START]]
    with pytest.raises(UserInputError, match="32 x 8 pixels, but the model reads 6 square frames"):
        make_clips(tmp_path, num_seen_frames=6).read([str(tmp_path / "strip.png")])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frame_size": 3}, "room of 0"),
        ({"min_speed": 3.0}, "in this order"),
        ({"num_predicted_frames": 0}, "num_predicted_frames of at least 1"),
        ({"class_names": ["ant", "ant"]}, "different single words"),
        ({"class_names": ["left"]}, r"change \['left'\]"),
        ({"class_names": NAMES, "target_vocab_size": 10}, "data.target_vocab_size=2"),
        ({"files": {"a": None}}, "wants data.files"),
    ],
)
def test_wrong_options_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        make_clips(tmp_path, **changes)


def test_missing_damaged_and_odd_files_are_reported(tmp_path: Path) -> None:
    labels = tmp_path / "set" / "train-labels-idx1-ubyte.gz"
    data = make_clips(tmp_path, class_names=NAMES[:2])
    with pytest.raises(DataError, match=r"label 2, but data\.class_names has 2 names"):
        data.load("train")
    data = make_clips(tmp_path)
    labels.write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x01\0"))
    with pytest.raises(DataError, match="1 labels for 30 images"):
        data.load("val")
    labels.unlink()
    with pytest.raises(DataError, match="missing"):
        data.load("train")
    assert len(data.load("test")) == 40, "other files are not read"
