"""Who is champion can be seen, undone and overruled; each move is an entry, and ``predict`` answers with it at once.

The tests tell one story, in their order, on one workspace.
"""

import shutil
import sqlite3
import time
from contextlib import AbstractContextManager, closing
from typing import Any

import pytest
from receiver import Receiver
from shell import staytuned
from test_bad_road import refused
from tiny import set_params

from staytuned import alerts, serve
from staytuned.errors import BusyError
from staytuned.files import read_json, write_json
from staytuned.params import Params
from staytuned.registry.alias import CHALLENGER, alias_now
from staytuned.registry.ledger import CONFIRMATION, PROMOTION, Entry, Ledger
from staytuned.registry.promotion import move, promotions
from staytuned.registry.release import _best
from staytuned.registry.versions import Registry, database
from staytuned.workspace import Workspace

pytestmark = [pytest.mark.xdist_group("champion"), pytest.mark.slow]


@pytest.fixture(scope="module")
def road(finished_road: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A road with two champions, the second trained longer."""
    folder = tmp_path_factory.mktemp("champion") / "road"
    workspace = Workspace(shutil.copytree(finished_road.root, folder, symlinks=True))
    set_params(workspace, train__epochs=7, gate__margin=0.5)
    done = staytuned(workspace, "run")
    assert done.returncode == 0 and answers(workspace) == 2, done.stdout + done.stderr
    return workspace


def answers(road: Workspace) -> int:
    """The version that answers, which ledger and alias agree on."""
    answering = int(serve.predict_text(road, "a lovely lamp").split("version ")[1])
    assert answering == last(road).facts["version"] == alias_now(road, Params.read(road.params), "champion")
    return answering


def last(road: Workspace, kind: str = PROMOTION) -> Entry:
    found = Ledger(road.ledger).last(kind)
    assert found is not None
    return found


def versions(road: Workspace) -> list[int]:
    with closing(sqlite3.connect(database(road))) as db:
        return [int(version) for (version,) in db.execute("SELECT version FROM model_versions ORDER BY version")]


def said(road: Workspace, *words: object) -> str:
    """What a command that works says, on one line."""
    done = staytuned(road, *words, COLUMNS="400")
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join(done.stdout.split())


def test_status_shows_the_champion_since_when_and_why_and_the_last_decisions(road: Workspace) -> None:
    shown = said(road, "status")
    assert "tiny version 2" in shown and f"(0 days), by {last(road).who}" in shown
    assert "gate" in shown and shown.count("PROMOTE: macro-F1") == 2
    assert "ingested since" not in shown  # every batch was
    assert "not measured yet for this champion" in shown
    assert "next training │ not due" in shown and "0 of 1,000 new rows" in shown


@pytest.mark.parametrize("found", ["Drift: the 120 newest rows are not like those", "No drift: the 120 newest rows"])
def test_status_shows_what_drift_was_found_for_todays_champion(road: Workspace, found: str) -> None:
    report = road.drift / "drift.json"
    before = report.read_bytes()
    write_json(report, read_json(report) | {"champion": 2, "said": found})
    assert found in said(road, "status")
    report.write_bytes(before)


def test_status_shows_what_the_next_training_waits_for_by_the_params_of_now(road: Workspace) -> None:
    about = {"key": None, "champion": 2, "alarm": None, "batches": []}
    facts = {**about, "retrain": False, "reasons": [], "waiting": ["12 of 500 new rows"]}
    Ledger(road.ledger).append("trigger", **facts)
    set_params(road, triggers__new_rows=13)
    shown = said(road, "status")
    assert "next training │ not due" in shown and "0 of 13 new rows" in shown and "12 of 500" not in shown
    set_params(road, triggers__new_rows=1000)


def test_history_shows_every_entry_and_that_it_is_sealed_and_witnessed(road: Workspace) -> None:
    shown = said(road, "history")
    entries = Ledger(road.ledger).entries()
    assert "promotion (gate): version none → 1" in shown and "promotion (gate): version 1 → 2" in shown
    assert "trigger: a training is not due 12 of 500 new rows" in shown
    promoted = last(road, CONFIRMATION).number
    assert f"{len(entries)} entries, each with its seal; witnessed up to entry {promoted} by" in shown


def test_a_rollback_brings_back_the_champion_before_and_is_an_entry(
    road: Workspace, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Ledger(road.ledger).entries()[1]
    monkeypatch.setenv(alerts.FURTHER, f"{receiver.url}/one")
    assert "version 1 is champion; version 2 was before" in said(road, "rollback", "--why", "angry letters")
    assert answers(road) == 1
    assert [got["title"] for got in receiver.got] == ["staytuned, tiny: rollback"]
    facts = last(road).facts
    assert (facts["before"], facts["cause"], facts["why"]) == (2, "rollback", ["angry letters"])
    assert [facts[name] for name in ("weights", "key", "best")] == [
        first.facts[name] for name in ("weights", "key", "best")
    ]


def test_after_a_rollback_a_run_finds_nothing_to_do_and_says_that_the_version_is_no_longer_champion(
    road: Workspace,
) -> None:
    before = Ledger(road.ledger).entries()
    assert "version 2 is no longer champion: see `staytuned history`" in said(road, "run")
    assert Ledger(road.ledger).entries() == before and answers(road) == 1


def test_a_second_rollback_does_not_go_forward_again(road: Workspace) -> None:
    refused(staytuned(road, "rollback"), 66, "there is no champion before this one to go back to")
    assert answers(road) == 1


def test_what_was_rolled_back_is_not_promoted_again_by_the_gate(road: Workspace) -> None:
    set_params(road, gate__margin=0.6)
    shown = said(road, "run")  # the same candidate, judged again
    assert "HOLD" in shown
    decision = read_json(road.reports / "decision.json")
    assert decision["outcome"] == "HOLD"
    assert "these are the weights of version 2, which" in decision["reasons"][0]
    assert "rolled back" in decision["reasons"][0] and "angry letters" in decision["reasons"][0]
    assert answers(road) == 1 and versions(road) == [1, 2]
    assert alias_now(road, Params.read(road.params), CHALLENGER) == 2
    assert "nothing to do" in said(road, "run")


def test_a_promotion_by_hand_needs_a_reason_and_keeps_it(road: Workspace) -> None:
    assert staytuned(road, "promote", 2).returncode == 2
    refused(staytuned(road, "promote", 2, "--why", " "), 65, "--why is blank")
    assert "version 2 is champion; version 1 was before" in said(road, "promote", 2, "--why", "judged by the editors")
    assert answers(road) == 2
    assert alias_now(road, Params.read(road.params), CHALLENGER) is None  # it was version 2
    facts = last(road).facts
    assert (facts["before"], facts["cause"], facts["why"]) == (1, "by hand", ["judged by the editors"])
    assert "nothing to do" in said(road, "run") and answers(road) == 2
    assert "judged by the editors" in said(road, "status")


def test_a_champion_that_is_judged_again_is_not_promoted_to_itself(
    road: Workspace, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(alerts.FURTHER, f"{receiver.url}/one")
    before, moves = last(road).number, len(promotions(Ledger(road.ledger)))
    set_params(road, gate__margin=0.7)
    assert "PROMOTE" in said(road, "run")
    entries = Ledger(road.ledger).entries()
    assert [entry.kind for entry in entries if entry.number > before][-1] == "decision"
    assert len(promotions(Ledger(road.ledger))) == moves and receiver.got == []
    assert "nothing to do" in said(road, "run") and Ledger(road.ledger).entries() == entries


def test_a_promotion_by_hand_of_what_is_not_there_or_is_champion_is_refused(road: Workspace) -> None:
    refused(staytuned(road, "promote", 9, "--why", "x"), 66, "the registry has no version 9 of 'tiny'; known: 1, 2")
    refused(staytuned(road, "promote", 2, "--why", "x"), 65, "version 2 is the champion already")
    assert answers(road) == 2


def test_weights_that_are_not_those_registered_are_not_promoted(road: Workspace) -> None:
    weights = road.var / "versions" / "1" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"x")
    for words in (["promote", "1", "--why", "x"], ["rollback"]):
        refused(staytuned(road, *words), 69, "the weights of version 1 are not those that were registered")
    weights.write_bytes(whole)
    assert answers(road) == 2


def test_the_champion_last_known_answers_while_ledger_or_params_are_out_of_order(
    road: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (road.ledger, road.params):
        whole = file.read_bytes()
        file.write_bytes(b"out of order: " * 100)
        assert serve.predict_text(road, "a lovely lamp").endswith("version 2")
        assert "version 2, the champion last known here, is asked" in capsys.readouterr().err
        file.write_bytes(whole)


def test_a_promoter_that_comes_too_late_leaves_the_alias_to_the_newer_champion(
    road: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Brief(Ledger):
        def lease(self, holder: str, term: float = 1.0) -> AbstractContextManager[int]:
            return super().lease(holder, term)

    ledger, registry = Brief(road.ledger), Registry(road, Params.read(road.params))
    set_alias, newer = registry.set_alias, last(road).facts
    assert newer["version"] == 2
    older = {name: promotions(ledger)[0].facts[name] for name in ("key", "version", "weights", "best")}

    def set_late(*alias: Any) -> None:
        """Not before the lease is over, and another has made version 2 champion again."""
        monkeypatch.undo()
        time.sleep(1.1)
        with ledger.lease("another") as fence:
            facts = {name: newer[name] for name in ("key", "version", "weights", "best")}
            ledger.append(PROMOTION, fence, **facts, before=1, cause="by hand", why=["newer"])
        set_alias(*alias)

    monkeypatch.setattr(registry, "set_alias", set_late)
    with pytest.raises(BusyError):
        move(road, registry, ledger, **older, before=2, cause="by hand", why=["late"])
    assert alias_now(road, Params.read(road.params), "champion") == 2
    assert "the promotion of version 2 was cut off" in said(road, "status")
    said(road, "run")
    assert answers(road) == 2


@pytest.mark.parametrize(
    ("higher", "best", "wins"),
    [
        (True, 0.8, False),
        (True, 0.72, True),
        (True, None, True),
        (True, 0.75, False),
        (False, 0.8, True),
        (False, 0.72, False),
    ],
)
def test_only_a_better_score_on_the_same_rows_makes_a_new_best(higher: bool, best: float | None, wins: bool) -> None:
    scores = {"candidate": 0.75, "champion": 0.7 if higher else 0.8} | ({"best": best} if best else {})
    report = {
        "metrics": [{"name": "f1", "higher_is_better": higher}],
        "models": {name: {"metrics": {"f1": value}} for name, value in scores.items()},
    }
    new, before = {"version": 7}, {"version": 4}
    assert _best(report, before, new) == (new if wins else before)
    assert _best(report, None, new) == new


@pytest.mark.parametrize("length", [0, 4])
def test_a_ledger_whose_tail_was_cut_off_is_seen_by_the_tag_of_a_version(road: Workspace, length: int) -> None:
    whole = road.ledger.read_bytes()
    with closing(sqlite3.connect(road.ledger)) as db, db:
        db.execute("DROP TRIGGER no_delete")
        db.execute("DELETE FROM entries WHERE number > ?", (length,))
    words = ["promote", "1", "--why", "x"]
    refused(staytuned(road, *words), 69, "the ledger", "was changed: its entry", "is missing", "from a copy")
    road.ledger.write_bytes(whole)
    assert "each with its seal" in said(road, "history")


@pytest.mark.parametrize(
    ("words", "cause", "now", "before"),
    [(["rollback"], "rollback", 1, 2), (["promote", "2", "--why", "x"], "by hand", 2, 1)],
)
def test_a_move_by_hand_that_was_cut_off_is_ended_by_the_same_command_and_not_made_twice(
    road: Workspace, words: list[str], cause: str, now: int, before: int
) -> None:
    ledger = Ledger(road.ledger)
    target = next(move.facts for move in promotions(ledger) if move.facts["version"] == now)
    facts = {name: target[name] for name in ("key", "version", "weights", "best")}
    with ledger.lease("who is killed here") as fence:
        ledger.append(PROMOTION, fence, **facts, before=before, cause=cause, why=["cut off"])
    moves = len(promotions(ledger))
    assert f"version {now} is champion; version {before} was before" in said(road, *words)
    assert answers(road) == now and len(promotions(ledger)) == moves


def test_a_workspace_that_is_given_another_ledger_keeps_its_champion(road: Workspace) -> None:
    whole, before = road.params.read_bytes(), answers(road)
    set_params(road, registry__ledger_url=f"sqlite:///{road.var / 'other.db'}")
    refused(staytuned(road, "sync"), 69, "was changed: its entry", "name in registry.ledger_url the one")
    asked = staytuned(road, "predict", "a lovely lamp")
    assert asked.stdout.endswith(f"version {before}\n") and "knows no champion" in asked.stderr
    road.params.write_bytes(whole)
    assert alias_now(road, Params.read(road.params), "champion") == answers(road) == before


def test_weights_whose_version_was_deleted_are_registered_anew(road: Workspace) -> None:
    weights = promotions(Ledger(road.ledger))[0].facts["weights"]
    Registry(road, Params.read(road.params)).client.delete_model_version("tiny", "1")
    set_params(road, train__epochs=6)  # as of version 1: the same bits
    assert "version 3, alias champion" in said(road, "run")
    assert answers(road) == 3 and last(road).facts["weights"] == weights


def test_a_rollback_goes_one_champion_back_and_no_further(road: Workspace) -> None:
    assert "version 2 is champion; version 3 was before" in said(road, "rollback")
    assert answers(road) == 2
