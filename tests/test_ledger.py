"""The ledger: entries are added, never changed, and a change behind its back is seen."""

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from staytuned.errors import RegistryError
from staytuned.registry.ledger import CONFIRMATION, DECISION, PROMOTION, Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Three entries."""
    ledger = Ledger(tmp_path / "var" / "ledger.db")
    ledger.append(DECISION, key="a", outcome="PROMOTE", reasons=["≥ 0.6"])
    ledger.append(PROMOTION, key="a", version=1)
    ledger.append(DECISION, key="b", outcome="HOLD", reasons=[])
    return ledger


def test_a_ledger_that_is_not_there_yet_has_no_entries_and_is_not_made_by_reading(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    assert ledger.entries() == []
    assert ledger.last(DECISION) is None
    assert not ledger.path.exists()


def test_entries_come_back_as_they_were_added_in_order(ledger: Ledger) -> None:
    added = ledger.append(CONFIRMATION, key="a", version=1)
    entries = Ledger(ledger.path).entries()
    assert [(entry.number, entry.kind) for entry in entries] == [
        (1, DECISION),
        (2, PROMOTION),
        (3, DECISION),
        (4, CONFIRMATION),
    ]
    assert entries[0].facts == {"key": "a", "outcome": "PROMOTE", "reasons": ["≥ 0.6"]}
    assert entries[3] == added
    assert added.who and added.when.endswith("+00:00")


def test_the_last_of_a_kind_or_of_a_kind_and_a_key(ledger: Ledger) -> None:
    ledger.append(DECISION, key="a", outcome="BLOCK", reasons=["worse"])

    def number(kind: str, key: str | None = None) -> int | None:
        entry = ledger.last(kind, key)
        return entry.number if entry else None

    assert number(DECISION) == 4
    assert number(DECISION, "a") == 4
    assert number(DECISION, "b") == 3
    assert number(PROMOTION) == number(PROMOTION, "a") == 2
    assert number(PROMOTION, "b") is None
    assert number(CONFIRMATION) is None


@pytest.mark.parametrize("statement", ["UPDATE entries SET body = '{}' WHERE number = 2", "DELETE FROM entries"])
def test_the_file_itself_refuses_changes(ledger: Ledger, statement: str) -> None:
    with closing(sqlite3.connect(ledger.path)) as db, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        db.execute(statement)
    assert len(ledger.entries()) == 3


def behind_its_back(*statements: str) -> Callable[[sqlite3.Connection], None]:
    """A change by somebody who took the guards away first."""

    def change(db: sqlite3.Connection) -> None:
        for statement in ("DROP TRIGGER no_update", "DROP TRIGGER no_delete", *statements):
            db.execute(statement)
        db.commit()

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (behind_its_back("UPDATE entries SET body = replace(body, 'HOLD', 'PROMOTE') WHERE number = 3"), "entry 3"),
        (behind_its_back("UPDATE entries SET body = replace(body, '1', '2') WHERE number = 2"), "entry 2"),
        (behind_its_back("UPDATE entries SET seal = 'x' WHERE number = 3"), "entry 3"),
        (behind_its_back("DELETE FROM entries WHERE number = 1"), "entry 2"),
        (behind_its_back("DELETE FROM entries WHERE number = 2"), "entry 3"),
        (behind_its_back("DELETE FROM entries WHERE number = 3"), "holds 2 entries, but 3 were written"),
        (behind_its_back("DELETE FROM entries"), "holds 0 entries, but 3 were written"),
        (
            behind_its_back("DELETE FROM entries WHERE number = 2", "UPDATE entries SET number = 2 WHERE number = 3"),
            "entry 2",
        ),
        (behind_its_back("INSERT INTO entries SELECT 4, body, seal FROM entries WHERE number = 3"), "entry 4"),
    ],
)
def test_an_entry_that_was_edited_removed_or_slipped_in_is_seen(
    ledger: Ledger, change: Callable[[sqlite3.Connection], None], said: str
) -> None:
    with closing(sqlite3.connect(ledger.path)) as db:
        change(db)
    for look in (ledger.entries, lambda: ledger.last(DECISION), lambda: ledger.append(DECISION, key="c")):
        with pytest.raises(RegistryError, match=said) as caught:
            look()
        assert "restore the file from a copy" in str(caught.value)


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    with ThreadPoolExecutor(4) as writers:
        list(writers.map(lambda number: ledger.append(DECISION, key=str(number)), range(20)))
    assert {entry.facts["key"] for entry in ledger.entries()} == set(map(str, range(20)))
