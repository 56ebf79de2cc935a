"""DVC as the project uses it."""

import subprocess
from pathlib import Path

from tiny import make_rows, make_workspace, write_csv

from staytuned import pipeline, road, start

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
