import json
from pathlib import Path
from typing import Any

import pytest
import torch

from modules.data.base import END, IGNORED, START, UNKNOWN, DataError
from modules.data.dialogue.dialogues import Dialogues

TURNS = [["Hi !", "Hello , you."], ["How are you ?", "Fine .", "Good !"], ["Bye"], ["Who ?", "Me"], ["Hi", " ", "Hi !"]]


def make(folder: Path, *files: str, **changes: Any) -> Dialogues:
    rows = "".join(json.dumps({"turns": turns, "acts": [1]}) + "\n" for turns in TURNS)
    names = [f"{n}.jsonl" for n in range(len(files) or 1)]
    for name, content in zip(names, files or (rows,), strict=True):
        (folder / name).write_text(content)
    options = {"num_context_turns": 1, "vocab_size": 30, "min_count": 1, "max_tokens": 9, "held_out_every": 4} | changes
    return Dialogues(str(folder.parent), folder.name, dict.fromkeys(names), **options)


def test_each_turn_after_the_first_is_an_answer(tmp_path: Path) -> None:
    data = make(tmp_path)  # one file: of every four dialogues the first validates, and the second tests
    splits = {split: data.load(split) for split in ("train", "val", "test")}
    assert {split: len(each) for split, each in splits.items()} == {"train": 1, "val": 2, "test": 2}
    assert [data.pair(n).source for n in (2, 5)] == ["how are you ?", "fine ."]
    assert data.pair(1).references == ("hello , you .",)
    (source, shifted), (target, numbers) = splits["train"].batch(torch.tensor([0]), torch.tensor([0]))
    words = data.readers[0].encode("who ? me")
    assert source.tolist() == [[*words[:2], END]]
    assert shifted.tolist() == [[START, words[2]]]
    assert target.tolist() == [[words[2], END]]
    assert data.target_text(target[0]) == data.pair(int(numbers)).references[0] == "me"
    assert UNKNOWN in splits["val"].sources.tolist()[0]
    assert IGNORED not in target


def test_files_of_their_own_are_whole_splits_and_contexts_are_cut(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"turns": turns}) + "\n" for turns in TURNS[1:2])
    data = make(tmp_path, rows, rows, rows, num_context_turns=2, max_tokens=3)
    assert [len(data.load(split)) for split in ("train", "val", "test")] == [2, 2, 2]
    assert data.pair(3).source == "? fine ."
    saved = json.loads(json.dumps(data.save_reader()))
    copy = make(tmp_path, rows, rows, rows)
    copy.restore_reader(saved)
    assert torch.equal(copy.read(["How fine"])[0], data.read(["How fine"])[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"turns": "Hi"}\n', "line 1 wants 'turns' as a list of texts, but has 'Hi'"),
        ('{"acts": []}\n', "line 1 wants 'turns' as a list of texts, but has None"),
        ('{"turns": ["Hi"]}\n' * 9, "the split 'train' has no dialogue with two turns"),
        ('{"turns": ["a", "b"]}\n', "the split 'train' has no line"),
        ("", "it has no line"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(tmp_path, content).load("train")


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one to three files"):
        Dialogues("", "a", {}, 1, 9, 1, 9)
    for changes in ({"held_out_every": 2}, {"num_context_turns": 0}, {"vocab_size": 4}):
        with pytest.raises(ValueError, match=next(iter(changes))):
            make(tmp_path, **changes)
