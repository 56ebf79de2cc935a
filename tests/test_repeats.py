"""A row that comes again is set aside and does not count as bad; one that contradicts an earlier one is named so."""

import tempfile
from itertools import pairwise
from pathlib import Path
from unittest import mock

import pandas
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_validate import OTHER, accepted, add, make, quarantined, readmit, with_budget
from tiny import make_rows, set_params

from staytuned.data import verdicts
from staytuned.data.batches import Batch
from staytuned.data.contract import REPEAT, Contract, Reasons
from staytuned.data.data_docs import Validated
from staytuned.data.sides import TRAIN
from staytuned.errors import BudgetError
from staytuned.files import read_json, sha256
from staytuned.params import Params
from staytuned.pieces import Pieces
from staytuned.stages import split, validate

pytestmark = pytest.mark.xdist_group("great expectations")  # one worker imports it


def test_old_rows_that_come_again_are_no_reason_to_stop_and_new_ones_beside_them_go_on(tmp_path: Path) -> None:
    workspace, params = make(tmp_path / "workspace")
    strict = with_budget(params, 0.25)
    rows = make_rows(8)
    rows[3]["label"] = "meh"
    add(workspace, params, rows)
    validate.run(workspace, strict)
    before = sha256(workspace.accepted)
    add(workspace, params, rows[::-1])  # in another order
    validate.run(workspace, strict)
    assert sha256(workspace.accepted) == before
    assert [row["reasons"] for row in quarantined(workspace)][1:] == [
        f"{REPEAT}; {OTHER}: 'meh'" if row["label"] == "meh" else REPEAT for row in rows[::-1]
    ]
    add(workspace, params, [*rows, *make_rows(4, seed=1)])  # the next export holds all rows since the first
    validate.run(workspace, strict)
    report = read_json(workspace.reports / "validation.json")
    assert [row["row"] for row in accepted(workspace)][7:] == [f"shop:1-{number}" for number in range(4)]
    counts = [(one["accepted"], one["quarantined"], one["bad"]) for one in report["batches"]]
    assert counts == [(7, 1, 1), (0, 8, 0), (4, 8, 0)]
    assert report["batches"][2]["said"] == [f"8 × {REPEAT}", f"1 × {OTHER}: 'meh'"]
    assert "<td>8</td>" in (workspace.data_docs / "index.html").read_text(encoding="utf-8")  # quarantined


def test_new_rows_of_an_export_that_holds_all_old_ones_are_learned(tmp_path: Path) -> None:
    workspace, params = make(tmp_path / "workspace")
    params, old, new = with_budget(params, 0.05), make_rows(100), make_rows(60, seed=1)
    for rows in (old, [*new[:30], *old[::-1], *new[30:]]):
        add(workspace, params, rows)
        validate.run(workspace, params)
    split.run(workspace, params)
    sides = pyarrow.parquet.read_table(workspace.split).to_pylist()
    ids = [row["row"] for row in sides]
    assert sorted(ids) == sorted(f"shop:{row['id']}" for row in (*old, *new))
    assert sum(row["row"].startswith("shop:1-") for row in sides if row["side"] == TRAIN) > 30


def test_labels_that_contradict_earlier_ones_are_named_as_such_and_count(tmp_path: Path) -> None:
    workspace, params = make(tmp_path / "workspace")
    strict = with_budget(params, 0.25)
    rows = make_rows(8)
    add(workspace, params, rows)
    turned = {"negative": "neutral", "neutral": "positive", "positive": "negative"}
    again = [row | ({"label": turned[row["label"]]} if number < 3 else {}) for number, row in enumerate(rows)]
    add(workspace, params, again)
    add(workspace, params, again[::-1])  # what was contradicted once stands
    with pytest.raises(BudgetError, match=r"has 3 bad rows of 8, .* 3 × id was there before, with another label"):
        validate.run(workspace, strict)
    reasons = [row["reasons"] for row in quarantined(workspace)]
    contradict = [f"id 'shop:0-{number}' was there before, with another label" for number in range(3)]
    assert reasons == [*contradict, *[REPEAT] * 10, *contradict[::-1]]


def test_a_row_that_was_not_read_whole_is_not_what_a_whole_one_repeats(tmp_path: Path) -> None:
    workspace, params = make(tmp_path / "workspace")
    rows = make_rows(2)
    broken = rows[1] | {"text": "half \ud83d"}
    add(workspace, params, [rows[0], broken])
    add(workspace, params, [broken, rows[1] | {"text": "half ?"}])
    validate.run(workspace, params)
    half = "could not be read whole: 'half of a surrogate pair in text'"
    found = [row["reasons"] for row in quarantined(workspace)]
    assert found == [half, f"{REPEAT}; {half}", "id 'shop:0-1' was there before, with other content"]


def test_a_row_that_was_corrected_repeats_nothing_until_it_comes_again(tmp_path: Path) -> None:
    workspace, params = make(tmp_path / "workspace")
    rows = make_rows(3)
    rows[0]["label"] = "meh"
    add(workspace, params, rows)
    validate.run(workspace, params)
    (meh,) = quarantined(workspace)
    readmit(workspace, [meh | {"label": "neutral"}])
    add(workspace, params, [rows[0], rows[0] | {"label": "neutral"}, rows[0] | {"label": "negative"}])
    validate.run(workspace, params)
    assert [(row["row"], row["label"]) for row in accepted(workspace)][2:] == [("shop:0-0", "neutral")]
    assert [row["reasons"] for row in quarantined(workspace)][1:] == [
        f"{REPEAT}; {OTHER}: 'meh'",
        REPEAT,
        "id 'shop:0-0' was there before, with another label",
    ]


def test_without_ids_equal_rows_are_repeats(tmp_path: Path) -> None:
    workspace, _ = make(tmp_path / "workspace")
    set_params(workspace, ingest__columns__id=None)
    params = Params.read(workspace.params)
    rows = [{name: row[name] for name in ("text", "label", "source")} for row in make_rows(3)]
    add(workspace, params, [*rows, rows[0], rows[1] | {"label": "neutral"}, rows[1] | {"label": "negative"}])
    validate.run(workspace, params)
    assert [row["reasons"] for row in quarantined(workspace)] == [REPEAT] * 2
    assert len(accepted(workspace)) == 4


# In any order


class Plain:
    """A checkpoint that knows blank texts and the columns in which a row is compared with earlier ones."""

    def __init__(self, contract: Contract) -> None: ...

    def reasons(self, name: str, frame: pandas.DataFrame) -> tuple[dict[int, Reasons], Validated]:
        found: dict[int, Reasons] = {}
        for column in ("repeat", "relabelled", "reworded"):
            for place in frame.index[frame[column].notna()]:
                found.setdefault(int(place), {})[column] = frame[column][place]
        for place in frame.index[frame["text"] == ""]:
            found.setdefault(int(place), {})["blank"] = ""
        return found, Validated(name, list(frame["batch"].unique()), len(frame), len(found), 0, {})


Row = tuple[str | None, str, str | None]  # id, text, label
rows_of_few = st.tuples(st.sampled_from(["1", "2", "3", None]), st.sampled_from(["", "a", "b"]), st.sampled_from("xy"))


@st.composite
def arrivals(draw: st.DrawFn) -> list[tuple[Batch, list[Row]]]:
    """Batches, some of corrected rows."""
    rows = draw(st.lists(rows_of_few, min_size=1, max_size=16))
    cuts = sorted(draw(st.sets(st.integers(0, len(rows)), max_size=4)) | {0, len(rows)})
    parts = [rows[start:end] for start, end in pairwise(cuts)]
    return [
        (Batch(str(number), len(part), "", "", {}, 0, number > 0 and draw(st.booleans())), part)
        for number, part in enumerate(parts)
    ]


def judged(came: list[tuple[Batch, list[Row]]], size: int, folder: Path) -> list[Reasons]:
    """The reasons against each row, none for a good one, of batches in chunks."""
    found: list[Reasons] = []
    parts = []
    for batch, rows in came:
        for start in range(0, len(rows), size):
            frame = pandas.DataFrame(rows[start : start + size], columns=["row", "text", "label"], dtype="object")
            frame = frame.assign(text_pair=None, problem=None, batch=batch.batch)
            parts.append(verdicts.Part(batch, start, frame, f"{batch.batch} {start}"))
    with mock.patch.object(verdicts, "Checkpoint", Plain), Pieces(folder, str(size)) as pieces:
        contract = Contract(80, [], paired=False, unlabelled="has no label")
        judge = verdicts.Judge(contract, lambda frame: [None] * len(frame), size, pieces)
        for part, reasons in judge.verdicts(parts):
            found += [reasons.get(place, {}) for place in range(len(part.frame))]
    return found


@settings(max_examples=60, deadline=None, derandomize=True)
@given(arrivals(), st.integers(1, 6))
def test_a_repeat_is_of_an_earlier_row_whatever_the_batches_and_chunks(
    came: list[tuple[Batch, list[Row]]], size: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = judged(came, 100, Path(folder))
        assert found == judged(came, size, Path(folder)) == judged(came, size, Path(folder))  # kept, too
    rows = [row for _, part in came for row in part]
    good = [row[0] for row, why in zip(rows, found, strict=True) if not why and row[0]]
    assert len(good) == len(set(good))
    first: dict[str, Row] = {}
    corrected = any(batch.readmits for batch, _ in came)
    for place, (row, why) in enumerate(zip(rows, found, strict=True)):
        ways = why.keys() - {"blank"}
        assert len(ways) <= 1 and ("repeat" not in ways or row in rows[:place])
        if not corrected and row[0] in first:
            earlier = first[row[0]]
            expected = "repeat" if row == earlier else "relabelled" if row[:2] == earlier[:2] else "reworded"
            assert ways == {expected}
        elif row[0]:
            first[row[0]] = row
            assert corrected or not ways
