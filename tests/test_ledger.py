"""The ledger: entries are added, never changed; a change behind its back is seen; one promoter at a time."""

import multiprocessing
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from staytuned.errors import BusyError, MissingError, RegistryError
from staytuned.registry.ledger import CONFIRMATION, DECISION, PROMOTION, Ledger
from staytuned.registry.ledger_store import TERM, Store

pytestmark = pytest.mark.xdist_group("ledger")  # one Postgres for all


@pytest.fixture
def ledger(place: Path | str) -> Ledger:
    """Three entries."""
    ledger = Ledger(place)
    ledger.append(DECISION, key="a", outcome="PROMOTE", reasons=["≥ 0.6"])
    promote(ledger, 1)
    ledger.append(DECISION, key="b", outcome="HOLD", reasons=[])
    return ledger


def promote(ledger: Ledger, version: int, before: int | None = None, holder: str = "me", key: str = "a") -> int:
    """Write a promotion's intent under a lease; returns the fence."""
    with ledger.lease(holder) as fence:
        ledger.append(PROMOTION, fence, key=key, version=version, before=before)
    return fence


def sql(place: Path | str, *statements: str) -> None:
    """Change the database itself."""
    with Store(place).writing() as writer:
        for statement in statements:
            writer.run(statement)


def test_a_ledger_that_is_not_there_yet_has_no_entries_and_is_not_made_by_reading(place: Path | str) -> None:
    ledger = Ledger(place)
    assert ledger.entries() == []
    assert ledger.last(DECISION) is None
    if isinstance(place, Path):
        assert not place.exists()


def test_a_first_entry_that_was_cut_off_is_none(tmp_path: Path) -> None:
    """A killed process leaves a file that is not empty, whose tables are taken back when it is opened."""
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as db:
        db.executescript("CREATE TABLE another (word TEXT); DROP TABLE another;")
    assert (tmp_path / "ledger.db").stat().st_size
    assert Ledger(tmp_path / "ledger.db").entries() == []


def test_entries_come_back_as_they_were_added_in_order(ledger: Ledger) -> None:
    with ledger.lease("me") as fence:
        added = ledger.append(CONFIRMATION, fence, key="a", version=1)
    entries = Ledger(ledger.place).entries()
    assert [(entry.number, entry.kind) for entry in entries] == [
        (1, DECISION),
        (2, PROMOTION),
        (3, DECISION),
        (4, CONFIRMATION),
    ]
    assert entries[0].facts == {"key": "a", "outcome": "PROMOTE", "reasons": ["≥ 0.6"]}
    assert entries[3] == added
    assert "@" in added.who and added.when.endswith("+00:00")


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
def test_the_database_itself_refuses_changes(ledger: Ledger, statement: str) -> None:
    with pytest.raises(RegistryError, match="append-only"):
        sql(ledger.place, statement)
    assert len(ledger.entries()) == 3


def behind_its_back(place: Path | str, *statements: str) -> None:
    """A change by somebody who took the guards away first."""
    guards = ["DROP TRIGGER no_update", "DROP TRIGGER no_delete"]
    sql(place, *(guards if isinstance(place, Path) else ["DROP TRIGGER append_only ON entries"]), *statements)


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["UPDATE entries SET body = replace(body, 'HOLD', 'PROMOTE') WHERE number = 3"], "entry 3"),
        (["UPDATE entries SET body = replace(body, '1', '2') WHERE number = 2"], "entry 2"),
        (["UPDATE entries SET seal = 'x' WHERE number = 3"], "entry 3"),
        (["DELETE FROM entries WHERE number = 1"], "entry 2"),
        (["DELETE FROM entries WHERE number = 2"], "entry 3"),
        (["DELETE FROM entries WHERE number = 2", "UPDATE entries SET number = 2 WHERE number = 3"], "entry 2"),
        (["INSERT INTO entries SELECT 4, body, seal FROM entries WHERE number = 3"], "entry 4"),
    ],
)
def test_an_entry_that_was_edited_removed_or_slipped_in_is_seen(
    ledger: Ledger, statements: list[str], said: str
) -> None:
    behind_its_back(ledger.place, *statements)
    looks: list[Callable[[], Any]] = [ledger.entries, lambda: ledger.last(DECISION), lambda: promote(ledger, 2, 1)]
    for look in looks:
        with pytest.raises(RegistryError, match=said) as caught:
            look()
        assert "restore the ledger from a copy" in str(caught.value)


def test_writers_at_the_same_time_lose_nothing(place: Path | str) -> None:
    def write(number: int) -> None:
        Ledger(place).append(DECISION, key=str(number))

    with ThreadPoolExecutor(4) as writers:
        list(writers.map(write, range(20)))
    assert {entry.facts["key"] for entry in Ledger(place).entries()} == set(map(str, range(20)))


def test_a_server_that_does_not_answer_is_named(postgres: str, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"the ledger postgresql.* cannot be used: .*mend registry.ledger_url"):
        Ledger(f"postgresql+psycopg://nobody@/none?host={tmp_path}").entries()


def test_a_driver_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingError, match=r"needs the Python package psycopg, .* `pip install 'psycopg\[binary\]'`"):
        Ledger("postgresql+psycopg://nobody@127.0.0.1:9/none").entries()


# Who may move the champion


def test_what_moves_the_champion_needs_the_lease_and_nothing_else_does(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="promotion: what moves the champion is written under a lease"):
        ledger.append(PROMOTION, key="a", version=2, before=1)
    with ledger.lease("me") as fence, pytest.raises(ValueError, match="decision: "):
        ledger.append(DECISION, fence, key="a")


def test_a_second_promoter_is_told_who_is_at_work_and_may_go_on_when_that_one_is_done(ledger: Ledger) -> None:
    said = r"one:/there is moving the champion; its lease ends in 1[12]. seconds"
    with ledger.lease("one:/there") as first, pytest.raises(BusyError, match=said):
        ledger.lease("two:/here").__enter__()
    with ledger.lease("two:/here") as second:
        assert second == first + 1


def test_the_workspace_whose_promoter_was_killed_need_not_wait(ledger: Ledger) -> None:
    killed = ledger.lease("one:/there")
    first = killed.__enter__()
    with ledger.lease("one:/there") as second:
        assert second == first + 1
        with pytest.raises(BusyError, match=f"number {first}, has ended .one:/there has it now.; nothing was written"):
            ledger.append(PROMOTION, first, key="b", version=2, before=1)


def test_a_holder_past_its_lease_cannot_write(ledger: Ledger) -> None:
    with ledger.lease("me", term=0.2) as fence:
        time.sleep(0.3)
        with pytest.raises(BusyError, match=f"number {fence}, has ended"):
            ledger.append(PROMOTION, fence, key="b", version=2, before=1)
        with ledger.lease("another"), pytest.raises(BusyError, match="another has it now"):
            ledger.append(CONFIRMATION, fence, key="b", version=2)
    assert len(ledger.entries()) == 3


def test_a_lease_does_not_outlive_its_holder_when_the_clock_is_set_back(ledger: Ledger) -> None:
    with ledger.lease("one"):
        sql(ledger.place, "UPDATE leases SET expires = expires + 3600")  # to the lease, it is an hour earlier now
        with ledger.lease("two") as fence:
            ledger.append(PROMOTION, fence, key="b", version=2, before=1)


def test_a_candidate_that_was_judged_beside_another_champion_is_refused(ledger: Ledger) -> None:
    promote(ledger, 7, before=1)
    with pytest.raises(BusyError, match=r"version 7 was promoted by .*@.* meanwhile .* nothing was promoted"):
        promote(ledger, 8, before=1)
    with pytest.raises(BusyError, match="version 7 was promoted"):
        promote(ledger, 8, before=None)
    assert len(ledger.entries()) == 4


def race(place: Path | str, version: int, start: Any, told: Any) -> None:
    """Try to promote, as soon as all are ready, until a decision falls."""
    ledger = Ledger(place)
    start.wait()
    while True:
        try:
            fence = promote(ledger, version, before=1, holder=f"racer {version}")
            told.put((version, fence))
            return
        except BusyError as error:
            if "is moving the champion" not in str(error):
                told.put((version, str(error)))
                return
            time.sleep(0.01)


def test_of_racing_promoters_one_wins_and_the_others_are_told(ledger: Ledger) -> None:
    here = multiprocessing.get_context("spawn")
    start, told = here.Barrier(4), here.Queue()
    racers = [here.Process(target=race, args=(ledger.place, version, start, told)) for version in range(2, 6)]
    for racer in racers:
        racer.start()
    outcomes = dict(told.get(timeout=120) for _ in racers)
    for racer in racers:
        racer.join()
    (winner,) = [version for version, outcome in outcomes.items() if isinstance(outcome, int)]
    assert [entry.facts["version"] for entry in ledger.entries() if entry.kind == PROMOTION] == [1, winner]
    for version, outcome in outcomes.items():
        assert version == winner or f"version {winner} was promoted by" in outcome


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.sampled_from(["one", "two"])),
        st.tuples(st.just("expire"), st.none()),
        st.tuples(st.just("promote"), st.tuples(st.integers(0, 5), st.integers(0, 4))),  # which lease, which champion
        st.tuples(st.just("confirm"), st.integers(0, 5)),
    ),
    max_size=14,
)


@given(steps=STEPS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_promoters_do_each_promotion_follows_the_champion_before_it_under_the_newest_lease(
    steps: list[tuple[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("steps") / "ledger.db"
    ledger, leases, fences, held = Ledger(place), [], [], None
    for number, (step, what) in enumerate(steps):
        champions = [entry.facts["version"] for entry in ledger.entries() if entry.kind == PROMOTION]
        try:
            if step == "take":
                leases.append(ledger.lease(what))  # one that is forgotten is given back
                fences.append(leases[-1].__enter__())
                assert held in (None, what)
                held = what
            elif step == "expire":
                sql(place, "UPDATE leases SET expires = 0")
                held = None
            elif fences:
                which, champion = what if step == "promote" else (what, 0)
                fence = fences[which % len(fences)]
                before = champions[-1 - champion % len(champions)] if champions else None
                if step == "promote":
                    ledger.append(PROMOTION, fence, key="k", version=number, before=before)
                    assert before == (champions[-1] if champions else None)
                else:
                    ledger.append(CONFIRMATION, fence, key="k", version=number)
                assert held and fence == fences[-1]
        except BusyError as error:
            assert len([entry for entry in ledger.entries() if entry.kind == PROMOTION]) == len(champions), error
    assert fences == sorted(set(fences))
    written = [entry.facts["fence"] for entry in ledger.entries()]
    assert written == sorted(written)


def test_seconds_of_a_lease_are_those_of_the_databases_clock(place: Path | str) -> None:
    with Ledger(place).lease("me"), Store(place).writing() as writer:
        left = writer.run("SELECT expires FROM leases").scalar_one() - time.time()
    assert TERM - 30 < left < TERM + 30


def test_reading_a_local_ledger_does_not_wait_for_sqlalchemy(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.db").append(DECISION, key="a")
    look = (
        "import sys; from pathlib import Path; from staytuned.registry.ledger import Ledger\n"
        f"print(len(Ledger(Path({str(tmp_path / 'ledger.db')!r})).entries()), 'sqlalchemy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", look], capture_output=True, text=True).stdout == "1 False\n"
