"""DVC as the project uses it."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import make_rows, make_workspace, write_csv

from staytuned import pipeline, road, start
from staytuned.errors import DataError, RegistryError
from staytuned.workspace import Workspace

BIN = Path(sys.executable).parent
STAGES = ["validate", "split", "drift", "encode", "train", "evaluate"]


def test_a_stage_runs_in_its_workspace_wherever_the_command_was_given(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "workspace")
    road.ingest(workspace, write_csv(tmp_path / "rows.csv", make_rows(8)))
    here = Path.cwd()
    assert here != workspace.root
    assert pipeline.stage_order(workspace) == STAGES
    assert pipeline.stale(workspace) == sorted(STAGES)
    assert pipeline.run_stage(workspace, "validate")
    assert not pipeline.run_stage(workspace, "validate")
    assert pipeline.stale(workspace) == sorted(STAGES[1:])
    assert workspace.accepted.exists()
    assert Path.cwd() == here


def test_a_workspace_that_git_ignores_is_used_as_one_outside_git(tmp_path: Path) -> None:
    for words in (["init", "--quiet"], ["config", "user.email", "a@b.example"], ["config", "user.name", "A"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    (tmp_path / ".gitignore").write_text("/demo/\n")
    ignored, tracked = start.init(tmp_path / "demo"), start.init(tmp_path / "own")
    for workspace in (ignored, tracked):
        workspace.batches.mkdir(parents=True)
        (workspace.batches / "one").write_text("a row")
        workspace.manifest.write_text("")
        pipeline.track(workspace, workspace.batches)
    assert (ignored.root / "data" / "batches.dvc").exists()
    assert "no_scm = true" in (ignored.root / ".dvc" / "config.local").read_text()
    assert not (tracked.root / ".dvc" / "config.local").exists()


@pytest.mark.parametrize("before", ["", "[core]\n    autostage = true\n", "['remote \"far\"']\n    url = /far\n"])
def test_what_the_local_settings_say_stays_beside_the_word_on_git(tmp_path: Path, before: str) -> None:
    workspace = start.init(tmp_path / "workspace")
    local = workspace.root / ".dvc" / "config.local"
    local.write_text(before)
    for _ in range(2):
        with pipeline.opened(workspace) as repo:
            assert repo.config["core"]["no_scm"] is True
    assert set(before.splitlines()) <= set(local.read_text().splitlines()) and local.read_text().count("[core]") == 1
    subprocess.run(["git", "init", "--quiet"], cwd=workspace.root, check=True)
    with pipeline.opened(workspace) as repo:
        assert repo.config["core"]["no_scm"] is False


@pytest.mark.parametrize("left", ['{"write": {', '{"write": {HERE: DEAD}, "read": {"elsewhere": [DEAD, OURS]}}'])
def test_what_a_killed_process_left_of_dvcs_locks_is_no_obstacle(tmp_path: Path, left: str) -> None:
    workspace = make_workspace(tmp_path / "workspace")
    workspace.batches.mkdir(parents=True)
    record = workspace.root / ".dvc" / "tmp" / "rwlock"
    record.parent.mkdir(exist_ok=True)
    dead, ours = '{"pid": 4194999, "cmd": "killed"}', json.dumps({"pid": os.getppid(), "cmd": "at work"})
    here = json.dumps(str(workspace.batches))
    record.write_text(left.replace("HERE", here).replace("DEAD", dead).replace("OURS", ours))
    pipeline.track(workspace, workspace.batches)
    found = json.loads(record.read_text())
    assert not found.get("write")
    assert found.get("read", {}) == ({"elsewhere": [json.loads(ours)]} if "OURS" in left else {})


@pytest.mark.parametrize("torn", ["", '{"write": {'])
def test_what_is_stale_can_be_asked_behind_a_record_of_locks_that_a_kill_tore(tmp_path: Path, torn: str) -> None:
    """It is the first thing that a run asks of DVC."""
    workspace = make_workspace(tmp_path / "workspace")
    workspace.batches.mkdir(parents=True)
    (workspace.batches / "one").write_text("a row")
    workspace.manifest.write_text("")
    pipeline.track(workspace, workspace.batches)
    stale = pipeline.stale(workspace)
    (workspace.root / ".dvc" / "tmp" / "rwlock").write_text(torn)
    assert pipeline.stale(workspace) == stale


LOCK = "schema: '2.0'\nstages:\n  validate:\n"
CUT = LOCK + "    cmd: python -m staytuned.stages validate\n    deps:\n    - path: data/batches\n      hash: md"


@pytest.mark.parametrize("torn", ["", LOCK, LOCK[:-5], CUT])
def test_a_lock_file_that_a_kill_tore_is_no_obstacle(tmp_path: Path, torn: str) -> None:
    workspace = make_workspace(tmp_path / "workspace")
    stale = pipeline.stale(workspace)
    (workspace.root / "dvc.lock").write_text(torn)
    assert pipeline.stale(workspace) == stale


def test_a_lock_file_that_git_left_in_conflict_is_kept_and_named(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "workspace")
    (workspace.root / "dvc.lock").write_text("<<<<<<< HEAD\nschema: '2.0'\n=======\n>>>>>>> other\n")
    with pytest.raises(DataError, match=r"dvc\.lock.*take either side"):
        pipeline.stale(workspace)
    assert (workspace.root / "dvc.lock").exists()


@pytest.fixture
def pushed(tmp_path: Path) -> Workspace:
    """A workspace with a batch of two files, all of which the remote has."""
    workspace = make_workspace(tmp_path / "workspace")
    workspace.batches.mkdir(parents=True)
    for name in ("one", "two"):
        (workspace.batches / name).write_text(f"rows of {name}")
    workspace.manifest.write_text("")
    pipeline.track(workspace, workspace.batches)
    assert pipeline.push(workspace) == 3  # two files and their folder
    return workspace


def object_of(store: Path, text: str) -> Path:
    digest = hashlib.md5(text.encode()).hexdigest()
    (found,) = store.glob(f"**/{digest[:2]}/{digest[2:]}")
    return found


def test_a_file_that_was_lost_in_the_remote_is_copied_again(pushed: Workspace) -> None:
    lost = object_of(pushed.var / "remote", "rows of one")
    lost.unlink()  # the folder that names it is still there
    assert pipeline.push(pushed) == 1
    assert lost.read_text() == "rows of one"
    assert pipeline.push(pushed) == 0


def test_what_neither_remote_nor_cache_has_is_named(pushed: Workspace) -> None:
    for store in (pushed.var / "remote", pushed.root / ".dvc" / "cache"):
        object_of(store, "rows of two").unlink()
    with pytest.raises(RegistryError, match=r"neither the DVC remote nor the cache here has 1 .*batches/two"):
        pipeline.push(pushed)
    commit = [BIN / "dvc", "commit", "--force", "--quiet", "data/batches.dvc"]  # here no stage has run yet
    subprocess.run(commit, cwd=pushed.root, check=True)
    assert pipeline.push(pushed) == 1


def test_what_was_lost_before_the_first_copy_is_named(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "workspace")
    workspace.batches.mkdir(parents=True)
    (workspace.batches / "one").write_text("rows of one")
    workspace.manifest.write_text("")
    pipeline.track(workspace, workspace.batches)
    object_of(workspace.root / ".dvc" / "cache", "rows of one").unlink()
    with pytest.raises(RegistryError, match=r"neither the DVC remote nor the cache here has 1 .*batches/one"):
        pipeline.push(workspace)
