"""Rows that keep the contract go on; the others are quarantined, each with its reasons, and none is lost."""

import csv
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas
import pyarrow.parquet
import pytest
from shell import no_room
from tiny import make_rows, set_params

from staytuned import tasks
from staytuned.data import batches
from staytuned.data.contract import REPEAT, Checkpoint, Contract
from staytuned.data.readers import Reader
from staytuned.errors import BudgetError
from staytuned.files import read_json, sha256
from staytuned.params import Params
from staytuned.stages import validate
from staytuned.start import init
from staytuned.tasks.text_classification import RatingLabels
from staytuned.workspace import Workspace

pytestmark = pytest.mark.xdist_group("great expectations")  # one worker imports it

OTHER = "label is none of negative, neutral, positive"
HOSTILE = (
    '<img src="http://evil.example/a.png"><script src=//evil.example/a.js></script><a href=//evil.example>x</a>'
    '<meta http-equiv="refresh" content="0;url=http://evil.example/"><video poster="https://evil.example/v"></video>'
    '<link rel=stylesheet href=//evil.example/a.css><b style="background:url(//evil.example/b)">bold</b>'
)

# what is wrong with a row, and the reasons that it gets
CASES: list[tuple[dict[str, Any], list[str]]] = [
    ({}, []),
    ({"text": "  spaces around are fine  "}, []),
    ({"text": "电池很好 👩\N{ZERO WIDTH JOINER}🔧 ممتاز"}, []),
    ({"text": "x" * 80}, []),
    ({"text": "x" * 81}, ["text is longer than 80 characters"]),
    ({"text": None}, ["text is null"]),
    ({"text": ""}, ["text is blank"]),
    ({"text": " \t\N{NO-BREAK SPACE}\n"}, ["text is blank"]),
    ({"text": "a\x00b"}, ["text holds NUL"]),
    ({"text": "a\N{REPLACEMENT CHARACTER}b"}, ["text holds bytes that were not decoded"]),
    ({"text": "half \ud83d"}, ["could not be read whole: 'half of a surrogate pair in text'"]),
    ({"label": None}, ["has no label"]),
    ({"label": ""}, ["has no label"]),
    ({"label": "meh"}, [f"{OTHER}: 'meh'"]),
    ({"label": "Positive"}, [f"{OTHER}: 'Positive'"]),
    ({"label": "so {so} la la"}, [f"{OTHER}: 'so {{so}} la la'"]),
    ({"id": None}, ["has no id"]),
    ({"id": "0-0"}, ["id 'shop:0-0' was there before, with other content"]),
    ({"id": "0-0", "source": "web"}, []),
    (
        {"id": "0-0", "text": None, "label": "meh"},
        ["id 'shop:0-0' was there before, with other content", "text is null", f"{OTHER}: 'meh'"],
    ),
    ({"text": HOSTILE, "label": "meh"}, ["text is longer than 80 characters", f"{OTHER}: 'meh'"]),
    ({"label": HOSTILE}, [f"{OTHER}: " + repr(HOSTILE)[:80]]),
]


def make(folder: Path) -> tuple[Workspace, Params]:
    workspace = init(folder)
    set_params(
        workspace,
        ingest__columns__id="id",
        ingest__columns__source="source",
        validate__max_characters=80,
        validate__quarantine_budget=1.0,
    )
    return workspace, Params.read(workspace.params)


def chunked(params: Params, rows: int) -> Params:
    return params.model_copy(update={"validate_": params.validate_.model_copy(update={"chunk_rows": rows})})


def add(workspace: Workspace, params: Params, rows: list[dict[str, Any]]) -> str:
    """A batch of rows; returns the start of its hash."""
    path = workspace.root / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return batches.add(workspace, Reader(path, params.ingest.columns, params.ingest.encodings))[0].batch[:16]


def accepted(workspace: Workspace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(workspace.accepted).to_pylist()
    return rows


def quarantined(workspace: Workspace) -> list[dict[str, str]]:
    with workspace.quarantine.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace in which the cases, as one batch, were validated."""
    workspace, params = make(tmp_path_factory.mktemp("judged") / "workspace")
    plain = make_rows(len(CASES))
    add(workspace, params, [row | change for row, (change, _) in zip(plain, CASES, strict=True)])
    validate.run(workspace, params)
    return workspace


def test_each_bad_row_gets_its_reasons(judged: Workspace) -> None:
    (batch,) = batches.manifest(judged)
    found = {row["key"]: row["reasons"] for row in quarantined(judged)}
    expected = {
        f"{batch.batch[:16]}:{place}": "; ".join(reasons) for place, (_, reasons) in enumerate(CASES) if reasons
    }
    assert found == expected


def test_accepted_and_quarantined_are_the_rows_in(judged: Workspace) -> None:
    good = [place for place, (_, reasons) in enumerate(CASES) if not reasons]
    rows = accepted(judged)
    assert [row["row"].split("-")[-1] for row in rows] == ["0", "1", "2", "3", "0"]
    assert len(rows) + len(quarantined(judged)) == len(CASES)
    report = read_json(judged.reports / "validation.json")
    assert (report["rows"], report["accepted"]) == (len(CASES), len(good))
    assert report["quarantined"] == len(CASES) - len(good)


def test_reasons_are_counted_without_their_values(judged: Workspace) -> None:
    (batch,) = read_json(judged.reports / "validation.json")["batches"]
    assert batch["reasons"] == {
        "text is longer than 80 characters": 2,
        "text is null": 2,
        "text is blank": 2,
        "text holds NUL": 1,
        "text holds bytes that were not decoded": 1,
        "could not be read whole": 1,
        "has no label": 2,
        f"{OTHER}": 6,
        "has no id": 1,
        "id was there before, with other content": 2,
    }


def test_a_class_that_is_not_known_is_named_and_no_text_is(judged: Workspace) -> None:
    (batch,) = read_json(judged.reports / "validation.json")["batches"]
    (named,) = [line for line in batch["said"] if line.startswith(f"6 × {OTHER}: '")]
    assert named.count("'") == 2 * 3  # the first few
    assert "2 × text is blank" in batch["said"] and "1 × text holds NUL" in batch["said"]


def test_the_same_batches_give_the_same_bytes(judged: Workspace) -> None:
    outputs = (judged.accepted, judged.quarantine, judged.reports / "validation.json")
    before = [sha256(path) for path in outputs]
    validate.run(judged, Params.read(judged.params))
    assert [sha256(path) for path in outputs] == before


LOADING = {"script", "link", "img", "iframe", "object", "embed", "base", "image"}
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


class Page(HTMLParser):
    """The tags of a page and their attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def pages(workspace: Workspace) -> Iterator[Path]:
    found = list(workspace.data_docs.rglob("*.html"))
    assert len(found) == 3  # index, contract, one batch
    yield from found


def test_data_docs_load_nothing_from_outside(judged: Workspace) -> None:
    for path in pages(judged):
        tags = Page(path).tags
        assert not LOADING & {tag for tag, _ in tags}
        metas = [attributes for tag, attributes in tags if tag == "meta"]
        assert metas == [{"charset": "utf-8"}, {"http-equiv": "Content-Security-Policy", "content": POLICY}]
        for tag, attributes in tags:
            for name in {"href", "src", "action"} & attributes.keys():
                assert "//" not in str(attributes[name]), (path, tag, attributes)
        assert "url(//" not in path.read_text(encoding="utf-8")


def test_data_docs_name_no_host_that_the_rows_do_not_name(judged: Workspace) -> None:
    for path in pages(judged):
        hosts = set(re.findall(r"//([\w-]+(?:\.[\w-]+)+)", path.read_text(encoding="utf-8")))
        assert hosts <= {"evil.example"}
    assert not [path for path in judged.data_docs.rglob("*") if path.is_file() and path.suffix != ".html"]


def test_data_docs_lead_from_the_index_to_every_page(judged: Workspace) -> None:
    index = judged.data_docs / "index.html"
    links = {index.parent / str(attributes["href"]) for tag, attributes in Page(index).tags if tag == "a"}
    assert {index, *links} == set(pages(judged))


def test_batches_in_chunks_of_any_size_give_the_same(tmp_path: Path) -> None:
    """Also: an id is taken by any earlier row of any batch, and a batch of nothing but nulls is quarantined whole."""
    workspace, params = make(tmp_path / "workspace")
    rows = make_rows(9)
    rows[1]["label"] = "meh"
    rows[4]["id"] = rows[2]["id"]
    first = add(workspace, params, rows[:5])
    second = add(workspace, params, [rows[5], rows[0], rows[1] | {"label": "positive"}, rows[6], rows[6]])
    third = add(workspace, params, [{"id": None, "text": None, "label": None, "source": None}] * 2)
    outcomes = []
    for size in (1000, 3):
        validate.run(workspace, chunked(params, size))
        report = read_json(workspace.reports / "validation.json")
        outcomes.append((accepted(workspace), quarantined(workspace), report))
    assert outcomes[0] == outcomes[1]
    good, bad, report = outcomes[0]
    assert [row["row"] for row in good] == [f"shop:0-{number}" for number in (0, 2, 3, 5, 6)]
    assert {row["key"]: row["reasons"] for row in bad} == {
        f"{first}:1": f"{OTHER}: 'meh'",
        f"{first}:4": "id 'shop:0-2' was there before, with other content",
        f"{second}:1": REPEAT,
        f"{second}:2": "id 'shop:0-1' was there before, with another label",
        f"{second}:4": REPEAT,
        f"{third}:0": "has no id; text is null; has no label",
        f"{third}:1": "has no id; text is null; has no label",
    }
    for batch in report["batches"]:
        assert batch["accepted"] + batch["quarantined"] == batch["rows"]
    assert [batch["rows"] for batch in report["batches"]] == [5, 5, 2]


def test_a_label_that_contradicts_an_earlier_one_of_its_id_is_quarantined_and_the_earlier_one_stands(
    tmp_path: Path,
) -> None:
    workspace, params = make(tmp_path / "workspace")
    rows = make_rows(3)
    other = {"label": "neutral" if rows[0]["label"] != "neutral" else "positive"}
    add(workspace, params, rows)
    second = add(workspace, params, [rows[0] | other, rows[1] | other | {"id": "another"}])
    validate.run(workspace, params)
    assert [(row["row"], row["label"]) for row in accepted(workspace)] == [
        *((f"shop:{row['id']}", row["label"]) for row in rows),
        ("shop:another", other["label"]),
    ]
    (bad,) = quarantined(workspace)
    assert (bad["key"], bad["label"]) == (f"{second}:0", other["label"])
    assert bad["reasons"] == "id 'shop:0-0' was there before, with another label"


def with_budget(params: Params, share: float) -> Params:
    """The same params with another quarantine budget."""
    return params.model_copy(update={"validate_": params.validate_.model_copy(update={"quarantine_budget": share})})


def readmit(workspace: Workspace, rows: list[dict[str, str]]) -> None:
    path = workspace.root / "corrected.csv"
    with path.open("w", encoding="utf-8", newline="") as handle:
        table = csv.DictWriter(handle, rows[0])
        table.writeheader()
        table.writerows(rows)
    batches.add(workspace, batches.Corrected(path, []), readmits=True)


def test_corrected_rows_are_readmitted_under_their_own_id_once(tmp_path: Path) -> None:
    workspace, params = make(tmp_path / "workspace")
    rows = make_rows(3)
    rows[0]["label"], rows[1]["text"] = "meh", ""
    batch = add(workspace, params, rows)
    validate.run(workspace, params)
    meh, blank = quarantined(workspace)
    right = meh | {"label": "neutral"}
    readmit(workspace, [meh, right, right, blank])  # still wrong; right, but its id was there; again; still wrong
    readmit(workspace, [right])
    validate.run(workspace, chunked(params, 2))  # the two corrections of one row meet across chunks
    report = read_json(workspace.reports / "validation.json")
    assert [row["row"] for row in accepted(workspace)] == ["shop:0-2", "shop:0-0"]
    assert accepted(workspace)[1]["label"] == "neutral"
    assert [(one["rows"], one["accepted"]) for one in report["batches"]] == [(3, 1), (4, 0), (1, 1)]
    assert (report["batches"][0]["quarantined"], report["batches"][0]["readmitted"]) == (2, 1)
    assert {row["key"] for row in quarantined(workspace)} >= {f"{batch}:0", f"{batch}:1"}


def test_corrected_rows_that_are_still_wrong_are_no_reason_to_stop(tmp_path: Path) -> None:
    workspace, params = make(tmp_path / "workspace")
    strict = with_budget(params, 0.25)
    rows = make_rows(8)
    rows[0]["label"], rows[1]["label"] = "meh", "meh"
    add(workspace, params, rows)
    validate.run(workspace, strict)
    wrong, other = quarantined(workspace)
    readmit(workspace, [wrong, other | {"label": "neutral"}])  # half of them
    readmit(workspace, [wrong | {"label": "neutral"}, other | {"label": "neutral"}])  # the other half was there before
    validate.run(workspace, strict)
    assert len(accepted(workspace)) == 8


def test_an_id_that_is_written_anew_belongs_to_the_rows_source(tmp_path: Path) -> None:
    workspace, params = make(tmp_path / "workspace")
    rows = make_rows(3)
    add(workspace, params, [*rows, rows[0] | {"text": "another text"}])
    validate.run(workspace, params)
    (double,) = quarantined(workspace)
    readmit(workspace, [double | {"row": "mine"}])
    validate.run(workspace, params)
    assert accepted(workspace)[-1]["row"] == "shop:mine"


def test_above_the_budget_the_run_stops_and_the_accepted_rows_stay_as_they_were(tmp_path: Path) -> None:
    workspace, params = make(tmp_path / "workspace")
    strict = with_budget(params, 0.25)
    add(workspace, params, make_rows(4))
    validate.run(workspace, strict)
    before = sha256(workspace.accepted)
    rows = make_rows(4, seed=1)
    rows[0]["label"], rows[1]["label"] = "meh", "{quarantine}"
    batch = add(workspace, params, rows)
    with pytest.raises(BudgetError) as caught:
        validate.run(workspace, strict)
    said = str(caught.value)
    assert f"batch {batch} (rows.jsonl) has 2 bad rows of 4, more than the 25% of validate.quarantine_budget" in said
    assert f"2 × {OTHER}" in said
    assert f"correct them in a copy of {workspace.quarantine}, then `staytuned readmit COPY`" in said
    assert sha256(workspace.accepted) == before
    assert [row["row"] for row in quarantined(workspace)] == ["shop:1-0", "shop:1-1"]


@pytest.mark.parametrize(
    ("rating", "label"),
    [
        ("-4", "negative"),
        ("-0.51", "negative"),
        ("-0.5", "neutral"),
        ("0", "neutral"),
        ("0.5", "neutral"),
        ("0.51", "positive"),
        ("", None),
        (None, None),
        ("high", None),
        ("nan", None),
    ],
)
def test_labels_are_made_from_ratings(tmp_path: Path, rating: str | None, label: str | None) -> None:
    params = Params.read(make(tmp_path / "workspace")[0].params)
    rule = RatingLabels(column="rating", negative_below=-0.5, positive_above=0.5)
    params = params.model_copy(update={"task": params.task.model_copy(update={"label_from_rating": rule})})
    task = tasks.load(params)
    (found,) = task.labels(pandas.DataFrame({"rating": [rating], "label": ["ignored"]}))
    assert task.unlabelled == "has no label, for rating is empty or no number"
    assert found == label if label else pandas.isna(found)


def test_a_page_that_cannot_be_written_is_an_error_and_not_half_a_page(capfd: pytest.CaptureFixture[str]) -> None:
    checkpoint = Checkpoint(Contract(80, ["text"], False, "has no label"))
    frame = pandas.DataFrame({"text": ["a lamp"], "label": ["positive"], "batch": ["b"]}, dtype="string")
    with pytest.raises(OSError, match="File too large") as caught, no_room(above=4096):
        checkpoint.reasons("rows", frame)
    assert "emit" in [entry.name for entry in caught.traceback]  # where Great Expectations would go on
    assert not capfd.readouterr().err
