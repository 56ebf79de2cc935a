"""The drift stage: what it compares, what it says, what it leaves behind."""

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny import make_rows, make_workspace, set_params, write_csv

from staytuned.data import batches
from staytuned.data.readers import Reader
from staytuned.files import read_json, write_json
from staytuned.params import Params
from staytuned.stages import drift, encode, split, train, validate
from staytuned.workspace import Workspace

pytestmark = pytest.mark.xdist_group("great expectations")  # one worker imports it


def add(workspace: Workspace, rows: list[dict[str, str]]) -> None:
    """Let rows arrive, and bring validation and split up to date."""
    params = Params.read(workspace.params)
    file = write_csv(workspace.root / "rows.csv", rows)
    batches.add(workspace, Reader(file, params.ingest.columns, params.ingest.encodings))
    for stage in (validate, split):
        stage.run(workspace, params)


def alike() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """600 rows and 300 more of the same kind, whole documents in random order: the texts hold a running number."""
    rows = make_rows(900)
    documents = sorted({row["document"] for row in rows})
    random.Random(3).shuffle(documents)
    rows.sort(key=lambda row: documents.index(row["document"]))
    return rows[:600], rows[600:]


def drifted(workspace: Workspace) -> dict[str, Any]:
    drift.run(workspace, Params.read(workspace.params))
    return read_json(workspace.drift / "drift.json")


def pin(workspace: Workspace) -> None:
    """Make the candidate the pinned champion, as a promotion and the next arrival would."""
    shutil.copytree(workspace.candidate, workspace.pin / "champion")
    write_json(workspace.pin / "pin.json", {"champion": {"version": 3, "weights": "x"}, "best": None})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A champion on 600 rows, nothing since."""
    workspace = make_workspace(tmp_path_factory.mktemp("drift") / "made")
    set_params(workspace, train__epochs=2, drift__draws=200, drift__window=120)
    (workspace.var).mkdir()
    add(workspace, alike()[0])
    params = Params.read(workspace.params)
    for stage in (encode, train):
        stage.run(workspace, params)
    pin(workspace)
    return workspace


@pytest.fixture
def workspace(made: Workspace, tmp_path: Path) -> Workspace:
    return Workspace(shutil.copytree(made.root, tmp_path / "copy", symlinks=True))


def strange(count: int) -> list[dict[str, str]]:
    """Rows of another kind: one word over and over, one label."""
    rows = make_rows(count, seed=1)
    return [row | {"text": f"awful noise {'overall ' * 5}", "label": "negative", "source": "street"} for row in rows]


def test_rows_of_the_same_kind_are_no_drift(workspace: Workspace) -> None:
    add(workspace, alike()[1])
    report = drifted(workspace)
    assert report["champion"] == 3 and report["enough"] and not report["alarm"]
    assert report["window"]["rows"] == 120 and report["window"]["groups"] == 30
    assert report["said"].startswith("No drift")


def test_rows_of_another_kind_are(workspace: Workspace) -> None:
    add(workspace, strange(300))
    report = drifted(workspace)
    assert report["alarm"] and report["checks"]["domain_classifier"]["alarm"] and report["checks"]["labels"]["alarm"]
    assert "told apart by a classifier" in report["said"]
