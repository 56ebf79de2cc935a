"""The drift stage: what it compares, what it says, what it leaves behind."""

import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest
from ruamel.yaml import YAML
from shell import no_room, staytuned
from test_road import run
from tiny import make_rows, make_workspace, set_params, write_csv

from staytuned import scoring
from staytuned.data import batches
from staytuned.data.readers import Reader
from staytuned.data.sides import TEST, TRAINED_ON, row_hashes, rows_of
from staytuned.errors import is_full
from staytuned.files import read_json, sha256, write_json
from staytuned.params import Params
from staytuned.predictor import Predictor, frame_of
from staytuned.stages import drift, encode, evaluate, split, train, validate
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
    set_params(workspace, train__epochs=2, split__test=0.3, drift__draws=200, drift__window=120)
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


CHECKS = {"domain_classifier", "embeddings", "text_length", "unknown_words", "labels", "answers", "confidence"}


def strange(count: int) -> list[dict[str, str]]:
    """Rows of another kind: one word over and over, one label."""
    rows = make_rows(count, seed=1)
    return [
        row | {"text": f"{row['text']} overall overall <b>", "label": "negative", "source": "street"} for row in rows
    ]


def test_rows_of_the_same_kind_are_no_drift(workspace: Workspace) -> None:
    add(workspace, alike()[1])
    report = drifted(workspace)
    assert report["skipped"] == {} and set(report["checks"]) == CHECKS
    assert report["reference"]["rows"] >= 590  # of all sides but those kept out
    low, high = report["estimated_accuracy"]["change"]
    assert low < report["estimated_accuracy"]["value"] - report["reference"]["accuracy"] < high
    low, high = report["window"]["change"]
    assert low < report["window"]["metric"] - report["reference"]["metric"] < high
    assert report["champion"] == 3 and report["enough"] and not report["alarm"]
    assert 115 <= report["window"]["rows"] <= 120 and report["window"]["groups"] == 30
    assert report["said"].startswith("No drift")


def test_answers_to_groups_that_the_champion_learned_from_are_not_held_against_others(workspace: Workspace) -> None:
    """It knows the rows of an author better whose other rows it has seen: in the reference none of them counts."""
    add(workspace, alike()[1])
    before = drifted(workspace)
    rows = pandas.concat([rows_of(workspace, side) for side in ("train", "validation", "test")])
    seen = row_hashes(rows[rows["batch"].isin(before["window"]["batches"])])
    file = workspace.pin / "champion" / TRAINED_ON
    numpy.concatenate([numpy.fromfile(file, "<u8"), seen]).tofile(file)
    report = drifted(workspace)
    few = "of the window only 0 groups were not trained on, of the 5 that it takes"
    assert report["skipped"] == {"answers": few, "confidence": few}
    assert set(report["checks"]) == CHECKS - {"answers", "confidence"}
    assert report["window"]["metric"] is None and report["estimated_accuracy"] is None
    assert before["window"]["metric"] is not None and before["window"]["rows"] == report["window"]["rows"]
    page = " ".join((workspace.drift / "report.html").read_text().split())
    assert "in 30 groups (0 of them of groups and texts that the champion had not seen: answers and quality" in page


def test_groups_that_are_larger_than_a_window_are_named(workspace: Workspace) -> None:
    add(workspace, alike()[1])
    set_params(workspace, drift__window=1)  # a document has four rows
    report = drifted(workspace)
    assert re.match(r"Nothing was looked at: each group of the \d+ rows that came since version 3 ", report["said"])
    assert "raise that" in report["said"] and not report["enough"]


def answers_of(workspace: Workspace, texts: list[str]) -> list[str]:
    """What the champion says, asked without anything of the drift stage."""
    champion = Predictor(workspace.pin / "champion")
    answers, _ = champion.task.sureness(champion.predict(frame_of(texts)))  # type: ignore[misc]
    return answers


def test_the_estimated_accuracy_stands_beside_the_true_one_of_the_same_rows(workspace: Workspace) -> None:
    rows = make_rows(120, seed=1)
    answers = answers_of(workspace, [row["text"] for row in rows])
    other = {"positive": "negative", "negative": "neutral", "neutral": "positive"}
    labels = [other[answer] if place % 4 == 3 else answer for place, answer in enumerate(answers)]  # in each document
    add(workspace, [row | {"label": label} for row, label in zip(rows, labels, strict=True)])
    report = drifted(workspace)
    truth, before = report["window"]["accuracy"], report["reference"]["accuracy"]
    assert truth == pytest.approx(0.75, abs=0.02)  # near-duplicates may be kept out
    value, (low, high) = report["estimated_accuracy"]["value"], report["estimated_accuracy"]["change"]
    assert value == pytest.approx(before, abs=0.1) and before + high < truth  # labels have no part in it
    page = (workspace.drift / "report.html").read_text()
    metric, (loss, gain) = report["window"]["metric"], report["window"]["change"]
    assert f"<td>{metric:.3f} ({loss:+.3f} to {gain:+.3f} against the reference)</tr>" in page
    between = f"({low:+.3f} to {high:+.3f} against the reference)"
    said = f"estimated without labels {value:.3f} {between}; with the labels that came: {truth:.3f}"
    assert f"<td>accuracy<td>{before:.3f}<td>{said}</tr>" in page


def test_rows_of_another_kind_are(workspace: Workspace) -> None:
    add(workspace, strange(300))
    report = drifted(workspace)
    assert report["alarm"] and report["checks"]["domain_classifier"]["alarm"] and report["checks"]["labels"]["alarm"]
    assert "told apart by a classifier" in report["said"]


def test_the_window_is_of_the_newest_batches_and_the_reference_of_the_champions(workspace: Workspace) -> None:
    champions = batches.manifest(workspace)[0].batch[:16]
    assert read_json(workspace.pin / "champion" / "staytuned.json")["batches"] == [champions]
    for seed in (1, 2):
        add(workspace, make_rows(80, seed=seed))
    report = drifted(workspace)
    assert report["window"]["batches"] == [batch.batch[:16] for batch in batches.manifest(workspace)[1:]]
    assert 118 <= report["window"]["rows"] <= 120  # the last batch, half of the one before, less what is kept out


def test_without_later_rows_there_is_nothing_to_compare(workspace: Workspace) -> None:
    report = drifted(workspace)
    assert not report["enough"] and not report["alarm"] and report["checks"] == {}
    assert report["said"] == "No row has come since version 3 was trained."


def test_few_groups_are_not_enough_to_say(workspace: Workspace) -> None:
    add(workspace, make_rows(16, seed=1))  # four documents
    report = drifted(workspace)
    assert not report["enough"] and report["said"].startswith("Not enough to say: 16 new rows in 4 groups")


def test_answers_are_not_compared_where_the_champion_knew_nearly_all_of_the_reference(workspace: Workspace) -> None:
    set_params(workspace, drift__reference=200)
    add(workspace, alike()[1])
    report = drifted(workspace)
    assert report["enough"] and set(report["checks"]) == CHECKS - {"answers", "confidence"}
    assert "not trained on" in report["skipped"]["answers"]
    assert report["estimated_accuracy"] is None and report["reference"]["metric"] is None
    assert report["window"]["metric"] is not None and report["window"]["accuracy"] is not None
    page = (workspace.drift / "report.html").read_text()
    assert "estimated without labels" not in page and "<td>with the labels that came: " in page


def test_without_a_champion_it_says_so_and_loads_no_torch(workspace: Workspace) -> None:
    shutil.rmtree(workspace.pin)
    code = (
        "import sys; from staytuned.workspace import Workspace; from staytuned.params import Params\n"
        "from staytuned.stages import drift; space = Workspace.find()\n"
        "drift.run(space, Params.read(space.params)); print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=workspace.root, capture_output=True, text=True)
    assert done.stdout == "False False\n", done.stderr
    report = read_json(workspace.drift / "drift.json")
    assert report["champion"] is None and not report["enough"] and not report["alarm"]
    assert "There was no champion" in (workspace.drift / "report.html").read_text()


def files(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in folder.iterdir()}


@pytest.mark.parametrize("spoil", ["gone", "torn", "as they are"])
def test_the_same_rows_give_the_same_bytes_whatever_is_in_the_piece_store(workspace: Workspace, spoil: str) -> None:
    add(workspace, alike()[1])
    drifted(workspace)
    first = files(workspace.drift)
    pieces = sorted(piece for name in ("drift", "embeddings") for piece in (workspace.pieces / name).iterdir())
    assert {piece.parent.name for piece in pieces} == {"drift", "embeddings"}
    for piece in pieces:
        if spoil == "gone":
            piece.unlink()
        elif spoil == "torn":
            piece.write_bytes(piece.read_bytes()[: piece.stat().st_size // 2])
    shutil.rmtree(workspace.drift)
    drifted(workspace)
    assert files(workspace.drift) == first


def test_a_full_disk_at_any_write_leaves_nothing_half_written_and_the_next_try_is_whole(workspace: Workspace) -> None:
    add(workspace, alike()[1])
    drifted(workspace)
    whole = files(workspace.drift)
    sizes = {path.name: path.stat().st_size for path in workspace.drift.iterdir()}
    smallest = min((name for name in sizes if name.endswith(".png")), key=sizes.__getitem__)
    assert sizes["drift.json"] < sizes[smallest] < sizes["report.html"]
    for name in ("drift.json", smallest, "report.html"):
        shutil.rmtree(workspace.drift)
        with no_room(above=sizes[name] - 1), pytest.raises(OSError) as caught:
            drifted(workspace)
        assert is_full(caught.value) and name not in files(workspace.drift)
        assert files(workspace.drift).items() <= whole.items()  # what is there is whole
    shutil.rmtree(workspace.pieces)
    with no_room(), pytest.raises(OSError) as caught:
        drifted(workspace)
    assert is_full(caught.value) and not [path for path in workspace.pieces.rglob("*") if path.is_file()]
    drifted(workspace)
    assert files(workspace.drift) == whole


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The rows that a model is asked about from now on."""
    found, ask = list[str](), scoring._asked

    def listening(predictor: Any, lots: list[pandas.DataFrame], examples: Any) -> Any:
        found.extend(row for rows in lots for row in rows["row"])
        return ask(predictor, lots, examples)

    monkeypatch.setattr(scoring, "_asked", listening)
    return found


def test_the_champion_is_asked_about_new_rows_alone(workspace: Workspace, asked: list[str]) -> None:
    add(workspace, alike()[1][:100])
    drifted(workspace)
    assert len(asked) > 100
    asked.clear()
    new = alike()[1][100:140]
    add(workspace, new)
    drifted(workspace)
    assert sorted(asked) == sorted(f"shop:{row['id']}" for row in new)
    kept, report = len(list((workspace.pieces / "drift").iterdir())), files(workspace.drift)
    asked.clear()
    drifted(workspace)
    assert asked == []
    shutil.rmtree(workspace.pieces / "drift")
    drifted(workspace)
    assert files(workspace.drift) == report and len(list((workspace.pieces / "drift").iterdir())) == kept


def test_what_was_asked_by_evaluate_is_not_asked_again_nor_the_other_way_round(
    workspace: Workspace, asked: list[str]
) -> None:
    add(workspace, alike()[1])
    drifted(workspace)
    alone, by_drift = files(workspace.drift), set(asked)
    params = Params.read(workspace.params)
    encode.run(workspace, params)
    asked.clear()
    evaluate.run(workspace, params)
    tested = set(rows_of(workspace, TEST)["row"])
    assert by_drift & tested and set(asked) == tested - by_drift
    shutil.rmtree(workspace.pieces / "drift")
    asked.clear()
    drifted(workspace)
    assert files(workspace.drift) == alone and set(asked) == by_drift - tested


def test_the_page_shows_what_moved_and_loads_nothing_from_elsewhere(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    add(workspace, strange(300))
    capfd.readouterr()
    report = drifted(workspace)
    page = (workspace.drift / "report.html").read_text()
    assert not re.search(r"(src|href)=.?(https?:|//|/|\w+\.(js|css|png))|@import|url\(", page)
    assert page.count("data:image/png;base64,") == len(report["checks"])
    for shown in ("street", "overall, ", "overall &lt;b&gt;", report["said"].replace(drift.PAGE, drift.ITSELF)):
        assert shown in page
    assert "<b>" not in page
    assert "overall" not in "".join(capfd.readouterr())  # texts are for the page, not for the log


def test_after_one_more_arrival_dvc_says_what_drifted(road: Workspace) -> None:
    file = write_csv(road.root / "new.csv", strange(100))
    assert staytuned(road, "ingest", file).returncode == 0
    run(road, "dvc", "repro", "drift")
    report = read_json(road.drift / "drift.json")
    assert report["champion"] == 1 and report["alarm"] and report["window"]["rows"] == 100
    stages = YAML(typ="safe").load(road.lock)["stages"]
    assert "drift" in stages
    assert "didn't change" in run(road, "dvc", "repro", "drift")
