"""Places for a ledger: a SQLite file, and a database of a real Postgres where there is one to be had."""

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# The URL of a server on which databases may be made, as postgresql+psycopg://me@host/{}; {} is for the database's name.
# Where none is given, a server is started, if its programs are installed.
POSTGRES = "STAYTUNED_TEST_POSTGRES"
DRIVER = "postgresql+psycopg://"


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a Postgres server, with a place for a database's name."""
    pytest.importorskip("psycopg", reason="the driver of Postgres is not installed")
    if POSTGRES in os.environ:
        yield os.environ[POSTGRES]
        return
    found = [*sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")), shutil.which("initdb")]
    if found == [None]:
        pytest.skip(f"no Postgres: {POSTGRES} names none, and initdb is not installed")
    with _served(Path(str(found[0])).resolve().parent) as folder:
        yield f"{DRIVER}postgres@/{{}}?host={folder}"


@contextmanager
def _served(programs: Path) -> Iterator[str]:
    """A server on a socket in a folder, which is yielded; it refuses to run as root."""
    user = "postgres" if os.getuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        if user:
            shutil.chown(folder, user)
            assert pwd.getpwnam(user).pw_uid

        def run(program: str, *words: str) -> None:
            log = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
            subprocess.run([programs / program, "-D", f"{folder}/data", *words], user=user, check=True, **log)

        run("initdb", "--username=postgres", "--auth=trust", "--no-sync")
        run("pg_ctl", "start", "--wait", "-o", f"-c listen_addresses='' -c fsync=off -k {folder}")
        try:
            yield folder
        finally:
            run("pg_ctl", "stop", "--mode=immediate")


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
