"""What is dear, made once for all workers of a session: a Prefect server, and a road that was run to its end."""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3
from databases import place, postgres  # noqa: F401 - fixtures for all
from filelock import FileLock
from receiver import Receiver
from shell import staytuned

from staytuned.workspace import Workspace


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of the session see."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def prefect_server(shared: Path) -> Iterator[str]:
    """The address of a standing Prefect server, set as PREFECT_API_URL: a flow then starts in seconds.

    The first worker that needs it starts it, the last one that used it ends it.
    """
    record, guard = shared / "prefect.json", FileLock(shared / "prefect.lock")
    with (shared / "prefect.users").open("w") as users:
        with guard:
            fcntl.flock(users, fcntl.LOCK_SH)
            if not record.exists():
                record.write_text(json.dumps(_start_prefect(shared / "prefect")))
            server = json.loads(record.read_text())
        os.environ["PREFECT_API_URL"] = server["url"]
        yield server["url"]
        with guard:
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # another worker still uses it
            os.kill(server["process"], signal.SIGTERM)
            record.unlink()


def _start_prefect(home: Path) -> dict[str, str | int]:
    """Start a server on a free port of loopback and wait until it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    home.mkdir(exist_ok=True)
    settings = {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    words = ["server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", *words], env=os.environ | settings, stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}/api"
    patience = urllib3.Retry(total=500, backoff_factor=0.1, backoff_max=0.3)
    assert urllib3.PoolManager().request("GET", f"{url}/health", retries=patience).status == 200
    return {"url": url, "process": server.pid}


@pytest.fixture(scope="session")
def finished_road(shared: Path, prefect_server: str) -> Workspace:
    """A workspace outside git on which ``staytuned run`` promoted a first champion. Look at it, but change copies."""
    folder = shared / "finished-road"
    with FileLock(shared / "finished-road.lock"):
        if not folder.exists():
            _run_road(shared / "road-under-way").rename(folder)
    return Workspace(folder)


def _run_road(folder: Path) -> Path:
    from tiny import make_rows, make_workspace, write_csv

    shutil.rmtree(folder, ignore_errors=True)
    workspace = make_workspace(folder)
    rows = write_csv(folder / "rows.csv", make_rows(600))
    for words in (["ingest", rows], ["run"]):
        done = staytuned(workspace, *words)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def road(finished_road: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the finished road, for one test to spoil."""
    return Workspace(shutil.copytree(finished_road.root, tmp_path / "road", symlinks=True))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A webhook that keeps what it is sent."""
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
