"""The registry as MLflow keeps it: made whole, asked by whoever may, under names that it takes."""

import base64
import http.server
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis.strategies import text
from mlflow.utils.validation import _validate_metric_name, _validate_param_name
from tiny import make_workspace, set_params

from staytuned.params import Params
from staytuned.registry.alias import CHAMPION, alias_now
from staytuned.registry.local_store import database
from staytuned.registry.tracking import name_of
from staytuned.registry.versions import Registry

CUT_OFF = """
import os, sys, sqlalchemy
from pathlib import Path
from staytuned.params import Params
from staytuned.registry.versions import Registry
from staytuned.workspace import Workspace

left = int(sys.argv[1])

def count(_connection, _cursor, statement, *_):
    global left
    left -= statement.lstrip().upper().startswith(("CREATE", "ALTER", "DROP"))
    if left < 0:
        os._exit(9)

sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", count)
workspace = Workspace(Path.cwd())
Registry(workspace, Params.read(workspace.params))
"""


def test_a_registry_whose_making_was_cut_off_is_made_again(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "a folder, #1")
    for statements in (14, 40, 60):
        command = [sys.executable, "-c", CUT_OFF, str(statements)]
        assert subprocess.run(command, cwd=workspace.root, capture_output=True).returncode == 9
        assert not database(workspace).exists()
    registry = Registry(workspace, Params.read(workspace.params))
    assert registry.versions() == {} and alias_now(workspace, registry.params, CHAMPION) is None
    assert [path.name for path in workspace.var.glob("*mlflow.db*")] == ["mlflow.db"]


class Guarded(http.server.BaseHTTPRequestHandler):
    """A registry that answers the one who says who they are."""

    def do_GET(self) -> None:
        known = base64.b64encode(b"me:secret").decode()
        may = self.headers["Authorization"] in (f"Basic {known}", "Bearer token")
        self.send_response(200 if may else 401)
        self.end_headers()
        self.wfile.write(b'{"model_version": {"version": "3"}}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    "said",
    [{"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "secret"}, {"MLFLOW_TRACKING_TOKEN": "token"}],
)
def test_a_server_that_asks_who_it_is_is_told_as_mlflow_tells_it(
    tmp_path: Path, said: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = make_workspace(tmp_path / "workspace")
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Guarded) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        set_params(workspace, registry__tracking_uri=f"http://127.0.0.1:{server.server_port}")
        assert alias_now(workspace, Params.read(workspace.params), CHAMPION) == 3
        server.shutdown()


@given(text())
def test_mlflow_takes_every_name_that_a_label_makes(label: str) -> None:
    for validate in (_validate_metric_name, _validate_param_name):
        validate(name_of(f"candidate.{label}"))
