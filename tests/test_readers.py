"""Files of rows in, rows under our own names out; equal rows make one batch."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import make_rows

from staytuned.data import batches
from staytuned.data.readers import NO_SOURCE, Reader, Row
from staytuned.errors import DataError
from staytuned.sections import Columns
from staytuned.workspace import Workspace

COLUMNS = Columns(
    text="text", text_pair=None, label="label", id="id", source="source", group="document", keep=["stars"]
)
PLAIN = Columns(text="text", text_pair=None, label="label", id=None, source=None, group=None, keep=[])
ENCODINGS = ["utf-8", "cp1252"]


def write_separated(path: Path, rows: list[dict[str, Any]], separator: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as handle:
        table = csv.DictWriter(handle, rows[0], delimiter=separator)
        table.writeheader()
        table.writerows(rows)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], None]] = {
    ".csv": lambda path, rows: write_separated(path, rows, ","),
    ".tsv": lambda path, rows: write_separated(path, rows, "\t"),
    ".jsonl": write_jsonl,
    ".parquet": lambda path, rows: pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path),
}


def read(path: Path, columns: Columns = COLUMNS) -> list[Row]:
    return list(Reader(path, columns, ENCODINGS).rows())


def read_bytes(folder: Path, content: bytes, columns: Columns = PLAIN, name: str = "rows.csv") -> tuple[list[Row], Any]:
    path = folder / name
    path.write_bytes(content)
    reader = Reader(path, columns, ENCODINGS)
    return list(reader.rows()), reader.decoded


values = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
tables = st.lists(
    st.fixed_dictionaries(dict.fromkeys(("id", "text", "label", "source", "document", "stars"), values)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables)
def test_every_format_gives_the_same_rows(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    found = []
    for ending, write in WRITERS.items():
        write(tmp_path / f"rows{ending}", rows)
        found.append(read(tmp_path / f"rows{ending}"))
    for table in found:  # where a row ends is the file's own
        lines = [int(row.pop("line") or 0) for row in table]
        assert lines == sorted(set(lines))
    assert found == [found[0]] * len(WRITERS)
    assert [row["text"] for row in found[0]] == [row["text"] for row in rows]
    assert all(row["problem"] is None for row in found[0])


def test_a_row_under_our_own_names(tmp_path: Path) -> None:
    row = {"id": "7", "text": "It works", "label": "positive", "source": "shop", "document": "d1", "stars": "5"}
    write_jsonl(tmp_path / "rows.jsonl", [row])
    assert read(tmp_path / "rows.jsonl") == [
        {
            "row": "shop:7",
            "text": "It works",
            "text_pair": None,
            "label": "positive",
            "source": "shop",
            "group": "shop:d1",
            "line": "1",
            "problem": None,
            "readmits": None,
            "stars": "5",
        }
    ]


def test_columns_are_mapped_to_ours(tmp_path: Path) -> None:
    content = b"Review,Number,Verdict,unused\nIt works,7,positive,x\n"
    columns = Columns(text="Review", text_pair=None, label="Verdict", id="Number", source=None, group=None, keep=[])
    ((row,), _) = read_bytes(tmp_path, content, columns)
    assert (row["row"], row["text"], row["label"], row["group"]) == (f"{NO_SOURCE}:7", "It works", "positive", None)
    assert "unused" not in row


def test_equal_ids_of_two_sources_stay_apart(tmp_path: Path) -> None:
    rows = [{"id": "1", "text": "a", "label": "x", "source": source, "document": "", "stars": ""} for source in "ab"]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert [row["row"] for row in read(tmp_path / "rows.jsonl")] == ["a:1", "b:1"]


def test_without_an_id_column_the_id_is_made_of_texts_and_label(tmp_path: Path) -> None:
    rows, _ = read_bytes(tmp_path, b"text,label\ngood,p\ngood,p\ngood,n\n")
    first, again, other = (row["row"] for row in rows)
    assert first == again != other
    assert first == f"{NO_SOURCE}:11526f332306cb9c4853"  # the same on every machine, for ever


def test_bytes_in_parquet_are_text_and_those_that_are_none_can_be_seen(tmp_path: Path) -> None:
    rows = [{"text": "caf\u00e9".encode(), "label": b"good"}, {"text": b"caf\xe9", "label": b"good"}]
    WRITERS[".parquet"](tmp_path / "rows.parquet", rows)
    assert [(row["text"], row["label"]) for row in read(tmp_path / "rows.parquet", PLAIN)] == [
        ("caf\u00e9", "good"),
        ("caf\N{REPLACEMENT CHARACTER}", "good"),
    ]


def test_numbers_are_kept_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": 12, "label": 1.50}\n{"text": "007", "label": null}\n')
    first, second = read(tmp_path / "rows.jsonl", PLAIN)
    assert (first["text"], first["label"]) == ("12", "1.5")
    assert (second["text"], second["label"]) == ("007", None)


def test_each_line_is_decoded_by_the_first_encoding_that_fits_and_the_others_are_counted(tmp_path: Path) -> None:
    content = b"text,label\n" + "café,p\n".encode() + "naïve €5,p\n".encode("cp1252") + b"plain,p\n"
    rows, decoded = read_bytes(tmp_path, content)
    assert [row["text"] for row in rows] == ["café", "naïve €5", "plain"]
    assert decoded == {"cp1252": 1}


def test_a_line_that_no_encoding_fits_is_a_problem_of_its_row_alone(tmp_path: Path) -> None:
    rows, decoded = read_bytes(tmp_path, b'text,label\nfine,p\n"two\nlines \x81",p\nfine too,p\n')
    assert [row["problem"] for row in rows] == [None, "line 4 holds bytes of no listed encoding", None]
    assert rows[1]["text"] == "two\nlines \N{REPLACEMENT CHARACTER}"
    assert decoded == {}


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path, name: str) -> None:
    contents = {
        "rows.csv": "text,label\ngood,p\n",
        "rows.tsv": "text\tlabel\ngood\tp\n",
        "rows.jsonl": '{"text": "good", "label": "p"}\n',
    }
    ((row,), _) = read_bytes(tmp_path, contents[name].encode("utf-8-sig"), name=name)
    assert (row["text"], row["label"]) == ("good", "p")


def test_windows_line_ends_and_blank_lines(tmp_path: Path) -> None:
    rows, _ = read_bytes(tmp_path, b"text,label\r\ngood,p\r\n\r\nbad,n\r\n")
    assert [(row["text"], row["label"]) for row in rows] == [("good", "p"), ("bad", "n")]


def test_a_row_with_another_number_of_fields_says_so(tmp_path: Path) -> None:
    rows, _ = read_bytes(tmp_path, b"text,label\ngood,p,x\nbad\n")
    assert [row["problem"] for row in rows] == ["3 fields where the header has 2", "1 fields where the header has 2"]


def test_a_line_that_is_no_json_object_says_so(tmp_path: Path) -> None:
    content = b'{"text": "good", "label": "p"}\n{"text": oops}\n[1]\n'
    rows, _ = read_bytes(tmp_path, content, name="rows.jsonl")
    assert [row["problem"] for row in rows] == [
        None,
        "line 2 is not valid JSON: Expecting value",
        "line 3 is no JSON object",
    ]


@pytest.mark.parametrize(
    "value", ["half \ud83d", ["half \ud83d"], [{"content": "half \ud83d"}]], ids=["text", "list", "chat"]
)
@pytest.mark.parametrize("name", ["text", "label", "source", "document", "id", "stars"])
def test_half_of_a_surrogate_pair_can_be_stored_and_is_a_problem(tmp_path: Path, name: str, value: Any) -> None:
    row = {"id": "1", "text": "t", "label": "p", "source": "s", "document": "d", "stars": "5", name: value}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    batch, _ = batches.add(Workspace(tmp_path), Reader(tmp_path / "rows.jsonl", COLUMNS, ENCODINGS))
    assert batch.problems == 1
    (stored,) = pyarrow.parquet.read_table(batches.path_of(Workspace(tmp_path), batch.batch)).to_pylist()
    assert "half ?" in str(stored)
    assert stored["problem"] == f"half of a surrogate pair in {name}"


# batches


def add(folder: Path, path: Path, columns: Columns = COLUMNS) -> tuple[batches.Batch, bool]:
    return batches.add(Workspace(folder), Reader(path, columns, ENCODINGS))


def shop_rows(count: int) -> list[dict[str, Any]]:
    return [row | {"stars": str(number % 5)} for number, row in enumerate(make_rows(count))]


def test_the_same_rows_make_the_same_batch_whatever_the_file(tmp_path: Path) -> None:
    found = set()
    for ending, write in WRITERS.items():
        path = tmp_path / f"from{ending}"
        write(path, shop_rows(40))
        batch, _ = add(tmp_path / f"workspace{ending}", path)
        found.add(batch.batch)
    assert len(found) == 1


def test_any_other_value_order_or_row_makes_another_batch(tmp_path: Path) -> None:
    rows = shop_rows(8)
    edited = [*rows[:-1], rows[-1] | {"stars": "9"}]
    hashes = set()
    for number, table in enumerate((rows, edited, rows[::-1], rows[:-1])):
        write_jsonl(tmp_path / f"{number}.jsonl", table)
        hashes.add(add(tmp_path / "workspace", tmp_path / f"{number}.jsonl")[0].batch)
    assert len(hashes) == 4


def test_a_batch_holds_the_rows_as_they_were_read(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", shop_rows(12))
    batch, new = add(tmp_path, tmp_path / "rows.jsonl")
    assert new
    assert (batch.rows, batch.file, batch.problems, batch.readmits) == (12, "rows.jsonl", 0, False)
    stored = pyarrow.parquet.read_table(batches.path_of(Workspace(tmp_path), batch.batch))
    assert stored.to_pylist() == read(tmp_path / "rows.jsonl")


def test_taking_in_the_same_rows_twice_adds_nothing(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")
    write_jsonl(tmp_path / "rows.jsonl", shop_rows(12))
    WRITERS[".csv"](tmp_path / "copy.csv", shop_rows(12))
    first, _ = add(workspace.root, tmp_path / "rows.jsonl")
    before = {path: path.read_bytes() for path in workspace.root.rglob("*") if path.is_file()}
    for path in (tmp_path / "rows.jsonl", tmp_path / "copy.csv"):
        assert add(workspace.root, path) == (first, False)
    assert {path: path.read_bytes() for path in workspace.root.rglob("*") if path.is_file()} == before


def test_the_manifest_names_the_batches_in_the_order_of_their_arrival(tmp_path: Path) -> None:
    added = []
    for seed in (3, 1, 2):
        write_jsonl(tmp_path / f"{seed}.jsonl", [row | {"stars": "1"} for row in make_rows(4, seed)])
        added.append(add(tmp_path, tmp_path / f"{seed}.jsonl")[0])
    assert batches.manifest(Workspace(tmp_path)) == added
    batches.check_manifest(Workspace(tmp_path))


def test_a_batch_that_was_lost_or_slipped_in_is_named(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", shop_rows(4))
    path = batches.path_of(workspace, add(tmp_path, tmp_path / "rows.jsonl")[0].batch)
    strange = path.rename(path.with_name("strange.parquet"))
    with pytest.raises(DataError, match=rf"lacks \['{path.name}'\]; fetch them with `dvc pull`"):
        batches.check_manifest(workspace)
    path.write_bytes(strange.read_bytes())
    with pytest.raises(DataError, match=r"holds \['strange.parquet'\], which the manifest does not know"):
        batches.check_manifest(workspace)
