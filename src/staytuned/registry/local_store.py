"""MLflow's SQLite file in the workspace: where it is, how it moves with the workspace, how long to wait for it."""

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from staytuned.errors import RegistryError, StaytunedError, disk_full, is_full
from staytuned.files import replacing, write_text
from staytuned.workspace import Workspace

PATIENCE = 90  # seconds to wait for a file that others have locked; MLflow sets 20 at the start of each session


def database(workspace: Workspace) -> Path:
    """The SQLite file of a registry in the workspace."""
    return workspace.var / "mlflow.db"


@contextmanager
def reading(workspace: Workspace) -> Iterator[sqlite3.Connection]:
    """The file, for reading, without MLflow.

    It is opened for writing too: what a writer that was killed left half done, SQLite takes back when it is next read.

    Raises:
        RegistryError: it cannot be read.
    """
    file = database(workspace)
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=PATIENCE)) as db:
            db.execute("PRAGMA query_only = ON")
            yield db
    except sqlite3.Error as error:
        raise failed(file, error) from error


def make(workspace: Workspace) -> None:
    """Make the file, whole or not at all: MLflow's own making, cut off, leaves one that MLflow cannot use any more."""
    if database(workspace).exists():
        return
    workspace.var.mkdir(exist_ok=True)
    with (workspace.var / "mlflow.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not database(workspace).exists():
            _make(database(workspace))


def _make(file: Path) -> None:
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

    for left in file.parent.glob(f".{file.name}.*-journal"):  # SQLite's, of a making that was cut off
        left.unlink()
    with replacing(file) as temporary:
        engine = create_sqlalchemy_engine(f"sqlite:///{temporary}")
        try:
            _initialize_tables(engine)
        finally:
            engine.dispose()


@cache
def wait_for_locks() -> None:
    """Let MLflow wait as long as we do."""
    import sqlalchemy

    def longer(_db: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        return statement.replace("busy_timeout = 20000", f"busy_timeout = {PATIENCE * 1000}"), parameters

    def from_the_start(db: Any, _record: Any) -> None:
        if isinstance(db, sqlite3.Connection):
            db.execute(f"PRAGMA busy_timeout = {PATIENCE * 1000}")

    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", from_the_start)
    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", longer, retval=True)


def settle(workspace: Workspace) -> None:
    """SQLite holds absolute paths; when the workspace has moved, they move with it."""
    workspace.var.mkdir(exist_ok=True)
    marker, now = workspace.var / "root", str(workspace.root)
    before = marker.read_text() if marker.exists() else now
    if before == now and marker.exists():
        return
    if database(workspace).exists():
        columns = {
            "experiments": ["artifact_location"],
            "runs": ["artifact_uri"],
            "logged_models": ["artifact_location"],
            "model_versions": ["source", "storage_location"],
        }
        moves = ((Path(before).as_uri(), Path(now).as_uri()), (before, now))
        try:
            with closing(sqlite3.connect(database(workspace), timeout=PATIENCE)) as db, db:
                for table, name in ((table, name) for table, names in columns.items() for name in names):
                    for old, new in moves:
                        db.execute(
                            f"UPDATE {table} SET {name} = ? || substr({name}, ?) WHERE {name} LIKE ?",
                            (f"{new}/", len(old) + 2, f"{old}/%"),
                        )
        except sqlite3.Error as error:
            raise failed(database(workspace), error) from error
    write_text(marker, now)


def failed(place: object, error: Exception) -> StaytunedError:
    """What to say of a registry that fails."""
    if is_full(error):
        return disk_full(place)
    return RegistryError(
        f"the registry at {place} failed: {str(error).splitlines()[0]}; mend that, then run the same command again; "
        "the champion goes on answering"
    )
