"""Recordings named by what they say: single words to classify, and texts that are put together from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from modules.data.audio.recording_set import RecordingSet
from modules.data.audio.spoken_texts import SpokenTexts
from modules.data.audio.spoken_words import SpokenWords
from modules.data.base import END, IGNORED, PADDING, START, ComponentWarning, DataError, HasReferences, UserInputError
from tests.support.own_data import write_sound

WORDS, SPEAKERS, NUM_TAKES, RATE = ("go", "stop", "turn_left"), ("ann", "bob"), 4, 2000
SET: dict[str, Any] = {
    "folder": "spoken", "files": {"a.npz": None}, "pattern": "{word}_{who}_{take}.wav", "label": "word", "split_by": "take",
    "val_values": [2], "test_values": [3], "sample_rate": RATE,
}  # fmt: skip
CHANGES: dict[str, Any] = {
    "num_bands": 5,
    "mean": -4.0,
    "std": 4.0,
    "speed": 0.2,
    "gain_db": 6.0,
    "noise": 0.1,
    "mask_bands": 2,
    "mask_frames": 3,
}
ONE: dict[str, Any] = {
    **SET, **CHANGES, "clip_s": 0.08, "image_shape": [1, 5, 9], "num_features": 45, "num_classes": 4,
}  # fmt: skip
SEVERAL: dict[str, Any] = {
    **SET, **CHANGES, "speaker": "who", "num_words": [2, 3], "num_train_words": None, "pause_s": [0.01, 0.02], "max_s": 1.0,
    "num_train": 12, "num_val": 3, "num_test": 5, "vocab_size": 7,
}  # fmt: skip


def make_members(rate: int = RATE) -> dict[str, Any]:
    rows = [(word, who, take) for word in WORDS for who in SPEAKERS for take in range(NUM_TAKES)]
    sounds = [
        np.sin(np.arange(rate * (6 + take) // 100) * (0.5 + WORDS.index(word))) * 9000 + len(who)
        for word, who, take in rows
    ]
    return {
        "pcm": np.concatenate(sounds).astype(np.int16),
        "offsets": np.cumsum([0, *map(len, sounds)]),
        "rate": rate,
        "word": np.array([word for word, _, _ in rows]),
        "who": np.array([who for _, who, _ in rows]),
        "take": np.array([take for _, _, take in rows], np.uint8),
    }


def save(root: Path, members: dict[str, Any], name: str = "a.npz") -> str:
    (root / "spoken").mkdir(exist_ok=True)
    np.savez(root / "spoken" / name, **members)
    return str(root)


@pytest.fixture
def root(tmp_path: Path) -> str:
    return save(tmp_path, make_members())


def write_files(root: Path, pattern: str = "{word}_{who}_{take}.wav") -> str:
    for word in WORDS:
        for who in SPEAKERS:
            for take in range(NUM_TAKES):
                path = root / "spoken" / pattern.format(word=word, who=who, take=take)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_sound(path, 300, 0.06, RATE)
    return str(root)


def get_batch(data: Any, split: str, count: int, seed: int = 0) -> Any:
    return data.load(split).batch(torch.arange(count), torch.arange(count) + seed)


def test_single_words_are_images_with_a_class(root: str) -> None:
    data = SpokenWords(root, **ONE)
    assert [len(data.load(split)) for split in ("train", "val", "test")] == [12, 6, 6]
    images, targets = get_batch(data, "test", 6)
    assert data.class_names == list(WORDS)
    assert images.shape == (6, 1, 5, 9)
    assert targets.tolist() == [0, 0, 1, 1, 2, 2]
    example = data.example(6)
    assert isinstance(example[0], Tensor)
    assert example[0].shape == images.shape


def test_training_recordings_change_with_the_seed_alone(root: str) -> None:
    data = SpokenWords(root, **ONE)
    once, again, other = (get_batch(data, "train", 4, seed)[0] for seed in (0, 0, 9))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert torch.equal(get_batch(data, "val", 4)[0], get_batch(data, "val", 4, 9)[0])
    alone = data.load("train").batch(torch.tensor([2]), torch.tensor([2]))[0]
    torch.testing.assert_close(alone[0], once[2], rtol=0, atol=1e-5)


def test_no_speaker_is_in_two_splits_if_the_set_is_divided_by_speakers(tmp_path: Path) -> None:
    members = make_members()
    members["who"] = np.array(
        ["cy" if take == 3 else who for who, take in zip(members["who"], members["take"], strict=True)]
    )
    changes = {"split_by": "who", "val_values": ["bob"], "test_values": ["cy"]}
    data = SpokenWords(save(tmp_path, members), **{**ONE, **changes})
    for split, speakers in (("train", {"ann"}), ("val", {"bob"}), ("test", {"cy"})):
        assert {each.fields["who"] for each in data.load(split).recordings} == speakers


@pytest.mark.parametrize("pattern", ["{word}_{who}_{take}.wav", "{word}/{who}_nohash_{take}.wav"])
def test_wav_files_are_found_by_their_names(tmp_path: Path, pattern: str) -> None:
    root = write_files(tmp_path, pattern)
    (tmp_path / "spoken" / "readme.txt").write_text("no recording")
    data = SpokenWords(root, **{**ONE, "files": None, "pattern": pattern})
    with pytest.warns(ComponentWarning, match=r"1 files of .* are left out: readme.txt"):
        images, targets = get_batch(data, "val", 6)
    assert data.class_names == list(WORDS), "a word may have an underscore"
    assert targets.tolist() == [0, 0, 1, 1, 2, 2]
    own = tmp_path / "spoken" / pattern.format(word="go", who="bob", take=2)
    torch.testing.assert_close(data.read([str(own)])[0], images[1])


def test_archives_of_another_rate_are_resampled(tmp_path: Path) -> None:
    set_ = RecordingSet(save(tmp_path, make_members(2 * RATE)), **SET)
    assert [each.num_samples for each in set_.find("test")[:2]] == [RATE * 9 // 100] * 2


def test_labels_that_are_numbers_come_in_their_order(tmp_path: Path) -> None:
    members = make_members()
    members["word"] = np.array([{"go": 10, "stop": 9, "turn_left": 100}[word] for word in members["word"]])
    assert RecordingSet(save(tmp_path, members), **SET).labels == ["9", "10", "100"]


def test_texts_are_put_together_from_one_speaker(root: str) -> None:
    data = SpokenTexts(root, **SEVERAL)
    assert isinstance(data, HasReferences)
    (features, lengths, shifted), (target, numbers) = get_batch(data, "test", 5)
    assert features.shape == (5, int(lengths.max()), 5)
    assert shifted[:, 0].tolist() == [START] * 5
    for row, number in zip(target, numbers.tolist(), strict=True):
        pair = data.pair(number)
        words = pair.references[0].split()
        assert 2 <= len(words) <= 3
        assert row[row != IGNORED].tolist() == [*(4 + WORDS.index(word) for word in words), END]
        assert data.target_text(row) == pair.references[0]
        assert len({name.removesuffix(".wav").split("_")[-2] for name in pair.source.split(" + ")}) == 1
        assert {name.removesuffix(".wav").split("_")[-1] for name in pair.source.split(" + ")} == {"3"}
    torch.testing.assert_close(features, get_batch(data, "test", 5, 9)[0][0])
    is_padding = torch.arange(features.shape[1]) >= lengths[:, None]
    assert not features[is_padding].any()


def test_training_texts_stay_and_their_pauses_change(root: str) -> None:
    data = SpokenTexts(root, **SEVERAL)
    once, other = (get_batch(data, "train", 12, seed) for seed in (0, 9))
    assert torch.equal(once[1][0], other[1][0])
    assert once[0][0].shape != other[0][0].shape or not torch.equal(once[0][0], other[0][0])
    order = data.load("train").order(3, torch.Generator().manual_seed(0))
    assert sorted(order.tolist()) == list(range(12))
    example = data.example(2)
    assert [each.dtype for each in example[0]] == [each.dtype for each in once[0][:3]]


def test_long_texts_are_cut_to_whole_words(root: str) -> None:
    data = SpokenTexts(root, **{**SEVERAL, "max_s": 0.19, "speaker": None})
    split = data.load("train")
    assert {len(each) for each in split.utterances} == {2}, "three words take at least 3 x (0.06 + 0.02) s"
    assert int(split.num_samples.max()) <= 0.19 * RATE


def test_a_recording_of_a_user_is_read_as_in_training(root: str, tmp_path: Path) -> None:
    write_sound(tmp_path / "own.wav", 300, 0.2, RATE)
    data = SpokenTexts(root, **SEVERAL)
    features, lengths, start = data.read([str(tmp_path / "own.wav")])
    assert lengths.tolist() == [features.shape[1]]
    assert start.tolist() == [[START]]
    data.restore_reader(["<pad>", "<s>", "</s>", "<unk>", "x"])
    assert data.target_text(torch.tensor([4, 4, END, 4])) == "x x"
    assert data.save_reader()[PADDING] == "<pad>"
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    with pytest.raises(UserInputError, match="convert it to a WAV file, or leave it out"):
        data.read([str(tmp_path / "bad.wav")])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"label": "digit"},
            r"data.label='digit' is not a field of data.pattern=.*; name one of its fields \(word, who, take\)",
        ),
        ({"split_by": "x"}, "data.split_by='x' is not a field"),
        ({"pattern": "{word}_{word}_{take}.wav"}, "has a field twice"),
        ({"val_values": [3]}, "must be different values of take"),
        ({"test_values": []}, "at least one of each"),
        ({"sample_rate": 5}, "data.sample_rate=5 is not from 1000"),
        ({"num_classes": 0}, "num_classes of at least 1"),
        ({"clip_s": 0.5}, r"make data.image_shape=\[1, 5, 51\] and data.num_features=255"),
        ({"speed": 1.5}, "speed in"),
    ],
)
def test_wrong_options_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpokenWords("/nowhere", **{**ONE, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speaker": "x"}, "data.speaker='x' is not a field"),
        ({"num_words": [3, 2]}, r"data.num_words=\[3, 2\] is not a smallest and a largest"),
        ({"pause_s": [0.1]}, r"data.pause_s=\[0.1\] is not"),
        ({"max_s": 0}, "max_s from 0.1"),
        ({"vocab_size": 4}, "vocab_size of at least 5"),
    ],
)
def test_wrong_options_of_texts_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpokenTexts("/nowhere", **{**SEVERAL, **changes})


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"pcm": None}, "it has no 'pcm"),
        ({"word": None}, "it has no 'word"),
        ({"offsets": np.array([0, 10**9])}, "its offsets do not fit its"),
        ({"offsets": np.array([0, 5, 5])}, "recording 1 has no samples"),
        ({"offsets": np.array([0, 5, 9])}, "it has 2 recordings, but another number of"),
        ({"rate": 0}, "its rate is 0"),
        ({"pcm": np.zeros((3, 3), np.int16)}, "its pcm is int16 with 2 dimensions"),
        ({"pcm": np.zeros(9000, np.uint8)}, "its pcm is uint8"),
        ({"pcm": np.full(9000, 1e30, np.float32)}, "it has samples that are not from"),
        ({"word": np.full((24, 2), "go")}, "another number of"),
        ({"pcm": np.full(9000, np.nan, np.float32)}, "are not finite"),
        ({"word": np.array(["go"] * 3)}, "it has 24 recordings, but another number of"),
    ],
)
def test_odd_archives_are_refused(tmp_path: Path, members: dict[str, Any], message: str) -> None:
    changed = {name: each for name, each in {**make_members(), **members}.items() if each is not None}
    with pytest.raises(DataError, match=f"a.npz is damaged or of another format .*{message}.*fetch it again"):
        SpokenWords(save(tmp_path, changed), **ONE).load("train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_values": [7]}, r"no recording has one of data.test_values=\['7'\] as its take; the set has 0, 1, 2, 3"),
        ({"num_classes": 2}, "has 3 different values of word, but data.num_classes=2; .*; set data.num_classes=3"),
        ({"files": None}, "none of the 1 files of .* is named like .*a.npz.*correct data.pattern"),
        ({"files": None, "folder": "gone"}, "is no folder; the set needs a folder of WAV files"),
        ({"files": {"b.npz": None}}, "b.npz is missing"),
    ],
)
def test_sets_that_do_not_fit_are_refused(root: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        SpokenWords(root, **{**ONE, **changes}).load("test")


def test_sets_without_training_recordings_and_damaged_files_are_refused(tmp_path: Path, root: str) -> None:
    with pytest.raises(DataError, match="no recording is left to train on"):
        SpokenWords(root, **{**ONE, "test_values": [0, 1, 3]}).load("train")
    with pytest.raises(DataError, match=r"data.vocab_size=6; .*; set data.vocab_size=7"):
        SpokenTexts(root, **{**SEVERAL, "vocab_size": 6}).load("val")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "go_ann_1.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"go_ann_1.wav cannot be read as a recording .*; replace or remove it"):
        SpokenWords(root, **{**ONE, "files": None, "folder": "damaged"}).load("train")
