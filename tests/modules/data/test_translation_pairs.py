from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from experiments.train.data_loading import DataShard, training_batches
from modules.data.base import (
    END,
    IGNORED,
    PADDING,
    START,
    UNKNOWN,
    Batch,
    DataError,
    HasReferences,
    Ordered,
    UserInputError,
)
from modules.data.text.pair_split import PairSplit
from modules.data.translation_pairs import TranslationPairs
from tests.support.batches import fetch

LINES = {split: f"{split}.*.gz" for split in ("train", "val", "test")}
TEXTS = {
    "train.en": "a man rides\na man\nthe horse of the man rides home\n\na horse\n",
    "train.fr": "un homme monte\nun homme\nle cheval de l' homme rentre\nrien\nun cheval\n",
    "val.en": "a horse rides\nthe zebra\n",
    "val.fr": "un cheval monte\nle zèbre\n",
    "test.en": "the man\n",
    "test.fr": "l' homme qui est toujours ici et encore là\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "texts").mkdir()
    for name, text in TEXTS.items():
        (tmp_path / "texts" / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "texts" / "table.tsv").write_text(
        "".join(f"Go {n}!\tVa {n} !\nGo {n}!\tAllez {n} !\n" for n in range(9)) + "Much too long for it.\tTrop long.\n"
    )
    return tmp_path


def _data(root: Path, **others: Any) -> TranslationPairs:
    options: dict[str, Any] = {
        "files": {f"{name}.gz": None for name in TEXTS}, "source": "en", "target": "fr", "lines": LINES, "table": None,
        "languages": None, "num_val": None, "num_test": None, "normalise": False, "tokens": "words",
        "source_vocab_size": 9, "target_vocab_size": 11, "min_count": 1, "max_source_tokens": 6, "max_target_tokens": 5,
        "short_only": False, "num_train": None,
    }  # fmt: skip
    return TranslationPairs(str(root), "texts", **{**options, **others})


def _table(root: Path, **others: Any) -> TranslationPairs:
    options: dict[str, Any] = {
        "files": {"table.tsv": None}, "lines": None, "table": "table.tsv", "languages": ["en", "fr"], "num_val": 2,
        "num_test": 3, "normalise": True, "max_source_tokens": 4, "max_target_tokens": 4, "short_only": True,
        "source_vocab_size": 99, "target_vocab_size": 99,
    }  # fmt: skip
    return _data(root, **{**options, **others})


def _batch(split: PairSplit, *indices: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (source, before), (after, numbers) = fetch(split, torch.tensor(indices))
    return source, before, after, numbers


def test_a_batch_is_the_source_the_words_so_far_and_what_follows_each(root: Path) -> None:
    data = _data(root)
    train = data.load("train")
    assert len(train) == 3, "an empty line is left out, and a target of six words"
    source, before, after, numbers = _batch(train, 0, 1)
    reader, writer = data.readers
    man, un = reader.encode("a man"), writer.encode("un homme")
    assert source.tolist() == [[*man, *reader.encode("rides"), END], [*man, END, PADDING]]
    assert before[1].tolist() == [START, *un, PADDING]
    assert after[1].tolist() == [*un, END, IGNORED]
    assert after[0, :-1].tolist() == before[0, 1:].tolist()
    assert {tensor.dtype for tensor in (source, before, after, numbers)} == {torch.int64}
    assert [data.pair(number).source for number in numbers.tolist()] == ["a man rides", "a man"]


def test_rare_words_have_no_number_and_evaluation_leaves_nothing_out(root: Path) -> None:
    data = _data(root)
    source, _, _, numbers = _batch(data.load("val"), 0, 1)
    assert source[1].tolist() == [*data.readers[0].encode("the"), UNKNOWN, END, PADDING]
    pair = data.pair(int(numbers[1]))
    assert (pair.split, pair.index, pair.source, pair.references) == ("val", 1, "the zebra", ("le zèbre",))
    assert len(_batch(data.load("test"), 0)[2][0]) == 10
    with pytest.raises(DataError, match="the split 'test' has 0 pairs that are short enough"):
        _data(root, short_only=True).load("test")


def test_any_direction_is_an_override(root: Path) -> None:
    data = _data(root, source="fr", target="en", source_vocab_size=11, target_vocab_size=9, max_source_tokens=7)
    pair = data.pair(int(_batch(data.load("val"), 0)[3]))
    assert (pair.source, pair.references) == ("un cheval monte", ("a horse rides",))
    pairs = _table(root, source="fr", target="en")
    assert pairs.pair(0).source.startswith(("va", "allez"))


def test_user_text_is_encoded_and_output_is_decoded(root: Path) -> None:
    data = _data(root)
    read = data.read(["A man rides.", "horse"])
    assert isinstance(read, tuple)
    assert read[0].tolist()[0] == [*data.readers[0].encode("a man rides"), UNKNOWN, END]
    assert read[0].tolist()[1][2:] == [PADDING] * 3
    assert read[1].tolist() == [[START], [START]]
    words = torch.tensor([*data.readers[1].encode("un cheval"), END, PADDING, 7])
    assert data.target_text(words) == "un cheval"
    assert data.target_text(words[:1]) == "un"
    assert data.takes == "text"
    with pytest.raises(UserInputError, match="an empty line has no words"):
        data.read(["horse", " "])


def test_a_table_is_normalised_and_split_with_all_translations(root: Path) -> None:
    data = _table(root)
    assert isinstance(data, HasReferences)
    splits = {split: data.load(split) for split in ("train", "val", "test")}
    assert {split: len(actual) for split, actual in splits.items()} == {"train": 8, "val": 2, "test": 3}
    pairs = [data.pair(number) for number in splits["test"].numbers.tolist()]
    assert [pair.index for pair in pairs] == [0, 1, 2]
    for pair in pairs:
        number = pair.source.split()[1]
        assert pair.source == f"go {number} !"
        assert sorted(pair.references) == [f"allez {number} !", f"va {number} !"]


def test_byte_pairs_come_back_as_text(root: Path) -> None:
    data = _data(root, tokens="byte_pairs", source_vocab_size=25, target_vocab_size=25, max_target_tokens=40)
    _, _, after, numbers = _batch(data.load("train"), 0)
    assert data.target_text(after[0]) == data.pair(int(numbers[0])).references[0]


@pytest.mark.parametrize("changes", [{}, {"tokens": "byte_pairs", "source_vocab_size": 23, "target_vocab_size": 30}])
def test_what_is_saved_reads_and_writes_without_the_files(root: Path, changes: dict[str, Any]) -> None:
    data, other = _data(root, **changes), _data(Path("nowhere"), **changes)
    other.restore_reader(json.loads(json.dumps(data.save_reader())))
    source, written = data.read(["a zebra rides"])[0], torch.arange(4, 11)
    assert torch.equal(other.read(["a zebra rides"])[0], source)
    assert other.target_text(written) == data.target_text(written)


def test_an_example_is_as_large_as_they_come(root: Path) -> None:
    (source, before), (after, numbers) = _data(root).example(3)
    assert (source.shape, before.shape, after.shape, numbers.shape) == ((3, 7), (3, 6), (3, 6), (3,))


def _long_and_short(num_pairs: int = 103) -> PairSplit:
    lengths = torch.randint(1, 12, (num_pairs,), generator=Generator().manual_seed(0)).tolist()
    texts = [[4] * length for length in lengths]
    return PairSplit(texts, texts, range(num_pairs))


def test_batches_are_of_like_length_and_an_epoch_has_every_pair_once() -> None:
    split = _long_and_short()
    assert isinstance(split, Ordered)
    order = split.order(5, Generator().manual_seed(3))
    assert sorted(order.tolist()) == list(range(103))
    assert torch.equal(order, split.order(5, Generator().manual_seed(3)))
    assert not torch.equal(order, split.order(5, Generator().manual_seed(4)))
    spans = [
        int(split.target_lengths[batch].max() - split.target_lengths[batch].min()) for batch in order[:100].view(20, 5)
    ]
    assert max(spans) <= 2
    firsts = split.target_lengths[order[:100:5]]
    assert not torch.equal(firsts, firsts.sort().values), "batches are mixed again"


def test_pairs_that_fill_no_batch_of_an_epoch_have_random_lengths() -> None:
    split, generator = _long_and_short(), Generator().manual_seed(0)
    left = torch.cat([split.order(40, generator)[80:] for _ in range(60)])
    assert set(range(103)) == set(left.tolist())
    assert split.target_lengths[left].float().mean() < 1.1 * split.target_lengths.float().mean()


def test_replicas_share_the_same_global_batches_each_padded_to_its_own_longest_text() -> None:
    def fetched(shard: DataShard, first: int) -> list[Batch]:
        return list(training_batches(_long_and_short(), 6, 1, first, 20, 0, shard))

    whole = fetched(DataShard(), 3)
    for shard in (DataShard(0, 2), DataShard(1, 2)):
        rows = slice(3 * shard.number, 3 * shard.number + 3)
        for (sources, targets), (own_sources, own_targets) in zip(whole, fetched(shard, 3), strict=True):
            for each, own in zip((*sources, *targets), (*own_sources, *own_targets), strict=True):
                assert torch.equal(each[rows][:, : own.shape[1]] if own.dim() == 2 else each[rows], own)
            assert (own_sources[0] != PADDING).any(0).all()
            assert (own_targets[0] != IGNORED).any(0).all()


def test_an_epoch_may_be_smaller_than_the_files(root: Path) -> None:
    assert len(_data(root, num_train=2).load("train")) == 2
    with pytest.raises(DataError, match="the split 'train' has 3 pairs that are short enough, but needs 4; raise"):
        _data(root, num_train=4).load("train")


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"source": "fr"}, "data.source and data.target are both 'fr'; name two languages"),
        (
            {"source": "de"},
            r"data.source='de' makes 'train.de.gz' from data.lines.train, but data.files has no such file",
        ),
        ({"lines": None}, "either data.lines or data.table"),
        ({"lines": {"train": "a"}}, "data.lines wants the names of train, val, test, but has train"),
        ({"min_count": 0}, "data wants min_count of at least 1, but got 0"),
        ({"num_train": 0}, "data wants num_train of at least 1, but got 0"),
        ({"source_vocab_size": 4}, "data wants source_vocab_size of at least 5, but got 4"),
        ({"lines": None, "table": "t.txt"}, "data.table wants one file in data.files, but got train.en.gz"),
    ],
)
def test_options_that_do_not_fit_are_reported(root: Path, others: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _data(root, **others)


def test_a_language_that_is_no_column_is_reported(root: Path) -> None:
    with pytest.raises(
        ValueError, match=r"data.target='de' is not a column of data.table; data.languages names en, fr"
    ):
        _table(root, target="de")
    with pytest.raises(ValueError, match="data wants num_val of at least 1, but got 0"):
        _table(root, num_val=None)
