"""Recordings of a user: files of many encodings, and what a model gets of them."""

from __future__ import annotations

import struct
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from experiments.tracking.model.predictor import Predictor
from experiments.tracking.model.raw_predictor import RawPredictor
from modules.data.audio.audio_folder import AudioFolder
from modules.data.audio.log_mel import LogMel
from modules.data.audio.recording_folder import find_auto_values
from modules.data.audio.wav import WavError, read_header, read_wav
from modules.data.base import ComponentWarning, DataError, UserInputError
from modules.evaluator.accuracy import Accuracy
from tests.support.own_data import write_sound

TONE = np.sin(np.arange(800) / 9).astype(np.float64) * 0.5
CHOSEN: dict[str, Any] = {
    "num_bands": 10, "split_folders": "auto", "held_out_share": 0.1, "group_pattern": None, "fold": None, "num_folds": 5,
    "on_bad_example": "error", "skipped": "auto",
}  # fmt: skip
AUTO = ("num_train", "sample_rate", "clip_s", "image_shape", "num_features", "num_classes", "mean", "std")


def save(path: Path, content: bytes, form: int, bits: int, channels: int = 1, rate: int = 8000) -> Path:
    """A WAV file by hand, with a chunk of odd length that a reader must pass over."""
    frame = channels * bits // 8
    parts = struct.pack("<4sI3sx", b"note", 3, b"abc")
    head = struct.pack("<4sIHHIIHH", b"fmt ", 16, form, channels, rate, min(rate * frame, 2**32 - 1), frame, bits)
    parts = b"WAVE" + head + parts + struct.pack("<4sI", b"data", len(content)) + content
    path.write_bytes(struct.pack("<4sI", b"RIFF", len(parts)) + parts)
    return path


def describe(folder: Path, **changes: Any) -> dict[str, Any]:
    """All arguments of the data set, with those that are `auto` found."""
    data = {**CHOSEN, **dict.fromkeys(AUTO, "auto"), "root": str(folder.parent), "folder": folder.name, **changes}
    return {**data, "augment": True} | {
        key: value for key, value in find_auto_values(data).items() if data[key] == "auto"
    }


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """Two classes, each by two speakers, of 4 to 13 ms times 10."""
    for name in ("high", "low"):
        for speaker in ("ann", "bob"):
            for take in range(5):
                write_sound(
                    tmp_path / "sounds" / name / f"{speaker}_{take}.wav",
                    440 if name == "low" else 1500,
                    0.1 + 0.02 * take,
                )
    return tmp_path / "sounds"


@pytest.mark.parametrize(
    ("form", "bits", "encode"),
    [
        (1, 8, lambda x: (x * 127 + 128).round().astype(np.uint8).tobytes()),
        (1, 16, lambda x: (x * 32767).astype("<i2").tobytes()),
        (1, 24, lambda x: (x * 2**31).astype("<i4").view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()),
        (1, 32, lambda x: (x * 2**31).astype("<i4").tobytes()),
        (3, 32, lambda x: x.astype("<f4").tobytes()),
        (3, 64, lambda x: x.astype("<f8").tobytes()),
    ],
)  # fmt: skip
def test_encodings_and_channels_give_the_same_samples(tmp_path: Path, form: int, bits: int, encode: Any) -> None:
    mono = save(tmp_path / "a.wav", encode(TONE), form, bits)
    assert np.allclose(read_wav(mono, 8000), TONE, atol=0.01)
    stereo = save(tmp_path / "b.wav", encode(np.repeat(TONE, 2)), form, bits, 2)
    assert np.array_equal(read_wav(stereo, 8000), read_wav(mono, 8000))
    assert read_header(stereo).duration_s == 0.1
    assert len(read_wav(mono, 16000)) == 1600
    assert np.allclose(read_wav(mono, 16000)[200:-200:2], TONE[100:-100], atol=0.01)


def test_a_file_that_is_no_recording_says_why(tmp_path: Path) -> None:
    good = save(tmp_path / "good.wav", TONE.astype("<f4").tobytes(), 3, 32).read_bytes()
    broken = {
        b"": "the file is empty", b"text": "it is no WAV file", good[:-9]: "it is truncated: it has 3,191 of 3,200 bytes",
        good[:30]: "its header is truncated",
        good.replace(b"fmt \x10\0\0\0", b"fmt \xfe\xff\xff\xff"): "its header is truncated",
        good.replace(b"data\x80\x0c\0\0", b"data\x01\0\0\0"): "it has no sound",
    }  # fmt: skip
    for content, reason in broken.items():
        (tmp_path / "x.wav").write_bytes(content)
        with pytest.raises(WavError, match=reason):
            read_header(tmp_path / "x.wav")
    with pytest.raises(WavError, match="encoding 0x0055 with 16 bits; convert it to 16-bit PCM"):
        read_header(save(tmp_path / "x.wav", b"\0" * 8, 0x55, 16))
    for sample in (np.nan, -np.inf, 3e38, -1e20, 1e300):  # the energy of a large one is infinite
        with pytest.raises(WavError, match="no numbers from"):
            read_wav(save(tmp_path / "x.wav", np.full(9, sample, "<f8").tobytes(), 3, 64), 8000)
    for rate in (0, 1, 999, 768_001, 2**32 - 1):  # resampling would need terabytes
        with pytest.raises(WavError, match=f"{rate} samples per second"):
            read_header(save(tmp_path / "x.wav", b"\0" * 8, 1, 16, rate=rate))
    with pytest.raises(WavError, match="it is not a file"):
        read_header(tmp_path)


def test_a_tone_has_its_energy_in_its_band() -> None:
    log_mel = LogMel(8000, 40)
    seconds = torch.arange(4000) / 8000
    low, high = log_mel(torch.stack([torch.sin(2 * torch.pi * hertz * seconds) for hertz in (300, 3000)])).mean(-1)
    assert log_mel(torch.zeros(2, 4000)).shape == (2, 40, log_mel.count_frames(4000)) == (2, 40, 51)
    assert (int(low.argmax()), int(high.argmax())) == (7, 35)  # 402 and 1876 of 2146 mel
    with pytest.raises(ValueError, match=r"data\.num_bands=400 is too many for data\.sample_rate=8000"):
        LogMel(8000, 400)(torch.zeros(4000))


def test_shapes_counts_and_scales_come_from_the_files(sounds: Path) -> None:
    found = describe(sounds)
    assert [found[key] for key in ("num_classes", "num_train", "sample_rate", "clip_s", "image_shape")] == [
        2, 16, 8000, 0.2, [1, 10, 21],
    ]  # fmt: skip
    data = AudioFolder(**found)
    splits = {name: data.load(name) for name in ("train", "val", "test")}
    assert ([len(split) for split in splits.values()], data.class_names) == ([16, 2, 2], ["high", "low"])
    rows, seeds = torch.arange(16), torch.arange(16)
    inputs, targets = splits["train"].batch(rows, seeds)
    assert isinstance(inputs, torch.Tensor)
    for real, blank in zip((inputs, targets), data.example(16), strict=True):
        assert (real.shape, real.dtype) == (blank.shape, blank.dtype)  # type: ignore[union-attr]
    again, other = (splits["train"].batch(rows, each)[0] for each in (seeds, seeds + 99))
    assert torch.equal(inputs, again)  # type: ignore[arg-type]
    assert not torch.equal(inputs, other)  # type: ignore[arg-type]
    val, _ = splits["val"].batch(torch.arange(2), torch.arange(2))
    paths = [str(sounds / name.decode()) for name in splits["val"].names.tolist()]
    assert torch.equal(data.read(paths), val)  # type: ignore[arg-type]
    with pytest.raises(
        UserInputError, match=r"nothing\.wav cannot be read as a recording \(No such file or directory\)"
    ):
        data.read(["nothing.wav"])


def test_an_exported_model_takes_samples_or_files(sounds: Path) -> None:
    data = AudioFolder(**describe(sounds, num_bands=8, clip_s=0.1))
    model = nn.Sequential(nn.Flatten(), nn.Linear(8 * 11, 2)).eval()
    facts = {
        "inputs": "float32 [batch, 1, 8, 11]", "outputs": "float32 [batch, 2]", "class_names": None, "num_classes": 2,
        "vocab_size": None, "batch_size": 4,
    }  # fmt: skip
    raw = RawPredictor(Predictor(model, facts, torch.device("cpu")), data, Accuracy([1]))
    file = sounds / "low" / "ann_0.wav"
    samples = read_wav(file, 8000)
    from_file, from_samples = (raw.predict([each]).to_dict("records") for each in (file.read_bytes(), samples))  # type: ignore[union-attr]
    assert from_file == from_samples
    for wrong in (np.zeros((2, 9)), np.zeros(9, np.int16)):
        with pytest.raises(ValueError, match=r"audio_0 is .*; give float \[samples\] from -1 to 1 at 8000 samples"):
            raw.predict([wrong])


def test_a_speaker_is_in_one_part(sounds: Path) -> None:
    for speaker in ("carl", "dora", "eve"):
        write_sound(sounds / "low" / f"{speaker}_1.wav", 440, 0.1)
    for fold in (None, 0, 1):
        data = AudioFolder(**describe(sounds, group_pattern="[a-z]+(?=_)", fold=fold, num_folds=2))
        names = [data.load(split).names.tolist() for split in ("train", "val", "test")]
        speakers = [{Path(name.decode()).name.partition("_")[0] for name in each} for each in names]
        assert sum(map(len, speakers)) == len(set.union(*speakers)) == 5
    with pytest.raises(
        ValueError, match=r"data.group_pattern='x\+' does not match 'high/ann_0.wav'; every recording needs a group"
    ):
        describe(sounds, group_pattern="x+")


def test_a_broken_file_is_an_error_or_skipped(sounds: Path) -> None:
    (sounds / "low" / "ann_0.wav").write_bytes(b"no sound")
    with pytest.raises(
        ValueError, match=r"low/ann_0.wav cannot be read as a recording .* set data.on_bad_example=skip"
    ):
        describe(sounds)
    found = describe(sounds, on_bad_example="skip")
    assert (found["skipped"], found["num_train"]) == (["low/ann_0.wav"], 15)
    data = AudioFolder(**found)
    with pytest.warns(
        ComponentWarning, match=r"1 recordings of .* are skipped \(data.on_bad_example=skip\): low/ann_0.wav"
    ):
        train = data.load("train")
    (sounds / train.names.tolist()[0].decode()).write_bytes(b"damaged later")
    with pytest.raises(DataError, match="cannot be read as a recording"):
        train.batch(torch.arange(1), torch.arange(1))


def test_files_of_the_standard_library_are_read(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((2, 2, 44100, 0, "NONE", ""))
        file.writeframes(np.zeros(882, "<i2").tobytes())
    assert read_wav(tmp_path / "a.wav", 16000).shape == (160,)
