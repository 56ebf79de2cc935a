"""The demo: how its arrivals are cut and played, and what its table says. The whole of it is `make demo`."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import make_rows, set_params, write_csv

from staytuned import demo_pages
from staytuned.data.arrivals import arrivals
from staytuned.data.example import FILES, HEADER
from staytuned.params import Params
from staytuned.registry.ledger import DECISION, PROMOTION, Ledger
from staytuned.workspace import Workspace

ARRIVE = """
import json, sys
from pathlib import Path
from staytuned import demo
from staytuned.workspace import Workspace
{first}
print(json.dumps(demo._arrive(Workspace(Path(sys.argv[1])), Path(sys.argv[2]))))
"""
CUT_OFF = "demo._scores = lambda *asked: sys.exit()"  # after decision and promotion
DOCUMENTS = 40  # of each source, of 3 rows each


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which the sources lie already, so that nothing is fetched."""
    (tmp_path / "sources").mkdir()
    for source in FILES:
        with (tmp_path / "sources" / f"{source}.csv").open("w", encoding="latin-1", newline="") as handle:
            table = csv.writer(handle)
            table.writerow(HEADER)
            for document in range(DOCUMENTS):
                for row in range(3):
                    name = "" if source == "tweet" else str(document)
                    table.writerow([f"{document}_{row}", f"caf\xe9 {document} {row}", 1.0, 0.5, 20, source, name])
    return tmp_path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="latin-1", newline="") as handle:
        return list(csv.DictReader(handle))


def test_twelve_arrivals_three_of_each_source_in_order(folder: Path) -> None:
    files = arrivals(folder, 30)
    assert [path.name for path in files] == [
        f"{number:02}-{source}.csv" for number, source in enumerate((s for s in FILES for _ in range(3)), 1)
    ]
    assert all({row["source"] for row in rows(path)} == {path.stem[3:]} for path in files)
    assert all(len(rows(path)) == 30 for path in files)


def test_a_document_comes_whole_and_once(folder: Path) -> None:
    parts = [{row["document"] for row in rows(path)} for path in arrivals(folder, 31)[:3]]
    assert [len(rows(path)) for path in arrivals(folder, 31)[:3]] == [33, 33, 33]  # the last one is not cut
    assert sum(map(len, parts)) == len(set.union(*parts)) == 33


def test_where_there_are_no_documents_each_row_comes_alone(folder: Path) -> None:
    assert [len(rows(path)) for path in arrivals(folder, 31)[6:9]] == [31, 31, 31]


def test_bytes_that_are_not_utf8_stay_as_they_are(folder: Path) -> None:
    assert b"caf\xe9" in arrivals(folder, 30)[0].read_bytes()


def test_what_is_there_is_kept(folder: Path) -> None:
    first = arrivals(folder, 30)
    times = [path.stat().st_mtime_ns for path in first]
    assert [path.stat().st_mtime_ns for path in arrivals(folder, 30)] == times


def line(number: int, outcome: str | None, first: float, champion: float) -> dict[str, Any]:
    return {
        "arrival": f"{number:02}-product.csv",
        "rows": 30,
        "seconds": 50.0,
        "training_seconds": 20.0 if outcome else 0.0,
        "tokens": 1000 if outcome else 0,
        "outcome": outcome,
        "first": {"macro_f1": first, "accuracy": first},
        "champion": {"macro_f1": champion, "accuracy": champion},
    }


METRICS = [{"name": "macro_f1", "title": "macro-F1"}, {"name": "accuracy", "title": "accuracy"}]
REPORT = {
    "metrics": METRICS,
    "arrivals": [line(1, "PROMOTE", 0.7, 0.7), line(2, None, 0.6, 0.6), line(3, "HOLD", 0.5, 0.8)],
}


def test_the_table_sets_means_and_costs_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    found = demo_pages.totals(REPORT)
    never, tuned = found[demo_pages.NEVER], found[demo_pages.TUNED]
    assert (never["macro_f1"], never["tokens"]) == (pytest.approx(0.6), 1000)
    assert (tuned["macro_f1"], tuned["tokens"]) == (pytest.approx(0.7), 2000)
    assert demo_pages.overhead(REPORT) == pytest.approx((30 + 50 + 30) / 3)
    demo_pages.show(REPORT)
    shown = capsys.readouterr().out
    for word in ("promoted", "held", "not due", "never retrained: macro-F1 0.600"):
        assert word in shown


def test_the_chart_is_drawn_whatever_the_outcomes(tmp_path: Path) -> None:
    demo_pages.write_pages(tmp_path, REPORT)
    assert (tmp_path / "demo.png").stat().st_size > 10_000


@pytest.mark.slow
def test_an_arrival_that_was_cut_off_after_its_decision_is_told_whole(road: Workspace, tmp_path: Path) -> None:
    set_params(road, triggers__new_rows=100)
    file, known = write_csv(tmp_path / "02-shop.csv", make_rows(200, seed=5)), Ledger.of(road, Params.read(road.params))
    before = len(known.entries())
    for first in (CUT_OFF, ""):  # each in a process of its own, whose output Prefect may keep
        words = [sys.executable, "-c", ARRIVE.format(first=first), road.root, file]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    line, new = json.loads(done.stdout.splitlines()[-1]), known.entries()[before:]
    assert [entry["kind"] for entry in line["entries"]] == [entry.kind for entry in new]
    (decision,) = [entry for entry in new if entry.kind == DECISION]
    assert [entry.facts["version"] for entry in new if entry.kind == PROMOTION] == [2]
    assert (line["outcome"], line["tokens"]) == (decision.facts["outcome"], decision.facts["tokens"])
    assert line["tokens"] > 0 and set(line["champion"]) == set(line["first"])
