"""Two workspaces that share a registry and a ledger: one promotes at a time, and the other is told."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from shell import command, staytuned
from test_road import champion, mlflow_server  # noqa: F401 - a fixture
from tiny import set_params

from staytuned.registry.ledger import CONFIRMATION, PROMOTION, Ledger
from staytuned.workspace import Workspace

pytestmark = pytest.mark.slow


def test_of_two_that_train_at_once_one_promotes_and_the_other_is_told_and_judges_anew(
    finished_road: Workspace,
    tmp_path: Path,
    mlflow_server: str,
    place: Path | str,
) -> None:
    from tiny import make_workspace

    one = make_workspace(tmp_path / "one")
    url = f"sqlite:///{place}" if isinstance(place, Path) else place
    set_params(one, registry__tracking_uri=mlflow_server, registry__ledger_url=url, gate__margin=0.9)
    assert staytuned(one, "ingest", finished_road.root / "rows.csv").returncode == 0
    done = staytuned(one, "run")
    assert done.returncode == 0, done.stdout + done.stderr
    other = Workspace(shutil.copytree(one.root, tmp_path / "other", symlinks=True))
    set_params(one, train__epochs=7)
    set_params(other, train__epochs=8)
    runs = {space: start(space) for space in (one, other)}
    ended = {space: run.communicate(timeout=400) for space, run in runs.items()}
    (winner,) = [space for space, run in runs.items() if run.returncode == 0]
    (loser,) = {one, other} - {winner}
    assert runs[loser].returncode == 75, ended
    new = champion(winner)  # 2, or 3 where the loser was the first to register
    assert f"version {new} was promoted by" in ended[loser][1] and "Traceback" not in ended[loser][1], ended[loser]
    assert champion(loser) == new > 1

    again = staytuned(loser, "run")
    assert again.returncode in (0, 4), again.stdout + again.stderr
    ledger = Ledger(place)
    moves = [entry for entry in ledger.entries() if entry.kind in (PROMOTION, CONFIRMATION)]
    assert [entry.kind for entry in moves] == [PROMOTION, CONFIRMATION] * (len(moves) // 2)
    promoted = [entry.facts for entry in moves if entry.kind == PROMOTION]
    assert [facts["before"] for facts in promoted] == [None, *(facts["version"] for facts in promoted)][:-1]
    assert not one.ledger.exists() and not other.ledger.exists()
    shown = staytuned(winner, "predict", "a lovely lamp")
    assert shown.stdout.endswith(f"version {promoted[-1]['version']}\n"), shown.stderr


def start(workspace: Workspace) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command("run"), cwd=workspace.root, env=os.environ.copy(), **pipes)
