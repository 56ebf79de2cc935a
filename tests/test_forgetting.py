"""What each version knew, shown beside what the candidate knows: compared on the same rows, or not at all."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import make_rows, make_workspace, write_csv

from staytuned.data import batches
from staytuned.data.readers import Reader
from staytuned.files import write_json
from staytuned.params import Params
from staytuned.registry.decision_page import write_page
from staytuned.registry.forgetting import columns, falls, measured
from staytuned.registry.gate import Decision
from staytuned.registry.ledger import CHALLENGE, DECISION, PROMOTION, Entry

Known = dict[str, tuple[int, float]]  # by source: rows, macro-F1


def model(known: Known, version: int | None = None) -> dict[str, Any]:
    slices = {name: {"rows": rows, "metrics": {"macro_f1": value}} for name, (rows, value) in known.items()}
    return {"slices": slices, "batches": slices} | ({"version": version} if version else {})


def report(**models: dict[str, Any]) -> dict[str, Any]:
    metric = {"name": "macro_f1", "title": "macro-F1", "higher_is_better": True}
    return {"metrics": [metric], "models": models}


def judged(key: str, version: int | None, known: Known, kind: str = PROMOTION) -> list[Entry]:
    """A decision on a candidate, and, if it was registered, the entry that says so."""
    facts: list[tuple[str, dict[str, Any]]] = [(DECISION, {"measured": measured(report(candidate=model(known)))})]
    facts += [(kind, {"version": version})] if version else []
    return [Entry(0, name, "2026-11-02T03:00:00+00:00", "me", {"key": key} | more, "") for name, more in facts]


# Version 1 knew the shop best, 2 was held, another was blocked, 3 is champion; the films have grown since version 2.
ENTRIES = [
    *judged("a", 1, {"shop": (50, 0.9)}),
    *judged("b", 2, {"shop": (50, 0.7), "film": (40, 0.95)}, CHALLENGE),
    *judged("c", None, {"shop": (50, 0.99)}),
    *judged("d", 3, {"shop": (50, 0.8), "film": (60, 0.8)}),
]
NOW = report(
    champion=model({"shop": (50, 0.81), "film": (60, 0.82)}, version=3),
    candidate=model({"shop": (50, 0.78), "film": (60, 0.85), "tweet": (30, 0.5)}),
)


def test_every_registered_version_has_a_column_and_what_was_scored_today_has_todays_figures() -> None:
    found = columns(ENTRIES, NOW)
    assert [(column.title, column.when) for column in found] == [
        ("version 1", "2026-11-02"),
        ("version 2", "2026-11-02"),
        ("version 3, champion", "today"),
        ("candidate", "today"),
    ]
    assert found[2].figures["sources"]["shop"] == [50, 0.81]


def test_the_candidate_is_compared_with_the_best_of_all_versions_on_the_same_rows_only() -> None:
    found = falls("sources", columns(ENTRIES, NOW), higher_is_better=True)
    assert found == {
        "shop": (pytest.approx(0.12), "version 1"),
        "film": (pytest.approx(-0.03), "version 3, champion"),  # version 2 had more, on fewer rows
    }


def test_where_less_is_better_the_best_is_the_least() -> None:
    found = falls("sources", columns(ENTRIES, NOW), higher_is_better=False)
    assert found["shop"] == (pytest.approx(0.08), "version 2")


def test_a_ledger_of_before_figures_were_kept_has_no_column_for_its_versions() -> None:
    old = [Entry(1, DECISION, "2026-01-01", "me", {"key": "z"}, ""), *judged("z", 9, {})[1:]]
    assert [column.title for column in columns(old, report(candidate=model({})))] == ["candidate"]


def test_the_page_says_what_was_decided_registered_and_kept_and_shows_the_matrix(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "road")
    params = Params.read(workspace.params)
    file = write_csv(tmp_path / "rows.csv", make_rows(9))
    batch, _ = batches.add(workspace, Reader(file, params.ingest.columns, params.ingest.encodings))
    best = {"step": 70, "epoch": 1.5, "validation_score": 0.83}
    about = {"best": best, "start": {"version": 3}, "train": {"champion_share": 0.4}}
    write_json(workspace.candidate / "staytuned.json", about)
    now = json.loads(json.dumps(NOW))
    for found in now["models"].values():
        found["batches"] = {batch.batch[:16]: found["slices"]["shop"]}
    write_page(workspace, ENTRIES, now, Decision("HOLD", ["macro-F1 -0.030 <b>"]), 4)
    page = workspace.decision_page.read_text()
    for said in (
        "<h1>HOLD</h1>",
        "version 4",
        "step 70 (epoch 1.5)",
        "0.830",
        "-0.030 &lt;b&gt;",
        "rows.csv, 20",
        "on, at 0.4",
    ):
        assert said in page
    assert page.count("<td>-0.120<br>") == 1 and page.count("<td>-0.030<br>") == 1 and "//" not in page
