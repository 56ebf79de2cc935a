"""The servers of MLflow and Prefect: their pages, and a Prefect for the time of a run where none is named."""

import atexit
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from staytuned.errors import BusyError, disk_full, is_disk_full
from staytuned.processes import die_with_parent
from staytuned.workspace import Workspace

PATIENCE = 120  # seconds for Prefect's server to start: a busy machine needs more than 20
PATIENCE_AT_END = 10  # seconds for a server to end by itself


def prefect_settings(workspace: Workspace) -> None:
    """Prefect's own files go into the workspace, and it is quiet."""
    for name, value in {
        "PREFECT_HOME": str(workspace.var / "prefect"),
        "PREFECT_LOGGING_LEVEL": "CRITICAL",  # an error is told once, by the command, without a traceback
    }.items():
        os.environ.setdefault(name, value)


def start_prefect(workspace: Workspace) -> str:
    """Start a Prefect server that ends with this process; returns the address of its API.

    Raises:
        BusyError: it does not answer in time.
        StorageError: the disk is full.
    """
    with prefect_starting(workspace) as url:
        return url


@contextmanager
def prefect_starting(workspace: Workspace) -> Iterator[str]:
    """The same, for work that needs no server yet: it starts while the block runs, and answers when the block is left.

    Prefect would start one itself, but that one takes Ctrl-C for itself, and outlives a run that is killed.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    log = workspace.var / "prefect" / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    words = ["server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", *words],
            stdout=output,
            stderr=output,
            cwd=workspace.root,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    atexit.register(server.kill)
    yield url
    _wait(server, url, log)


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while server.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    server.kill()
    if is_disk_full(log.parent):
        raise disk_full(log.parent)
    raise BusyError(f"Prefect's server did not start within {PATIENCE} seconds; {log} says why; try again")


def serve(workspace: Workspace) -> None:
    """Serve the pages of MLflow and Prefect on loopback until Ctrl-C."""
    from staytuned.registry import local_store  # a run that starts Prefect's server has imported it in its time

    prefect_settings(workspace)
    local_store.make(workspace)
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # seven processes that nobody asks, and that outlive it
    mlflow = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        f"sqlite:///{workspace.var / 'mlflow.db'}",
    ]
    mlflow += ["--default-artifact-root", (workspace.var / "mlflow-artifacts").as_uri(), "--workers", "1"]
    prefect = [sys.executable, "-m", "prefect", "server", "start"]
    places = {"MLflow": (mlflow, 5000), "Prefect": (prefect, 4200)}
    servers = []
    for name, (command, port) in places.items():
        words = [*command, "--host", "127.0.0.1", "--port", str(port)]
        servers.append(subprocess.Popen(words, preexec_fn=die_with_parent))
        print(f"{name}: http://127.0.0.1:{port}")
    try:
        for server in servers:
            server.wait()
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            try:
                server.wait(PATIENCE_AT_END)
            except subprocess.TimeoutExpired:
                server.kill()
