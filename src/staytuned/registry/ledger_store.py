"""Where the ledger's rows and its lease are kept: a SQLite file, or Postgres, by SQLAlchemy."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from staytuned.errors import BusyError, MissingError, RegistryError, disk_full, is_full

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

Row = tuple[int, str, str]  # number, body, seal

TERM = 120.0  # seconds that a lease lasts; moving an alias takes some
PATIENCE = 30  # seconds to wait for a file or a server that others use

TABLES = (
    "CREATE TABLE IF NOT EXISTS entries (number INTEGER PRIMARY KEY, body TEXT NOT NULL, seal TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS leases (name TEXT PRIMARY KEY, holder TEXT NOT NULL, "
    "expires DOUBLE PRECISION NOT NULL, fence INTEGER NOT NULL)",
)
GUARDS = {
    "sqlite": (
        "CREATE TRIGGER IF NOT EXISTS no_update BEFORE UPDATE ON entries "
        "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
        "CREATE TRIGGER IF NOT EXISTS no_delete BEFORE DELETE ON entries "
        "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
    ),
    "postgresql": (
        "CREATE OR REPLACE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$",
        "CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON entries "
        "EXECUTE FUNCTION append_only()",
    ),
}
ALONE = {  # one writer at a time
    "sqlite": ("BEGIN IMMEDIATE",),
    "postgresql": (f"SET LOCAL lock_timeout = '{PATIENCE}s'", "SELECT pg_advisory_xact_lock(20109)"),
}
NOW = {  # seconds since 1970 by the database's clock: the one that all promoters share
    "sqlite": "SELECT (julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "SELECT extract(epoch FROM clock_timestamp())::double precision",
}
ROWS = "SELECT number, body, seal FROM entries ORDER BY number"
TAKE = (
    "INSERT INTO leases VALUES ('champion', :holder, :expires, :fence) ON CONFLICT (name) DO UPDATE "
    "SET holder = excluded.holder, expires = excluded.expires, fence = excluded.fence"
)


class Store:
    """A ledger's database."""

    def __init__(self, place: Path | str) -> None:
        self.place = place
        self.file = place if isinstance(place, Path) else None
        if isinstance(place, str) and place.startswith("sqlite:///"):
            self.file = Path(place.removeprefix("sqlite:///"))

    def rows(self) -> list[Row]:
        """All rows, oldest first; none, and nothing is made, where there is no ledger yet.

        Raises:
            RegistryError: the database does not answer.
        """
        if self.file:  # by the standard library: a run with nothing to do must not wait for SQLAlchemy
            if not self.file.exists() or self.file.stat().st_size == 0:
                return []
            with self._failing(sqlite3.Error), closing(sqlite3.connect(self.file, timeout=PATIENCE)) as db:
                there = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'entries'").fetchone()
                return db.execute(ROWS).fetchall() if there else []
        import sqlalchemy

        with self._failing(sqlalchemy.exc.SQLAlchemyError), self._engine.connect() as connection:
            there = sqlalchemy.inspect(connection).has_table("entries")
            return Writer(connection).rows() if there else []

    @contextmanager
    def writing(self) -> Iterator["Writer"]:
        """A transaction that no other writer is in; all of it is done, or nothing.

        Raises:
            RegistryError: the database does not answer.
            StorageError: there is no room.
        """
        import sqlalchemy

        if self.file:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        with self._failing(sqlalchemy.exc.SQLAlchemyError), self._engine.begin() as connection:
            writer = Writer(connection)
            for statement in ALONE[writer.dialect]:
                writer.run(statement)
            if not sqlalchemy.inspect(connection).has_table("leases"):
                for statement in (*TABLES, *GUARDS[writer.dialect]):
                    writer.run(statement)
            yield writer

    @cached_property
    def _engine(self) -> "Engine":
        import sqlalchemy

        url = sqlalchemy.URL.create("sqlite", database=str(self.file)) if self.file else str(self.place)
        options: dict[str, Any] = {"connect_timeout": PATIENCE}
        if self.file:  # whose module would begin transactions of its own, and too late
            options = {"timeout": PATIENCE, "isolation_level": None}
        try:
            return sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, connect_args=options)
        except ModuleNotFoundError as error:
            raise MissingError(
                f"registry.ledger_url {self.place} needs the Python package {error.name}, which is not installed; "
                "`pip install 'psycopg[binary]'` brings it"
            ) from error

    @contextmanager
    def _failing(self, kind: type[Exception]) -> Iterator[None]:
        """Turn a database's errors into ours."""
        try:
            yield
        except kind as error:
            if is_full(error):
                raise disk_full(self.place) from error
            cause = str(getattr(error, "orig", None) or error).splitlines()[0]
            remedy = "restore it from a copy" if self.file else "start it, or mend registry.ledger_url"
            if "disk I/O error" in cause:  # SQLite's word for a quota or a limit too
                remedy = "free some space, or mend the disk; nothing was written"
            raise RegistryError(f"the ledger {self.place} cannot be used: {cause}; {remedy}") from error


class Writer:
    """What is done inside one transaction."""

    def __init__(self, connection: "Connection") -> None:
        self.connection = connection
        self.dialect = connection.dialect.name

    def run(self, statement: str, **values: Any) -> Any:
        """Run one statement of SQL, with ``:name`` for a value."""
        from sqlalchemy import text

        return self.connection.execute(text(statement), values)

    def rows(self) -> list[Row]:
        """All rows, oldest first."""
        return [(row.number, row.body, row.seal) for row in self.run(ROWS)]

    def add(self, row: Row) -> None:
        """Add a row."""
        number, body, seal = row
        self.run("INSERT INTO entries VALUES (:number, :body, :seal)", number=number, body=body, seal=seal)

    def take_lease(self, holder: str, term: float) -> int:
        """Take the lease, if no other holder has it; returns its number, one more than the one before.

        Raises:
            BusyError: another holds it.
        """
        row, left = self._lease()
        if row and _holds(left) and row.holder != holder:
            raise BusyError(
                f"{row.holder} is moving the champion; its lease ends in {left:.0f} seconds at the latest; try again "
                "then"
            )
        fence = row.fence + 1 if row else 1
        self.run(TAKE, holder=holder, expires=self._now() + term, fence=fence)
        return fence

    def check_lease(self, fence: int) -> None:
        """The lease must be held under this number.

        Raises:
            BusyError: it is past its end, or another has taken it since.
        """
        row, left = self._lease()
        if row and row.fence == fence and _holds(left):
            return
        since = f"{row.holder} has it now" if row and row.fence > fence else f"it lasts {TERM:.0f} seconds"
        raise BusyError(
            f"the lease on the champion, number {fence}, has ended ({since}); nothing was written; run the same "
            "command again"
        )

    def end_lease(self, fence: int) -> None:
        """Give the lease back, if it is still held under this number."""
        self.run("UPDATE leases SET expires = 0 WHERE fence = :fence", fence=fence)

    def _lease(self) -> tuple[Any, float]:
        """The lease that was taken last, if one was, and the seconds to its end."""
        row = self.run("SELECT holder, expires, fence FROM leases").first()
        return row, row.expires - self._now() if row else 0.0

    def _now(self) -> float:
        return float(self.run(NOW[self.dialect]).scalar_one())


def _holds(left: float) -> bool:
    """Whether a lease is not past its end; nor further from it than a term, as when the clock was set back since."""
    return 0 < left <= TERM + 1
