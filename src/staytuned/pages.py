"""The pages of MLflow and Prefect, and what Prefect is told about the workspace."""

import os
import subprocess
import sys

from staytuned.workspace import Workspace


def prefect_settings(workspace: Workspace) -> None:
    """Prefect's own files go into the workspace; a slow start is no failure."""
    for name, value in {
        "PREFECT_HOME": str(workspace.var / "prefect"),
        "PREFECT_LOGGING_LEVEL": "CRITICAL",  # an error is told once, by the command, without a traceback
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    }.items():
        os.environ.setdefault(name, value)


def serve(workspace: Workspace) -> None:
    """Serve the pages of MLflow and Prefect on loopback until Ctrl-C."""
    prefect_settings(workspace)
    workspace.var.mkdir(exist_ok=True)
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
        servers.append(subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)]))
        print(f"{name}: http://127.0.0.1:{port}")
    try:
        for server in servers:
            server.wait()
    finally:
        for server in servers:
            server.terminate()
