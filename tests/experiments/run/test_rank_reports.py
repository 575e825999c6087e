from __future__ import annotations

from pathlib import Path

from experiments.run.rank_reports import RankLogs, log_name, root_cause, write_error


def test_the_first_primary_error_is_the_root_cause(tmp_path: Path) -> None:
    assert root_cause(tmp_path) is None
    write_error(tmp_path, 2, "another has gone", follows=True)
    assert root_cause(tmp_path) is None
    write_error(tmp_path, 3, "it was me", follows=False)
    write_error(tmp_path, 1, "me too", follows=False)
    cause = root_cause(tmp_path)
    assert cause is not None
    assert (cause.rank, cause.reason) == (3, "it was me")


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
