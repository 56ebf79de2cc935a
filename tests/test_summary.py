"""The table that ends a run."""

from pathlib import Path

import pytest

from staytuned import summary
from staytuned.drift.triggers import Answer
from staytuned.files import write_json
from staytuned.workspace import Workspace


def test_brackets_in_a_reason_are_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace, why = Workspace(tmp_path), "label is no JSON list of [start, end]"
    workspace.drift.mkdir(parents=True)
    rows = {"rows": 2, "accepted": 1, "quarantined": 1, "readmitted": 0, "batches": [{"said": [f"1 × {why}"]}]}
    write_json(workspace.reports / "validation.json", rows)
    write_json(workspace.drift / "drift.json", {"enough": False})
    summary.not_due(workspace, Answer(False, [], ["50 of 100 new rows"], 0))
    assert why in capsys.readouterr().out
