"""What was dear to make is kept, piece by piece: it changes how long a stage takes, and not a byte of what it says."""

import csv
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pandas
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import make_rows, make_workspace, set_params, write_csv

from staytuned import scoring
from staytuned.data import batches
from staytuned.data.readers import Reader
from staytuned.data.sides import KEPT_OUT, LOT, lots, rows_of
from staytuned.drift.rows import newest
from staytuned.files import read_json, sha256
from staytuned.params import Params
from staytuned.pieces import Pieces, made_by, read_piece, row_groups, write_piece
from staytuned.predictor import Predictor
from staytuned.stages import encode, split, train, validate
from staytuned.workspace import Workspace

pytestmark = pytest.mark.xdist_group("great expectations")  # one worker imports it

STAGES = (validate, split, encode)
Rows = list[dict[str, str]]


# The store


TABLE = pyarrow.table({"name": ["a", "ü", None], "number": [0.5, 1.5, 2.5], "list": [[1], [], [2, 3]]})


def test_a_piece_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert write_piece(tmp_path / "piece", "key", TABLE).equals(TABLE)
    found = read_piece(tmp_path / "piece", "key")
    assert found is not None and found.equals(TABLE)


@pytest.mark.parametrize("cut", [0, 10, 40, 200, -1])
def test_a_torn_piece_or_one_of_another_key_is_refused(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "piece"
    assert read_piece(file, "key") is None
    write_piece(file, "key", TABLE)
    assert read_piece(file, "other key") is None
    file.write_bytes(file.read_bytes()[:cut])
    assert read_piece(file, "key") is None


def test_a_piece_is_made_once_and_goes_when_nobody_asks_for_it(tmp_path: Path) -> None:
    made: list[str] = []

    def get(pieces: Pieces, key: str) -> None:
        pieces.get(key, lambda: made.append(key) or TABLE)

    for keys in (["a", "b"], ["b", "c"], ["a"]):
        with Pieces(tmp_path / "pieces", "code") as pieces:
            for key in keys:
                get(pieces, key)
    assert made == ["a", "b", "c", "a"]
    with Pieces(tmp_path / "pieces", "other code") as pieces:
        get(pieces, "a")
    assert made[-1] == "a" and len(list((tmp_path / "pieces").iterdir())) == 1


def test_a_piece_that_is_kept_beside_is_taken_over(tmp_path: Path) -> None:
    with Pieces(tmp_path / "theirs", "code") as theirs:
        theirs.keep("a", TABLE)
        theirs.keep("b", TABLE)
    with Pieces(tmp_path / "mine", "code", tmp_path / "theirs") as mine:
        found = mine.read("a")
        assert found is not None and found.equals(TABLE) and mine.read("c") is None
    [kept] = (tmp_path / "mine").iterdir()
    assert kept.read_bytes() == (tmp_path / "theirs" / kept.name).read_bytes()
    assert len(list((tmp_path / "theirs").iterdir())) == 2


def test_nothing_goes_where_work_failed(tmp_path: Path) -> None:
    with Pieces(tmp_path / "pieces", "code") as pieces:
        pieces.keep("a", TABLE)
    with pytest.raises(ZeroDivisionError), Pieces(tmp_path / "pieces", "code") as pieces:
        1 / 0  # noqa: B018 - the failure
    assert pieces.read("a") is not None


def test_code_is_told_apart(tmp_path: Path) -> None:
    assert made_by("tasks") == made_by("tasks") != made_by("tasks", "modelling")
    assert made_by("data/groups.py") != made_by("data/sides.py")


def test_a_row_group_is_known_by_its_rows_whatever_stands_before_it(tmp_path: Path) -> None:
    def written(name: str, *groups: list[str]) -> list[tuple[str, int]]:
        schema = pyarrow.schema([("text", pyarrow.string())])
        with pyarrow.parquet.ParquetWriter(tmp_path / name, schema) as writer:
            for texts in groups:
                writer.write_table(pyarrow.table({"text": texts}, schema=schema))
        return row_groups(tmp_path / name)

    one, two, three = written("a", ["x", "y"], ["z"], ["x", "w"])
    assert [rows for _, rows in (one, two, three)] == [2, 1, 2]
    assert len({digest for digest, _ in (one, two, three)}) == 3
    assert written("b", ["z"], ["x", "y"]) == [two, one]


# Stages


def arrivals() -> list[Rows]:
    """Batches with bad rows, an id that was there before, and rows that repeat others."""
    first, second, third, last = (make_rows(count, seed=seed) for seed, count in enumerate((80, 25, 40, 15)))
    first[3]["label"] = "meh"
    second[1]["id"], second[1]["source"] = first[5]["id"], first[5]["source"]
    second[8]["text"] = ""
    for number in range(0, 24, 3):
        second[number + 1]["text"] = first[2 * number]["text"].upper()
        third[number]["text"] = first[3]["text"] + "!"
    return [first, second, third, last]


def arrive(workspace: Workspace, rows: Rows) -> None:
    params = Params.read(workspace.params)
    file = write_csv(workspace.root / "rows.csv", rows)
    batches.add(workspace, Reader(file, params.ingest.columns, params.ingest.encodings))


def readmit(workspace: Workspace) -> None:
    """Correct the labels in the quarantine; a blank text stays as it is."""
    with workspace.quarantine.open(encoding="utf-8", newline="") as handle:
        rows = [row | {"label": "neutral"} for row in csv.DictReader(handle)]
    batches.add(workspace, batches.Corrected(write_csv(workspace.root / "corrected.csv", rows), []), readmits=True)


def outputs(workspace: Workspace) -> dict[str, str]:
    """What the stages made, by name."""
    for stage in STAGES:
        stage.run(workspace, Params.read(workspace.params))
    files = [workspace.accepted, workspace.quarantine, workspace.split]
    files += [*workspace.encoded.iterdir(), *workspace.reports.glob("*.json")]
    assert len(files) == 9
    return {path.name: sha256(path) for path in files}


def from_scratch(workspace: Workspace) -> dict[str, str]:
    shutil.rmtree(workspace.pieces)
    return outputs(workspace)


def pieces_of(workspace: Workspace) -> dict[Path, int]:
    """All pieces, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in sorted(workspace.pieces.rglob("*.arrow"))}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Four batches, each processed as it came, and a readmission."""
    workspace = make_workspace(tmp_path_factory.mktemp("pieces") / "workspace")
    workspace.var.mkdir()
    set_params(workspace, validate__quarantine_budget=1.0, validate__chunk_rows=70, split__test=0.3)
    for number, rows in enumerate(arrivals()):
        arrive(workspace, rows)
        outputs(workspace)
        if number == 1:
            readmit(workspace)
            outputs(workspace)
    return workspace


@pytest.fixture
def workspace(filled: Workspace, tmp_path: Path) -> Workspace:
    return Workspace(shutil.copytree(filled.root, tmp_path / "copy", symlinks=True))


def test_batch_by_batch_gives_the_bytes_of_all_at_once(workspace: Workspace) -> None:
    step_by_step = outputs(workspace)
    sides = pyarrow.parquet.read_table(workspace.split)["side"].to_pylist()
    report = read_json(workspace.reports / "validation.json")
    assert KEPT_OUT in sides and report["quarantined"] > report["readmitted"] > 0  # there is something to get wrong
    assert from_scratch(workspace) == step_by_step


def lose_some(pieces: list[Path]) -> None:
    for path in pieces[::2]:
        path.unlink()


def tear_some(pieces: list[Path]) -> None:
    for path in pieces[1::3]:
        path.write_bytes(path.read_bytes()[:-5])


def swap_some(pieces: list[Path]) -> None:
    for one, other in zip(pieces[::2], pieces[1::2], strict=False):
        one.rename(other.with_suffix(".x"))
        other.rename(one)
        other.with_suffix(".x").rename(other)


@pytest.mark.parametrize("spoil", [lose_some, tear_some, swap_some])
def test_pieces_that_are_lost_torn_or_mixed_up_are_made_again(
    workspace: Workspace, spoil: Callable[[list[Path]], None]
) -> None:
    before = outputs(workspace)
    for folder in workspace.pieces.iterdir():
        spoil(sorted(folder.iterdir()))
    assert outputs(workspace) == before
    written = pieces_of(workspace)
    assert outputs(workspace) == before and pieces_of(workspace) == written


def test_in_any_order_of_arrival_the_bytes_are_those_from_scratch(workspace: Workspace) -> None:
    """The pieces of another order are there, and of no use where a verdict depends on what came before."""
    lines = workspace.manifest.read_text().splitlines(keepends=True)
    before = outputs(workspace)
    random.Random(1).shuffle(lines)
    workspace.manifest.write_text("".join(lines))
    found = outputs(workspace)
    assert found != before and found == from_scratch(workspace)


def test_one_more_batch_leaves_the_other_pieces_as_they_are(workspace: Workspace) -> None:
    outputs(workspace)
    before = pieces_of(workspace)
    arrive(workspace, make_rows(30, seed=9))
    outputs(workspace)
    after = pieces_of(workspace)
    assert {path: after.get(path) for path in before} == before
    assert sorted(path.parent.name for path in after.keys() - before) == ["encoded", "split", "verdicts"]


def test_data_docs_hold_every_batch_though_few_were_asked_about(workspace: Workspace) -> None:
    shutil.rmtree(workspace.data_docs)
    outputs(workspace)
    index = (workspace.data_docs / "index.html").read_text(encoding="utf-8")
    known = [batch.batch[:16] for batch in batches.manifest(workspace)]
    assert all(batch in index for batch in known)
    pages = list(workspace.data_docs.glob("validations/**/*.html"))
    assert len(pages) == index.count('href="validations/') >= len(known)
    assert (workspace.data_docs / "expectations" / "contract.html").is_file()


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"split__salt": 2}, {"split", "encoded"}),
        ({"encode__max_tokens": 6}, {"encoded"}),
        ({"validate__max_characters": 500}, {"verdicts"}),
        ({"validate__quarantine_budget": 0.9}, set()),
    ],
)
def test_a_changed_param_makes_again_what_depends_on_it(
    workspace: Workspace, change: dict[str, Any], again: set[str]
) -> None:
    outputs(workspace)
    before = pieces_of(workspace)
    set_params(workspace, **change)
    outputs(workspace)
    assert {path.parent.name for path, time in pieces_of(workspace).items() if before.get(path) != time} == again


# Models


@pytest.fixture(scope="module")
def asked(filled: Workspace, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pandas.DataFrame]:
    """A model and test rows of several batches."""
    workspace = Workspace(shutil.copytree(filled.root, tmp_path_factory.mktemp("asked") / "copy", symlinks=True))
    set_params(workspace, train__epochs=1)
    train.run(workspace, Params.read(workspace.params))
    rows = rows_of(workspace, "test")
    assert rows["batch"].nunique() > 2
    return workspace.candidate, rows


def said(model: Path, rows: pandas.DataFrame, pieces: Pieces) -> numpy.ndarray:
    """Probabilities by the model for test rows, which are numbered anew."""
    rows = rows.reset_index(drop=True)
    return numpy.stack(scoring.predictions(model, rows.assign(lot=lots(rows.assign(side="test"))), pieces))


def test_a_model_is_asked_about_a_lot_once(asked: tuple[Path, pandas.DataFrame], tmp_path: Path) -> None:
    model, rows = asked
    known = rows[rows["batch"] != rows["batch"].iloc[-1]]

    def in_folder(folder: str, rows: pandas.DataFrame) -> numpy.ndarray:
        with Pieces(tmp_path / folder, "code") as pieces:
            return said(model, rows, pieces)

    some, before = in_folder("kept", known), list((tmp_path / "kept").iterdir())
    step_by_step = in_folder("kept", rows)
    after = set((tmp_path / "kept").iterdir())
    assert after > set(before) and len(after) == len(before) + 1
    assert (step_by_step == in_folder("new", rows)).all() and (step_by_step[: len(known)] == some).all()
    assert step_by_step == pytest.approx(numpy.stack(Predictor(model).predict(rows)), abs=1e-6)
    before[0].write_bytes(b"torn")
    assert (step_by_step == in_folder("kept", rows)).all()


def test_another_models_answers_are_not_taken(asked: tuple[Path, pandas.DataFrame], tmp_path: Path) -> None:
    model, rows = asked
    other = Path(shutil.copytree(model, tmp_path / "other"))
    weights = load_file(other / "model.safetensors")
    weights["head.bias"] += 1 + torch.arange(len(weights["head.bias"]))
    save_file(weights, other / "model.safetensors")
    with Pieces(tmp_path / "pieces", "code") as pieces:
        said(model, rows, pieces)
        theirs = said(other, rows, pieces)
    assert theirs == pytest.approx(numpy.stack(Predictor(other).predict(rows)), abs=1e-6)


# Each row's batch, side and group, in the order of arrival: batch by batch.
ARRIVED = st.lists(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9)), max_size=60), min_size=1, max_size=4)


@given(ARRIVED)
def test_a_lot_is_of_one_side_and_source_of_a_batch_and_stays_as_it_is_when_more_come(
    arrived: list[list[tuple[str, int]]],
) -> None:
    kind = ["batch", "side", "source"]
    rows = pandas.DataFrame(
        [
            (batch, side, f"shop {group % 2}", f"{side}{group}")
            for batch, rows in enumerate(arrived)
            for side, group in rows
        ],
        columns=[*kind, "group"],
    )
    lot = lots(rows)
    for _, part in rows.groupby(lot):
        assert len(part) <= LOT and len(part[kind].drop_duplicates()) == 1
    assert rows.groupby(kind).size().floordiv(-LOT).mul(-1).sum() == lot.nunique()
    before = rows[rows["batch"] < len(arrived) - 1]
    assert set(map(tuple, rows.index.groupby(lot).values())) >= set(
        map(tuple, before.index.groupby(lots(before)).values())
    )


def test_the_newest_groups_are_in_few_lots_though_their_rows_are_not_together() -> None:
    groups = random.Random(1).choices([f"g{number}" for number in range(100)], k=1000)
    rows = pandas.DataFrame({"batch": "b", "side": "test", "source": "shop", "group": groups})
    lot = lots(rows)
    assert lot[newest(rows["group"], 160)].nunique() <= 160 / LOT + 1 < lot[-160:].nunique()
