"""The SQLite file of a store: created atomically, set aside if damaged, and updated when its artifacts move."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from experiments.core import atomic

TIMEOUT_S = 20.0
SEEDED = ("alembic_version", "workspaces")
"""Tables in which MLflow's migrations put rows."""
DAMAGE_CODES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
DAMAGE_MESSAGES = ("database disk image is malformed", "file is not a database", "no such table")
COMPANIONS = ("-journal", "-wal", "-shm")
"""Endings of the files that SQLite keeps beside a database. Beside another database they would damage it."""
NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV)
LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Columns in which MLflow stores an absolute path."""


def make_complete(database: Path, make: Callable[[Path], None], *, check_pages: bool = False) -> str | None:
    """Make a store that is missing, and replace one that is damaged or half-made. The caller holds the lock of the store.

    Args:
        database: the file.
        make: makes a complete store in a new file.
        check_pages: read every page, which takes about a second for each GB; otherwise only the list of tables.

    Returns:
        What was wrong with the earlier file, and its new name; None if nothing was wrong or it was missing.

    Raises:
        OSError: the folder cannot be written.
        sqlite3.Error: another program uses the file.
    """
    damage = find_damage(database, check_pages=check_pages)
    if damage is None and database.exists():
        return None
    atomic.sweep_partials(database)
    with atomic.open_partial(database) as (_, partial):
        partial.unlink()  # SQLite makes the file itself
        make(partial)
        atomic.fsync(partial)
        aside = _set_aside(database) if damage else None
        _publish(partial, database)
    atomic.fsync(database.parent)
    if aside is None:
        return None
    return (
        f"{database} {damage}; it is kept as {aside.name}, and a new store was made from the journals; "
        "run `lathe sync` once to put all runs back into it"
    )


def find_damage(database: Path, *, check_pages: bool = False) -> str | None:
    """Find out whether an SQLite file is damaged, or a store that was never completed.

    A store is complete once it has its first experiment, which MLflow adds after all tables. A file with rows of any kind is
    never called half-made, so nothing that another program stored is moved.

    Returns:
        What is wrong, after the file's name in a sentence; None if nothing is.

    Raises:
        sqlite3.Error: the file cannot be opened, or another program has locked it.
    """
    if not database.is_file():
        return None
    try:
        with closing(
            sqlite3.connect(f"file:{quote(str(database))}?mode=rw", uri=True, timeout=TIMEOUT_S)
        ) as connection:
            if _is_unfinished(connection):
                connection.execute("begin exclusive")  # waits for a program that is making it
                if _is_unfinished(connection):
                    return "is empty or half-made (a process was killed while it made the store)"
            if check_pages and (faults := [row[0] for row in connection.execute("pragma quick_check(1)")]) != ["ok"]:
                return f"is damaged ({' '.join(str(faults[0]).split())})"
    except sqlite3.DatabaseError as err:
        if err.sqlite_errorcode & 0xFF not in DAMAGE_CODES:
            raise
        return f"is damaged ({err})"
    return None


def _is_unfinished(connection: sqlite3.Connection) -> bool:
    tables = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
    own = [name for name in tables if name not in SEEDED and not name.startswith("sqlite_")]
    return not any(connection.execute(f'select 1 from "{name}" limit 1').fetchone() for name in own)


def is_damage(err: Exception) -> bool:
    """Whether an error of a store may mean that its SQLite file is damaged."""
    return any(message in str(err) for message in DAMAGE_MESSAGES)


def _set_aside(database: Path) -> Path:
    """Rename a damaged file, with the files that SQLite keeps beside it; return the new name."""
    stem = f"{database.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}"
    taken = {path.name for path in database.parent.glob(f"{database.name}.damaged-*")}
    number = next(number for number in range(1, len(taken) + 2) if _numbered(stem, number) not in taken)
    aside = database.with_name(_numbered(stem, number))
    for ending in COMPANIONS:
        with contextlib.suppress(FileNotFoundError):
            database.with_name(database.name + ending).rename(aside.with_name(aside.name + ending))
    database.rename(aside)
    return aside


def _numbered(stem: str, number: int) -> str:
    return stem if number == 1 else f"{stem}-{number}"


def _publish(partial: Path, database: Path) -> None:
    """Give a complete store its name, unless another process was faster."""
    try:
        os.link(partial, database)
    except FileExistsError:
        pass
    except OSError as err:
        if err.errno not in NO_LINKS:
            raise
        if not database.exists():
            partial.rename(database)


def relocate_artifacts(database: Path, artifacts: Path) -> str | None:
    """Let a store that was moved or copied find its artifacts beside it. The caller holds the lock of the store.

    MLflow stores absolute paths. Only locations are changed that Lathe has set: the folder `artifacts` beside the file. A path
    below it keeps its old location if only the old folder has it.

    Args:
        database: a complete store.
        artifacts: the folder beside it.

    Returns:
        What was changed; None if nothing was.

    Raises:
        sqlite3.Error: the file cannot be written, or is locked.
    """
    new = artifacts.as_uri()
    with closing(sqlite3.connect(database, timeout=TIMEOUT_S, isolation_level=None)) as connection:
        old_places = [uri for uri in _list_locations(connection) if _was_moved(uri, database, artifacts)]
        if not old_places:
            return None
        connection.execute("begin immediate")
        for old in old_places:
            for table, column in LOCATIONS:
                _replace(connection, table, column, old, new)
        connection.execute("commit")
    return f"{database} was moved or copied, so its artifacts are now in {artifacts} and no longer in {_to_path(old_places[0])}"


def _list_locations(connection: sqlite3.Connection) -> Iterator[str]:
    query = "select distinct artifact_location from experiments where artifact_location like 'file:///%/artifacts'"
    yield from [uri for (uri,) in connection.execute(query)]


def _was_moved(uri: str, database: Path, artifacts: Path) -> bool:
    """Whether a location was set for another place of this store, which is not the same file under another path."""
    folder = _to_path(uri)
    if folder == artifacts:
        return False
    with contextlib.suppress(OSError):
        return not (folder.parent / database.name).samefile(database)
    return True


def _to_path(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))


def _replace(connection: sqlite3.Connection, table: str, column: str, old: str, new: str) -> None:
    columns = [row[1] for row in connection.execute(f"pragma table_info({table})")]
    if column not in columns:  # of another version of MLflow
        return
    query = f"select rowid, {column} from {table} where {column} = ? or substr({column}, 1, ?) = ?"
    for row, uri in connection.execute(query, (old, len(old) + 1, f"{old}/")).fetchall():
        moved = new + uri[len(old) :]
        if _to_path(moved).exists() or not _to_path(uri).exists() or uri == old:
            connection.execute(f"update {table} set {column} = ? where rowid = ?", (moved, row))
