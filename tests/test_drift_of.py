"""``staytuned drift FILE``: what is said of rows that nobody has labelled, and that nothing is taken in."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from receiver import Receiver
from test_compare import promote
from test_drift_stage import CHECKS, add, alike, drifted, made, strange  # noqa: F401 - made is a fixture
from tiny import make_rows, make_workspace, set_params, write_csv

from staytuned import cli
from staytuned.drift_of import drift_of
from staytuned.errors import BusyError, DataError, MissingError
from staytuned.files import read_json, sha256
from staytuned.workspace import Workspace

pytestmark = pytest.mark.xdist_group("great expectations")  # one worker imports it

UNLABELLED = CHECKS - {"labels"}
VIEWS = ("reports/drift-of/", "var/pieces/", "var/drift-of", "var/champion")


@pytest.fixture(scope="module")
def served(made: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The champion is that of the ledger; the pin, which a promotion does not move, names none."""
    folder = shutil.copytree(made.root, tmp_path_factory.mktemp("served") / "workspace", symlinks=True)
    workspace = Workspace(folder)
    promote(workspace)
    shutil.rmtree(workspace.pin)
    return workspace


@pytest.fixture
def workspace(served: Workspace, tmp_path: Path) -> Workspace:
    return Workspace(shutil.copytree(served.root, tmp_path / "copy", symlinks=True))


def bare(rows: list[dict[str, str]], *columns: str) -> list[dict[str, str]]:
    return [{name: row[name] for name in ("text", *columns)} for row in rows]


def put(workspace: Workspace, rows: list[dict[str, Any]], name: str = "new.csv") -> Path:
    return write_csv(workspace.root / name, rows)


def state(workspace: Workspace) -> dict[str, str]:
    """All files but what the command may leave."""
    files = {str(path.relative_to(workspace.root)): path for path in workspace.root.rglob("*") if path.is_file()}
    return {name: sha256(path) for name, path in files.items() if not name.startswith(VIEWS)}


def test_texts_alone_of_the_same_kind_are_no_drift_and_nothing_is_taken_in(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = put(workspace, bare(alike()[1]))
    monkeypatch.setenv("COLUMNS", "160")
    arguments = cli.parser().parse_args(["drift", str(file)])
    with workspace.hold():  # a run is at work
        before = state(workspace)
        arguments.command(workspace, arguments)
        assert state(workspace) == before
    report = read_json(workspace.drift_of("new") / "drift.json")
    assert set(report["checks"]) == UNLABELLED and report["skipped"] == {"labels": "the new rows have no labels"}
    assert report["champion"] == 1 and not report["alarm"] and report["said"].startswith("No drift: the 120 newest")
    assert report["window"]["groups"] == 120  # a row is a group of its own
    assert report["window"]["metric"] is None and report["window"]["accuracy"] is None
    value, (low, high) = report["estimated_accuracy"]["value"], report["estimated_accuracy"]["change"]
    shown, told = capsys.readouterr()
    assert "staytuned, drift" not in told
    assert report["said"] in shown and f"{report['reference']['accuracy']:.3f}" in shown
    assert (
        f"estimated without labels {value:.3f} ({low:+.3f} to {high:+.3f} against the reference)" in shown
        and "none" in shown
    )
    page = (workspace.drift_of("new") / "report.html").read_text()
    assert "<h1>Drift of new.csv</h1>" in page and "decision.html" not in page  # no decision was about this file


def test_texts_of_another_kind_are_and_are_told_and_not_printed(
    workspace: Workspace, capfd: pytest.CaptureFixture[str], receiver: Receiver
) -> None:
    set_params(workspace, alerts__urls=[receiver.url])
    report = drift_of(workspace, put(workspace, bare(strange(200), "source")))
    assert report["alarm"] and report["checks"]["domain_classifier"]["alarm"]
    assert [got["message"] for got in receiver.got] == [f"new.csv: {report['said']}"]
    shown = " ".join(capfd.readouterr().out.replace("│", " ").split())
    assert "Drift: the 120 newest rows" in shown and "told apart by a classifier" in shown and "overall" not in shown
    assert "estimated without labels" in shown and "may be far off" in shown
    page = (workspace.drift_of("new") / "report.html").read_text()
    assert "street" in page and "overall &lt;b&gt;" in page  # the texts are there
    assert "reports/drift-of/new/report.html shows" in report["said"] and "`staytuned ingest`" in report["said"]


def test_the_stage_says_the_same_of_the_same_rows_once_they_are_ingested(workspace: Workspace) -> None:
    rows = make_rows(120, seed=1)
    before = drift_of(workspace, put(workspace, bare(rows, "id", "source", "document")))
    add(workspace, rows)
    shutil.copytree(workspace.version(1), workspace.pin / "champion")
    (workspace.pin / "pin.json").write_text('{"champion": {"version": 1}}')
    after = drifted(workspace)
    assert before["reference"] == after["reference"]
    assert after["window"]["groups"] == before["window"]["groups"] == 30
    assert after["window"]["rows"] == before["window"]["rows"] == 120
    for name in UNLABELLED:
        assert before["checks"][name]["value"] == pytest.approx(after["checks"][name]["value"], abs=1e-6), name
    assert before["estimated_accuracy"]["value"] == pytest.approx(after["estimated_accuracy"]["value"], abs=1e-6)
    assert "labels" in after["checks"] and after["window"]["accuracy"] is not None


def test_labels_are_not_used_and_ids_that_the_reference_has_too_confuse_nothing(workspace: Workspace) -> None:
    rows = bare(make_rows(120, seed=5), "document", "source")
    ids = [row["id"] for row in make_rows(120)]  # those of the first batch
    known = drift_of(
        workspace, put(workspace, [row | {"id": f"new {id_}"} for row, id_ in zip(rows, ids, strict=True)])
    )
    with_labels = [row | {"id": id_, "label": "none such"} for row, id_ in zip(rows, ids, strict=True)]
    assert drift_of(workspace, put(workspace, with_labels)) == known


def test_rows_that_cannot_be_looked_at_are_left_out_and_counted(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = bare(make_rows(12, seed=1), "id", "source")
    rows[1]["text"], rows[3]["id"] = " ", rows[2]["id"]
    report = drift_of(workspace, put(workspace, rows))
    assert report["window"]["rows"] == 10
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 × text is blank" in shown and "1 × id was there before" in shown and rows[2]["id"] not in shown


def test_few_groups_are_not_enough_to_say_and_the_newest_whole_ones_are_the_window(workspace: Workspace) -> None:
    set_params(workspace, drift__window=18)
    report = drift_of(workspace, put(workspace, bare(make_rows(40, seed=1), "document", "source")))
    assert report["said"].startswith("Not enough to say: 16 new rows in 4 groups, against ")
    assert report["estimated_accuracy"] is None
    assert report["said"] in (workspace.drift_of("new") / "report.html").read_text()


def test_what_cannot_be_looked_at_is_refused_with_what_to_do(workspace: Workspace) -> None:
    with pytest.raises(MissingError, match=r"there is no file .*none\.csv; check the path"):
        drift_of(workspace, workspace.root / "none.csv")
    with pytest.raises(DataError, match=r"lacks ingest\.columns\.text: text; it has 'review'; map the columns"):
        drift_of(workspace, put(workspace, [{"review": "a lovely lamp"}]))
    with pytest.raises(DataError, match=r"has no row that can be looked at: 1 × text is blank; give a file with texts"):
        drift_of(workspace, put(workspace, [{"text": " ", "document": "1"}]))
    set_params(workspace, drift__window=3)
    with pytest.raises(DataError, match=r"each group of .* has more rows than drift\.window \(3\); raise that, or"):
        drift_of(workspace, put(workspace, bare(make_rows(8, seed=1), "document")))
    with workspace.hold("drift-of"), pytest.raises(BusyError, match="wait until it ends"):
        drift_of(workspace, put(workspace, bare(make_rows(8, seed=1))))
    workspace.split.unlink()
    with pytest.raises(MissingError, match=r"there is no .*split\.parquet yet; `staytuned run` makes it"):
        drift_of(workspace, put(workspace, bare(make_rows(8, seed=1))))


def test_without_a_champion_it_says_how_to_get_one(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "workspace")
    with pytest.raises(MissingError, match="there is no champion yet; `staytuned run` trains one"):
        drift_of(workspace, put(workspace, [{"text": "a lovely lamp"}]))
