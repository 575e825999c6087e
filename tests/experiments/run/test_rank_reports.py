from __future__ import annotations

from pathlib import Path

from experiments.run.rank_reports import RankLogs, log_name, root_cause, write_error


def test_the_first_primary_error_is_the_root_cause(tmp_path: Path) -> None:
    assert root_cause(tmp_path) is None
    write_error(tmp_path, 2, "another rank has ended", follows=True)
    assert root_cause(tmp_path) is None
    write_error(tmp_path, 3, "out of memory", follows=False)
    write_error(tmp_path, 1, "killed", follows=False)
    cause = root_cause(tmp_path)
    assert cause is not None
    assert (cause.rank, cause.reason) == (3, "out of memory")


def test_errors_of_earlier_versions_are_read(tmp_path: Path) -> None:
    write_error(tmp_path, 1, "the disk is full", follows=False)
    (tmp_path / "error_rank_1.json").rename(tmp_path / "last_word_rank_1.json")
    write_error(tmp_path, 2, "out of memory", follows=False)
    cause = root_cause(tmp_path)
    assert cause is not None
    assert (cause.rank, cause.reason) == (1, "the disk is full")


def test_logs_are_read_in_complete_lines(tmp_path: Path) -> None:
    logs = RankLogs(tmp_path, 2)
    assert list(logs.new_lines()) == []
    (tmp_path / log_name(1)).write_bytes(b"one\ntw")
    (tmp_path / log_name(0)).write_bytes(b"zero \xff\n\nmore\n")
    assert list(logs.new_lines()) == ["[rank 0] zero \ufffd", "[rank 0] ", "[rank 0] more", "[rank 1] one"]
    with (tmp_path / log_name(1)).open("ab") as file:
        file.write(b"o\n")
    assert list(logs.new_lines()) == ["[rank 1] two"]
    assert list(logs.new_lines()) == []
