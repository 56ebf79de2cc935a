"""Bad files and bad rows: a clear error or a counted quarantine, nothing lost, nothing half done."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from shell import staytuned
from tiny import make_rows, set_params, write_csv

from staytuned import road as commands
from staytuned import serve
from staytuned.data import batches, example
from staytuned.data.readers import Reader
from staytuned.errors import BudgetError, DataError, StaytunedError
from staytuned.files import read_json
from staytuned.params import Params
from staytuned.stages import split, validate
from staytuned.start import init
from staytuned.workspace import Workspace

pytestmark = pytest.mark.xdist_group("great expectations")  # one worker imports it

HEADER = b"id,text,label,source,document\n"
ROW = b"9-1,a lovely lamp,positive,shop,9-1\n"
NUMBERS = {"id": [str(number) for number in range(5000)]}
TABLE = pyarrow.table(
    NUMBERS | dict.fromkeys(("text", "source", "document"), NUMBERS["id"]) | {"label": ["positive"] * 5000}
)


def parquet(spoil: Callable[[bytes], bytes]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(TABLE, sink, compression="zstd")
    return spoil(sink.getvalue().to_pybytes())


# name of the file, its bytes (None: there is none), what the error says, and its exit status
REFUSED: list[tuple[str, bytes | None, list[str], int]] = [
    ("missing.csv", None, ["there is no file", "missing.csv", "check the path"], 66),
    ("empty.csv", b"", ["empty.csv is empty", "give a file with rows"], 65),
    ("header.csv", HEADER, ["header.csv has no rows", "give a file with rows"], 65),
    ("rows.xlsx", ROW, ["'.xlsx'", "known endings: .csv, .tsv, .jsonl, .parquet"], 65),
    ("cut.csv", HEADER + ROW + b'9-2,"a dull', ["cut.csv, near line 3", "is the file cut short"], 65),
    (
        "cut.jsonl",
        b'{"id":"1","text":"a","label":"b","source":"c","document":"d"}\n{"id":',
        ["cut short in line 2"],
        65,
    ),
    ("cut.parquet", parquet(lambda whole: whole[: len(whole) // 2]), ["cut.parquet is no whole Parquet file"], 65),
    (
        "torn.parquet",
        parquet(lambda whole: whole[:500] + bytes(2000) + whole[2500:]),
        ["torn.parquet is no whole Parquet file"],
        65,
    ),
    (
        "columns.csv",
        b"id,body,label,source\n1,a,positive,shop\n",
        ["ingest.columns.text: text", "ingest.columns.group: document", "it has 'id', 'body'", "params.yaml"],
        65,
    ),
    ("columns.jsonl", b'{"text": "a lovely lamp"}\n', ["ingest.columns.label: label", "it has 'text'"], 65),
    (
        "separator.csv",
        HEADER.replace(b",", b";") + ROW,
        ["it has 'id;text;label;source;document'", "parted by ';'"],
        65,
    ),
    ("twice.csv", b"text," + HEADER + b"b," + ROW, ["more than one column ['text']", "rename or drop"], 65),
    ("utf16.csv", (HEADER + ROW).decode().encode("utf-16"), ["lacks ingest.columns.text: text"], 65),
]


def contents(workspace: Workspace) -> dict[str, str]:
    """Hash of every file that belongs to the workspace: DVC's scratch and the lock are none."""
    passing = (workspace.root / ".dvc" / "tmp", workspace.var / "lock")
    files = [path for path in workspace.root.rglob("*") if path.is_file() and not path.is_relative_to(passing[0])]
    return {
        str(path.relative_to(workspace.root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path not in passing
    }


@pytest.fixture(scope="module")
def spared(finished_road: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A finished road that no refused file may change."""
    copy = tmp_path_factory.mktemp("spared") / "road"
    return Workspace(shutil.copytree(finished_road.root, copy, symlinks=True))


@pytest.mark.parametrize(("name", "content", "said", "status"), REFUSED, ids=[name for name, *_ in REFUSED])
def test_a_file_that_cannot_be_used_is_refused_and_changes_nothing(
    spared: Workspace, tmp_path: Path, name: str, content: bytes | None, said: list[str], status: int
) -> None:
    before = contents(spared)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(StaytunedError) as caught:
        commands.ingest(spared, tmp_path / name)
    assert [words for words in said if words not in str(caught.value)] == []
    assert str(tmp_path / name) in str(caught.value)
    assert caught.value.exit_status == status
    assert contents(spared) == before


def test_after_a_refused_file_the_champion_answers_and_nothing_is_left_to_do(spared: Workspace, tmp_path: Path) -> None:
    before = contents(spared)
    refused = staytuned(spared, "ingest", tmp_path / "missing.csv")
    assert refused.returncode == 66
    assert refused.stderr == f"error: there is no file {tmp_path / 'missing.csv'}; check the path\n"
    assert contents(spared) == before
    assert serve.predict_text(spared, "a lovely lamp").endswith("version 1")
    again = staytuned(spared, "run")
    assert again.returncode == 0 and "nothing to do" in again.stdout, again.stdout + again.stderr


def fresh(folder: Path) -> Workspace:
    """A workspace without a base model: validation and split need none."""
    workspace = init(folder)
    columns = {f"ingest__columns__{name}": name for name in ("id", "source")}
    set_params(workspace, **columns, ingest__columns__group="document")
    return workspace


def take_in(workspace: Workspace, path: Path) -> batches.Batch:
    columns = Params.read(workspace.params).ingest
    return batches.add(workspace, Reader(path, columns.columns, columns.encodings))[0]


def sort_rows(workspace: Workspace) -> dict[str, int]:
    """Validate; how often each reason was given. Rows in are those accepted and those quarantined."""
    validate.run(workspace, Params.read(workspace.params))
    report = read_json(workspace.reports / "validation.json")
    accepted = pyarrow.parquet.read_metadata(workspace.accepted).num_rows
    assert (accepted, accepted + report["quarantined"]) == (report["accepted"], report["rows"])
    assert report["rows"] == sum(batch.rows for batch in batches.manifest(workspace))
    reasons: dict[str, int] = {}
    for batch in report["batches"]:
        assert batch["accepted"] + batch["quarantined"] == batch["rows"]
        reasons = {name: reasons.get(name, 0) + batch["reasons"].get(name, 0) for name in reasons | batch["reasons"]}
    return reasons


def test_bad_rows_within_the_budget_are_quarantined_with_their_reasons(tmp_path: Path) -> None:
    workspace = fresh(tmp_path / "workspace")
    first = write_csv(tmp_path / "first.csv", make_rows(300))
    with first.open("ab") as handle:
        handle.write(b"u,a lamp,meh,shop,1\n")
        handle.write(b"b,  ,neutral,shop,1\n")
        handle.write(b"n,a\x00lamp,neutral,shop,1\n")
        handle.write(b"w,a caf\xe9 lamp,neutral,shop,1\n")  # Windows bytes: decoded, and counted
        handle.write(b"x,a \x81 lamp,neutral,shop,1\n")  # bytes of no listed encoding
        handle.write(b"m," + b"x" * 10_000_000 + b",neutral,shop,1\n")
        handle.write(b"0-7,an old id,neutral,shop,1\n")
        handle.write(b"f,too,few\n")
    second = tmp_path / "second.jsonl"
    bad = [{"id": "z", "text": None, "label": None}, {"text": "no id"}, {"id": "0-8", "text": "of the first batch"}]
    rows = [*make_rows(100, seed=1), *({"label": "neutral", "source": "shop", "document": "1"} | row for row in bad)]
    second.write_text("".join(json.dumps(row) + "\n" for row in rows) + "no json\n")
    assert take_in(workspace, first).decoded == {"cp1252": 1}
    assert take_in(workspace, second).problems == 1
    assert sort_rows(workspace) == {
        "label is none of negative, neutral, positive": 1,
        "text is blank": 1,
        "text holds NUL": 1,
        "text is longer than 10000 characters": 1,
        "could not be read whole": 3,  # undecoded bytes, missing fields, no JSON; what follows from it is not told
        "id was there before, with other content": 2,
        "text is null": 1,
        "has no label": 1,
        "has no id": 1,
    }
    told = workspace.quarantine.read_text(encoding="utf-8")
    values = (": 'meh'", "id 'shop:0-7'", "id 'shop:0-8'", "line 306 holds bytes", "line 104 is not valid JSON")
    assert [value for value in (*values, "3 fields where the header has 5") if value not in told] == []


def test_bytes_of_another_encoding_are_quarantined_where_only_utf_8_is_listed(tmp_path: Path) -> None:
    workspace = fresh(tmp_path / "workspace")
    set_params(workspace, ingest__encodings=["utf-8"])
    path = write_csv(tmp_path / "rows.csv", make_rows(100))
    path.write_bytes(path.read_bytes() + b"w,a caf\xe9 lamp,neutral,shop,1\n")
    take_in(workspace, path)
    assert sort_rows(workspace) == {"could not be read whole": 1}


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["positive"] * 40, "every row has the label 'positive'; ingest rows with other labels"),
        (["positive", "negative"], "2 accepted row(s) for 3 labels; ingest more rows"),
        (["positive", "negative"] * 20, "no row to train on has the label ['neutral']"),
    ],
    ids=["one class only", "fewer rows than classes", "a class without rows"],
)
def test_rows_that_cannot_teach_the_task_stop_the_split(tmp_path: Path, labels: list[str], said: str) -> None:
    workspace = fresh(tmp_path / "workspace")
    params = Params.read(workspace.params)
    rows = [row | {"label": label} for row, label in zip(make_rows(len(labels)), labels, strict=True)]
    take_in(workspace, write_csv(tmp_path / "rows.csv", rows))
    sort_rows(workspace)
    with pytest.raises(DataError) as caught:
        split.run(workspace, params)
    assert said in str(caught.value)
    assert not workspace.split.exists()
    take_in(workspace, write_csv(tmp_path / "more.csv", make_rows(200, seed=1)))  # the next step that it named
    sort_rows(workspace)
    split.run(workspace, params)
    assert pyarrow.parquet.read_metadata(workspace.split).num_rows == len(labels) + 200


def test_every_batch_above_the_budget_is_named_with_its_file(tmp_path: Path) -> None:
    workspace = fresh(tmp_path / "workspace")
    for place, name in enumerate(("june.csv", "july.csv", "good.csv")):
        rows = make_rows(20, seed=place)
        take_in(
            workspace,
            write_csv(
                tmp_path / name,
                [*rows[:5], *(row | {"label": "meh"} for row in rows[5:])] if name != "good.csv" else rows,
            ),
        )
    with pytest.raises(BudgetError) as caught:
        validate.run(workspace, Params.read(workspace.params))
    said = str(caught.value)
    assert said.count("15 bad rows of 20") == 2
    assert ["june.csv" in said, "july.csv" in said, "good.csv" in said] == [True, True, False]


def test_above_the_budget_nothing_is_accepted_until_the_rows_are_corrected(tmp_path: Path) -> None:
    workspace = fresh(tmp_path / "workspace")
    bad = [row | {"label": "meh"} for row in make_rows(30, seed=1)]
    take_in(workspace, write_csv(tmp_path / "rows.csv", [*make_rows(100), *bad]))
    with pytest.raises(BudgetError) as caught:
        validate.run(workspace, Params.read(workspace.params))
    said = ["30 bad rows of 130", "5% of validate.quarantine_budget", "`staytuned readmit COPY`", "or raise the budget"]
    assert [words for words in said if words not in str(caught.value)] == []
    assert not workspace.accepted.exists()
    corrected = Path(shutil.copy(workspace.quarantine, tmp_path / "corrected.csv"))
    with pytest.raises(DataError, match=r"no row of .* differs .*; correct some first"):
        commands.readmit(workspace, corrected)
    corrected.write_text(workspace.quarantine.read_text().replace(",meh,", ",neutral,", 28))
    assert commands.readmit(workspace, corrected)[0].rows == 28  # the others are as they were
    sort_rows(workspace)
    report = read_json(workspace.reports / "validation.json")
    assert (report["rows"], report["accepted"], report["quarantined"], report["readmitted"]) == (158, 128, 30, 28)


def test_a_package_that_is_not_the_pinned_one_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example, "SHA256", "0" * 64)
    with pytest.raises(DataError, match=r"vaderSentiment==2\.5 has not the SHA-256 0+; it was not used"):
        example.fetch("product", tmp_path)
    assert list(tmp_path.iterdir()) == []
