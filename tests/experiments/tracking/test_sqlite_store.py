"""SQLite stores that a killed process, a full disk or a move left in a bad state."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from experiments.tracking import mlflow_client, sqlite_store
from experiments.tracking.run_sync import sync_run
from experiments.tracking.sweep_sync import sync_all
from experiments.trial.trial import Trial
from tests.support.stores import log_steps, make_expected_metrics, make_run, read_metrics, sql, start_attempt
from tests.support.variants import only_long

Harm = Callable[[Path], None]


def run_script(script: str) -> Harm:
    def harm(database: Path) -> None:
        database.unlink()
        with closing(sqlite3.connect(database)) as connection:
            connection.executescript(script)

    return harm


def cut(size: int) -> Harm:
    def harm(database: Path) -> None:
        with database.open("r+b") as file:
            file.truncate(size)

    return harm


def overwrite(content: bytes) -> Harm:
    def harm(database: Path) -> None:
        database.write_bytes(content)

    return harm


def overwrite_pages(database: Path) -> None:
    """Damage the pages behind the list of tables, as a disk does."""
    with closing(sqlite3.connect(database)) as connection:
        size, roots = connection.execute("pragma page_size").fetchone()[0], connection.execute(
            "select rootpage from sqlite_master where name in ('experiments', 'runs')"
        ).fetchall()  # fmt: skip
    with database.open("r+b") as file:
        for (page,) in roots:
            file.seek((page - 1) * size)
            file.write(b"\xff" * size)


HARMS = [
    pytest.param(cut(0), id="zero length"),
    pytest.param(cut(50), id="less than a header", marks=only_long),
    pytest.param(cut(4096), id="one page", marks=only_long),
    pytest.param(cut(400_000), id="half"),
    pytest.param(overwrite(b"\xff\x00garbage" * 1000), id="garbage"),
    pytest.param(overwrite(b"not a database\n" * 100), id="text", marks=only_long),
    pytest.param(run_script("create table experiments (experiment_id integer, name text);"), id="first tables"),
    pytest.param(
        run_script("create table runs (a); create table tags (b); create table alembic_version (version_num);"),
        id="tables without the first", marks=only_long,
    ),
    pytest.param(
        run_script(
            "create table experiments (name text); create table runs (a); create table _alembic_tmp_metrics (a);"
            "create table alembic_version (version_num); insert into alembic_version values ('451aebb31d03');"
        ),
        id="half-migrated",
    ),
    pytest.param(overwrite_pages, id="damaged pages"),
]  # fmt: skip


@pytest.mark.parametrize("harm", HARMS)
def test_damaged_store_is_kept_and_made_again_from_the_journals(
    runs_dir: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch, harm: Harm
) -> None:
    with start_attempt(make_run(runs_dir)) as journal:
        log_steps(journal, range(1, 4))
    sync_run(Trial(runs_dir / "single" / "a1b2c3"))
    database = runs_dir / "mlflow.db"
    harm(database)
    harmed = database.read_bytes()
    if harm is overwrite_pages:
        mlflow_client._open_stores.clear()  # another process: this one has the pages in memory
    monkeypatch.setattr("experiments.tracking.mlflow_client._make_sqlite", lambda path: shutil.copy(empty_store, path))
    summary = sync_all(runs_dir)  # in the process that has the earlier file open
    assert summary.failures == ()
    assert len(summary.warnings) == 1
    kept = list(runs_dir.glob("mlflow.db.damaged-*"))
    assert [path.read_bytes() for path in kept] == [harmed]
    assert kept[0].name in summary.warnings[0]
    assert read_metrics(runs_dir) == make_expected_metrics(range(1, 4))
    assert sync_all(runs_dir)[1:] == (0, (), ())
    assert not list(runs_dir.glob(".*.partial"))


@pytest.mark.parametrize(
    "script",
    [
        "create table customers (name); insert into customers values ('ada');",
        "create table experiments (name); create table runs (a); insert into runs values (1);",
    ],
)
def test_database_with_rows_is_never_moved(tmp_path: Path, script: str) -> None:
    database = tmp_path / "mlflow.db"
    database.touch()
    run_script(script)(database)
    assert sqlite_store.find_damage(database) is None


def test_store_without_its_first_experiment_is_half_made(runs_dir: Path) -> None:
    sql_write(runs_dir / "mlflow.db", "delete from experiments")
    assert "half-made" in str(sqlite_store.find_damage(runs_dir / "mlflow.db"))


def test_store_that_is_being_made_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_store, "TIMEOUT_S", 0.05)
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as other:
        other.executescript("create table experiments (name); begin immediate; create table runs (a);")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            sqlite_store.find_damage(tmp_path / "mlflow.db")


@pytest.mark.parametrize("has_links", [True, False])
def test_killed_maker_leaves_no_store_and_the_next_one_removes_its_file(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    database = tmp_path / "mlflow.db"
    (tmp_path / ".mlflow.db.0a1b2c3d.partial").write_bytes(empty_store.read_bytes()[:5000])  # as kill -9 leaves it
    if not has_links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no links")))

    def make(path: Path) -> None:
        assert not database.exists()
        shutil.copy(empty_store, path)

    assert sqlite_store.make_complete(database, make) is None
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_of_two_makers_without_locks_the_first_wins(tmp_path: Path, empty_store: Path) -> None:
    database = tmp_path / "mlflow.db"

    def make(path: Path) -> None:
        shutil.copy(empty_store, path)
        shutil.copy(empty_store, database)  # meanwhile the other one has finished, and stores a run
        sql_write(database, "insert into experiments (experiment_id, name) values (7, 'of the other')")

    sqlite_store.make_complete(database, make)
    assert sql(database, "select name from experiments where experiment_id = 7") == [("of the other",)]


def sql_write(database: Path, command: str) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(command)
        connection.commit()


def test_open_store_follows_the_name_of_its_file(runs_dir: Path, empty_store: Path) -> None:
    with start_attempt(make_run(runs_dir)) as journal:
        log_steps(journal, range(1, 3))
    sync_run(Trial(runs_dir / "single" / "a1b2c3"))
    (runs_dir / "mlflow.db").rename(runs_dir / "away.db")  # for example another process set it aside
    shutil.copy(empty_store, runs_dir / "mlflow.db")
    assert sync_all(runs_dir).failures == ()
    assert read_metrics(runs_dir) == make_expected_metrics(range(1, 3))


@pytest.mark.parametrize("how", ["moved", "copied", "only the file"])
def test_artifacts_are_beside_the_store_that_is_open(tmp_path: Path, empty_store: Path, how: str) -> None:
    first, second = tmp_path / "first runs", tmp_path / "second"
    first.mkdir()
    shutil.copy(empty_store, first / "mlflow.db")
    for name in ("a1b2c3", "d4e5f6"):
        start_attempt(make_run(first, name)).close()
    sync_all(first, ["a1b2c3"])
    if how == "moved":
        first.rename(second)
    elif how == "copied":
        shutil.copytree(first, second)
        sql_write(first / "mlflow.db", "delete from runs")  # its owner goes on
    else:
        second.mkdir()
        (first / "mlflow.db").rename(second / "mlflow.db")
        (first / "single").rename(second / "single")
    before = sorted(first.rglob("*"))
    summary = sync_all(second)
    assert summary.failures == ()
    assert "was moved or copied" in summary.warnings[0]
    places = [uri for (uri,) in sql(second / "mlflow.db", "select artifact_uri from runs order by start_time")]
    old = first if how == "only the file" else second
    assert places[0].startswith((old / "artifacts").as_uri())
    assert places[1].startswith((second / "artifacts").as_uri())
    for place in places:
        assert (sqlite_store._to_path(place) / "trial.yaml").is_file()
    assert sorted(first.rglob("*")) == before
    assert sync_all(second)[1:] == (0, (), ())


def test_locations_that_lathe_did_not_set_stay(runs_dir: Path) -> None:
    with start_attempt(make_run(runs_dir)):
        pass
    sync_run(Trial(runs_dir / "single" / "a1b2c3"))
    database, other = runs_dir / "mlflow.db", "s3://bucket/artifacts"
    sql_write(
        database, f"insert into experiments (experiment_id, name, artifact_location) values (9, 'mine', '{other}')"
    )
    (runs_dir / "same").symlink_to(runs_dir)  # the same file under another path
    same = (runs_dir / "same" / "artifacts").as_uri()
    sql_write(database, f"update experiments set artifact_location = '{same}' where name = 'lathe'")
    assert sqlite_store.relocate_artifacts(database, runs_dir.resolve() / "artifacts") is None
    assert {uri for (uri,) in sql(database, "select artifact_location from experiments")} >= {other, same}
    assert mlflow_client.open_store(f"sqlite:///{database}", runs_dir).take_warnings() == []
