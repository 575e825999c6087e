from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import pytest

from modules.data.base import DataError
from modules.data.files import DataFiles
from modules.data.text.pair_files import read_aligned, read_table, split_rows


def _files(root: Path, *names: str) -> DataFiles:
    return DataFiles(str(root), "texts", dict.fromkeys(names))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "texts").mkdir()
    return tmp_path


def test_aligned_files_are_read_line_for_line_packed_or_not(root: Path) -> None:
    (root / "texts" / "a.en").write_text("one\u2028still one\ntwo\n\n", "utf-8")
    (root / "texts" / "a.fr.gz").write_bytes(gzip.compress(b"un\ndeux\ntrois\n"))
    actual = read_aligned(_files(root, "a.en", "a.fr.gz"), "a.en", "a.fr.gz")
    assert actual == [("one\u2028still one", "un"), ("two", "deux"), ("", "trois")]


def test_files_that_do_not_belong_together_are_reported(root: Path) -> None:
    (root / "texts" / "a.en").write_text("one\ntwo\n")
    (root / "texts" / "a.fr").write_text("un\n")
    with pytest.raises(DataError, match=r"a.en has 2 lines and a.fr 1; the files must be aligned line by line"):
        read_aligned(_files(root, "a.en", "a.fr"), "a.en", "a.fr")
    (root / "texts" / "a.fr").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"a.fr is damaged or of another format"):
        read_aligned(_files(root, "a.en", "a.fr"), "a.en", "a.fr")


def test_a_table_is_read_from_an_archive_or_as_it_is(root: Path) -> None:
    text = "Go.\tVa !\tby somebody\nRun!\tCours !\n"
    with zipfile.ZipFile(root / "texts" / "t.zip", "w") as archive:
        archive.writestr("inner.txt", text)
    (root / "texts" / "t.tsv").write_text(text)
    expected = [("Go.", "Va !"), ("Run!", "Cours !")]
    assert read_table(_files(root, "t.zip"), "t.zip", "inner.txt", (0, 1)) == expected
    assert read_table(_files(root, "t.tsv"), "t.tsv", None, (1, 0)) == [(two, one) for one, two in expected]


def test_a_malformed_table_is_reported(root: Path) -> None:
    (root / "texts" / "t.tsv").write_text("Go.\tVa !\nRun!\n")
    with pytest.raises(DataError, match=r"line 2 has 1 columns, but data.languages needs 2"):
        read_table(_files(root, "t.tsv"), "t.tsv", None, (0, 1))
    with zipfile.ZipFile(root / "texts" / "t.zip", "w") as archive:
        archive.writestr("inner.txt", "")
    with pytest.raises(DataError, match=r"no item named 'other.txt' in the archive"):
        read_table(_files(root, "t.zip"), "t.zip", "other.txt", (0, 1))


ROWS = [(f"e{n}", f"f{n}{kind}") for n in range(40) for kind in "ab"[: 1 + n % 2]] + [("e1", "f2a"), ("e3x", "f3a")]


def test_no_two_splits_have_a_sentence_in_common_and_every_row_is_somewhere() -> None:
    dealt = split_rows(ROWS, 7, 9)
    assert {split: len(actual) for split, actual in dealt.items() if split != "train"} == {"val": 7, "test": 9}
    for side in (0, 1):
        seen: dict[str, str] = {}
        for split, examples in dealt.items():
            for source, references in examples:
                for sentence in [source] if side == 0 else references:
                    assert seen.setdefault(sentence, split) == split
    kept = [(source, target) for examples in dealt.values() for source, targets in examples for target in targets]
    assert len(kept) >= len(ROWS) - 3, "of a group that does not fit whole, the rest is left out"
    assert len(kept) == len({*kept})
    assert {*kept} <= {*ROWS}


def test_an_evaluated_source_comes_once_with_all_its_translations() -> None:
    evaluated = [pair for split in ("val", "test") for pair in split_rows(ROWS, 15, 20)[split]]
    assert len({source for source, _ in evaluated}) == len(evaluated)
    assert all({*targets} == {target for source_, target in ROWS if source_ == source} for source, targets in evaluated)
    assert max(len(targets) for _, targets in evaluated) >= 2
    assert all(len(targets) == 1 for _, targets in split_rows(ROWS, 15, 20)["train"])


def test_where_a_sentence_goes_depends_on_neither_order_nor_direction() -> None:
    one, other = split_rows(ROWS, 7, 9), split_rows([(target, source) for source, target in reversed(ROWS)], 7, 9)
    english = {source: split for split, examples in one.items() for source, _ in examples}
    moved = [
        (source, split)
        for split, examples in other.items()
        for french, sources in examples
        for source in sources
        if english.get(source, split) != split
    ]
    assert len(moved) <= 8, "sources are counted, and French has others: only those at the edges move"
    assert split_rows([*reversed(ROWS)], 7, 9)["train"] != []


def test_too_few_pairs_are_reported() -> None:
    with pytest.raises(DataError, match=r"data.num_val=30 and data.num_test=30 leave nothing of 62 pairs to train on"):
        split_rows(ROWS, 30, 30)
