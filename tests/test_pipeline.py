"""DVC as the project uses it."""

from pathlib import Path

from tiny import make_rows, make_workspace, write_csv

from staytuned import pipeline, road

STAGES = ["validate", "split", "encode", "train", "evaluate"]


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
