"""``staytuned run --if-needed``: what training builds on is always done, training itself when a trigger asks for it."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pandas
import pytest
from receiver import Receiver
from shell import staytuned
from test_bad_road import answers, refused
from tiny import make_rows, set_params, write_csv

from staytuned import alerts, situation
from staytuned.data import batches
from staytuned.errors import GateError
from staytuned.files import read_json, write_json
from staytuned.params import Params
from staytuned.registry import pin
from staytuned.registry.ledger import CHALLENGE, DECISION, TRIGGER, WITHDRAWAL, Entry, Ledger
from staytuned.registry.versions import Registry
from staytuned.workspace import Workspace

WITHOUT_PREFECT = """
import sys
sys.argv = ["staytuned", "run", "--if-needed"]
from staytuned.cli import main
status = main()
assert not {"prefect", "mlflow", "torch"} & set(sys.modules)
sys.exit(status)
"""


def of_kind(road: Workspace, kind: str) -> list[Entry]:
    return [entry for entry in Ledger(road.ledger).entries() if entry.kind == kind]


def trained(road: Workspace) -> int:
    return (road.candidate / "model.safetensors").stat().st_mtime_ns


def versions(road: Workspace) -> list[int]:
    """Those of the registry."""
    return sorted(Registry(road, Params.read(road.params)).versions())


def ingest(road: Workspace, rows: list[dict[str, str]]) -> None:
    done = staytuned(road, "ingest", write_csv(road.root / "more.csv", rows))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_new_rows_wait_until_they_are_enough_and_then_a_model_is_trained(road: Workspace, receiver: Receiver) -> None:
    set_params(road, triggers__new_rows=300, triggers__drift=None)
    ingest(road, make_rows(200, seed=1))
    before = trained(road)
    assert "200 rows of more.csv; `staytuned run`" in staytuned(road, "status", COLUMNS="400").stdout
    done = staytuned(road, "run", "--if-needed")
    assert done.returncode == 0 and "200 of 300 new rows" in done.stdout, done.stdout + done.stderr
    assert trained(road) == before
    assert read_json(road.reports / "encoding.json")["sides"]["train"]["rows"] > 500  # the rest was done
    (entry,) = of_kind(road, TRIGGER)
    assert entry.facts["retrain"] is False and entry.facts["expected_cost"] > 0 and len(entry.facts["batches"]) == 1

    again = subprocess.run([sys.executable, "-c", WITHOUT_PREFECT], cwd=road.root, capture_output=True, text=True)
    assert again.returncode == 0 and "nothing to do:\n  0.0 of 30 days" in again.stdout, again.stdout + again.stderr
    assert of_kind(road, TRIGGER) == [entry]

    set_params(road, triggers__new_rows=200)
    done = staytuned(road, "run", "--if-needed", **{alerts.FURTHER: receiver.url})
    assert done.returncode in (0, 4), done.stdout + done.stderr
    assert trained(road) != before
    _, fired = of_kind(road, TRIGGER)
    assert fired.facts["retrain"] is True and fired.facts["reasons"] == ["200 of 200 new rows"]
    first, second = of_kind(road, DECISION)
    assert second.facts["tokens"] == fired.facts["expected_cost"] > first.facts["tokens"]
    kinds = {"PROMOTE": ["promotion"], "HOLD": [], "BLOCK": ["blocked"]}[second.facts["outcome"]]
    titles = [f"staytuned, tiny: {kind}" for kind in ("drift", *kinds)]  # these rows have numbers of their own
    assert [got["title"] for got in receiver.got] == titles
    assert "nothing to do" in staytuned(road, "run", "--if-needed").stdout or kinds == ["blocked"]


@pytest.mark.slow
def test_what_the_gate_blocked_is_told_again_with_its_reasons(road: Workspace, receiver: Receiver) -> None:
    ingest(road, make_rows(200, seed=9))
    set_params(road, gate__bounds={"accuracy": 1.5}, gate__min_test_rows=1000)
    said = "accuracy 1.000 < gate.bounds.accuracy 1.5"
    run = staytuned(road, "run", **{alerts.FURTHER: receiver.url})
    refused(run, GateError.exit_status, said)
    assert "the gate will block what is trained now: " in run.stdout and "under gate.min_test_rows 1000" in run.stdout
    drift, blocked = receiver.got  # these rows have numbers of their own
    assert drift["title"] == "staytuned, tiny: drift" and "a training learns from the new rows" in drift["message"]
    assert blocked["title"] == "staytuned, tiny: blocked" and said in blocked["message"]
    for words in (["run"], ["run", "--if-needed"]):
        refused(staytuned(road, *words), GateError.exit_status, "nothing has changed since", said)
    assert len(of_kind(road, DECISION)) == 2
    assert list(Registry(road, Params.read(road.params)).versions()) == [1] and not of_kind(road, CHALLENGE)
    assert answers(road)


@pytest.mark.slow
def test_a_check_that_fails_and_a_budget_that_is_missed_block(road: Workspace) -> None:
    ingest(road, make_rows(40, seed=3))  # so that the champion is judged beside it
    road.behaviour.write_text("[{name: irony, share: 1.0, label: positive, texts: [the kettle is awful]}]\n")
    set_params(road, gate__max_milliseconds=0.001)
    run = staytuned(road, "run")
    refused(run, GateError.exit_status)
    (decision,) = of_kind(road, DECISION)[1:]
    budget, behaviour = decision.facts["reasons"][-2:]
    assert budget.endswith("milliseconds > gate.max_milliseconds 0.001")
    assert behaviour == "behaviour: 0 of 1 cases of 'irony' pass, under its share 1"
    report = read_json(road.evaluation / "evaluation.json")
    assert set(report["sources"]["shop"]) == {"rows", "groups", "champion"}
    assert set(report["models"]["candidate"]["slices"]) == {"shop"}


def test_two_runs_at_once_are_one_and_a_word_to_the_other(road: Workspace, receiver: Receiver) -> None:
    set_params(road, gate__margin=0.5)
    with road.hold():
        done = staytuned(road, "run", "--if-needed", **{alerts.FURTHER: receiver.url})
    refused(done, 75, "is at work in", "try again")
    assert receiver.got == []
    assert answers(road)


@pytest.mark.slow
def test_a_remote_that_cannot_be_reached_stops_a_registration_and_the_next_run_goes_on(
    road: Workspace, receiver: Receiver
) -> None:
    set_params(road, gate__margin=0.5, triggers__new_rows=200)
    ingest(road, make_rows(200, seed=1))
    settings = road.root / ".dvc" / "config"
    right = settings.read_text()
    settings.write_text(right.replace("../var/remote", "/proc/nowhere"))
    done = staytuned(road, "run", "--if-needed", **{alerts.FURTHER: receiver.url})
    refused(done, 69, "the DVC remote could not be written", "check `dvc remote list`")
    drift, got = receiver.got
    assert drift["title"] == "staytuned, tiny: drift"
    assert got["title"] == "staytuned, tiny: failed run" and "the DVC remote could not be written" in got["message"]
    assert versions(road) == [1]
    assert answers(road)
    settings.write_text(right)
    before = trained(road)
    done = staytuned(road, "run", "--if-needed")
    assert done.returncode == 0, done.stdout + done.stderr
    assert trained(road) == before and len(of_kind(road, DECISION)) == 2 and versions(road) == [1, 2]


@pytest.mark.slow
def test_a_batch_of_a_new_class_stops_a_run_and_is_set_aside_where_nobody_is_there_to_ask(
    road: Workspace, receiver: Receiver
) -> None:
    strange = [row | {"label": "meh"} for row in make_rows(40, seed=2)]
    ingest(road, strange)
    before, rows = trained(road), road.accepted.read_bytes()
    done = staytuned(road, "run", **{alerts.FURTHER: receiver.url})
    said = "40 × label is none of negative, neutral, positive: 'meh'"
    assert done.returncode == 65 and "40 bad rows of 40" in done.stderr and said in done.stderr, done.stderr
    (got,) = receiver.got
    assert got["title"] == "staytuned, tiny: failed run"
    assert said in got["message"] and "`staytuned readmit COPY`" in got["message"]
    assert (trained(road), road.accepted.read_bytes()) == (before, rows)
    assert answers(road)
    shown = staytuned(road, "status", COLUMNS="400").stdout
    assert "stopped: batch" in shown and "40 bad rows of 40" in shown

    done = staytuned(road, "run", "--if-needed", **{alerts.FURTHER: receiver.url})
    assert done.returncode == 0, done.stdout + done.stderr
    _, got = receiver.got
    assert got["title"] == "staytuned, tiny: refused file" and said in got["message"]
    assert (trained(road), road.accepted.read_bytes()) == (before, rows)
    assert len(batches.manifest(road)) == 1
    shown = staytuned(road, "status", COLUMNS="400").stdout
    assert (
        "last withdrawal" in shown
        and "40 rows of more.csv" in shown
        and f"set aside: 40 bad rows of 40: {said}" in shown
    )
    assert "stopped" not in shown
    assert "nothing to do" in staytuned(road, "run", "--if-needed").stdout

    ingest(road, strange)
    set_params(road, triggers__new_rows=300, triggers__drift=None)
    ingest(road, make_rows(200, seed=1))  # what comes with it goes on
    done = staytuned(road, "run", "--if-needed")
    assert done.returncode == 0 and "200 of 300 new rows" in done.stdout, done.stdout + done.stderr
    assert [len(batches.manifest(road)), len(of_kind(road, WITHDRAWAL))] == [2, 2]

    set_params(road, validate__quarantine_budget=1.0)  # let them be: no accepted row is new, and nothing is trained
    ingest(road, strange)
    rows = road.accepted.read_bytes()
    done = staytuned(road, "run", "--if-needed")
    assert done.returncode == 0 and "40 × label is none of" in done.stdout and "'meh'" in done.stdout, done.stdout
    assert (trained(road), road.accepted.read_bytes()) == (before, rows)
    ingest(road, strange)  # the same batch once more
    assert "nothing to do" in staytuned(road, "run", "--if-needed").stdout


# What the question is put on, in process


def arrive(road: Workspace, batch: str, count: int = 100) -> None:
    """Accepted rows of one more batch."""
    rows = pandas.read_parquet(road.accepted)
    new = rows.head(count).assign(batch=batch, row=[f"{batch}-{number}" for number in range(count)])
    pandas.concat([rows, new]).to_parquet(road.accepted)
    road.lock.write_text(road.lock.read_text() + f"# {batch}\n")  # another state


def found(road: Workspace, alarm: bool, **changes: Any) -> None:
    """What the drift stage would report."""
    report = {
        "champion": 1,
        "enough": True,
        "alarm": alarm,
        "reference": {"rows": 500, "groups": 100, "metric": 0.9, "accuracy": 0.92},
        "window": {"rows": 100, "groups": 30, "batches": 1, "metric": 0.8, "change": [-0.15, -0.05]},
        "metric": {"name": "macro_f1", "title": "macro-F1", "higher_is_better": True},
        "checks": {},
        "estimated_accuracy": {"value": 0.8, "change": [-0.14, -0.10]},
    }
    write_json(road.reports / "drift" / "drift.json", report | changes)


def ask(road: Workspace, **triggers: Any) -> Any:
    off = dict.fromkeys(["max_age_days", "new_rows", "drift", "quality_drop", "estimated_drop", "cost_ceiling"])
    set_params(road, triggers=off | {"retry_growth": 1.5} | triggers)
    params = Params.read(road.params)
    pin.refresh(road, params, arrived=False)  # as the flow does before it
    return situation.ask(road, params)


def test_an_alarm_counts_once_for_each_window_of_a_champion(
    road: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = {"drift": {"alarms": 2, "windows": 3}}
    for batch, alarm, retrain in [("one", True, False), ("two", False, False), ("three", True, True)]:
        arrive(road, batch)
        found(road, alarm)
        for _ in range(2):  # asked again, the window is the same, and so is the entry
            assert ask(road, **policy).retrain is retrain
    assert [entry.facts["alarm"] for entry in of_kind(road, TRIGGER)] == [True, False, True]
    assert capsys.readouterr().err.count("drift: new rows have drifted") == 2


def test_a_new_decision_on_the_same_weights_is_no_training(road: Workspace) -> None:
    before = situation._trainings(of_kind(road, DECISION))
    Ledger(road.ledger).append(DECISION, **before[0].facts | {"key": "another policy"})
    assert situation._trainings(of_kind(road, DECISION)) == before


def test_a_training_of_a_time_that_has_not_come_is_not_the_last_for_long() -> None:
    """An entry that was written while the clock stood too far ahead."""
    now = datetime.now(UTC)
    known, ahead = (SimpleNamespace(when=(now - timedelta(days=days)).isoformat()) for days in (3, -400))
    assert situation._age([]) is None
    assert situation._age([known, ahead]) == pytest.approx(3, abs=0.1)
    assert situation._age([ahead]) == pytest.approx(-400, abs=0.1)


def test_a_window_of_rows_that_were_withdrawn_says_nothing_any_more() -> None:
    facts = [
        {"champion": 1, "alarm": True, "batches": ["wrong"]},
        {"champion": 1, "alarm": False, "batches": ["good"]},
        {"champion": 2, "alarm": True, "batches": ["good"]},
    ]
    assert situation._alarms(facts, 1, {"good": 3, "wrong": 4}) == (True, False)
    assert situation._alarms(facts, 1, {"good": 3}) == (False,)
    again = {"champion": 1, "alarm": True, "batches": []}  # of train alone, whose params were changed: no new window
    assert situation._alarms([*facts, again], 1, {"good": 3}) == (False,)


def test_drift_that_a_candidate_in_vain_has_answered_waits_for_half_as_many_rows_more(road: Workspace) -> None:
    drift = {"drift": {"alarms": 1, "windows": 1}}
    found(road, True)
    arrive(road, "one", 100)
    assert ask(road, **drift).retrain is True
    learn_in_vain(road)
    arrive(road, "two", 49)
    (waits,) = ask(road, **drift).waiting
    assert waits.endswith("it asks again at 150, and there are 149 (triggers.retry_growth 1.5)")
    arrive(road, "three", 1)
    assert ask(road, **drift).retrain is True


def learn_in_vain(road: Workspace) -> None:
    """Let the candidate, which is not promoted, be one that learned of all batches."""
    about = road.candidate / "staytuned.json"
    batches = pandas.read_parquet(road.accepted, columns=["batch"])["batch"].unique().tolist()
    write_json(about, read_json(about) | {"batches": batches})


def test_what_the_drift_stage_measured_and_estimated_is_asked(road: Workspace) -> None:
    assert ask(road, quality_drop=0.01, estimated_drop=0.01).waiting == [
        "quality on new labels is not known yet",
        "estimated quality is not known yet",
    ]
    found(road, False)
    answer = ask(road, quality_drop=0.04, estimated_drop=0.09)
    assert answer.reasons == [
        "quality on new labels: macro-F1 0.800 on 100 new rows, 0.900 on the reference: a change of -0.150 to -0.050; "
        "a loss of more than 0.04 is shown",
        "estimated quality: accuracy 0.800 on 100 new rows, 0.920 on the reference: a change of -0.140 to -0.100; "
        "a loss of more than 0.09 is shown",
    ]
    found(road, True, enough=False)
    assert ask(road, drift={"alarms": 1, "windows": 1}, quality_drop=0.04).retrain is False


def test_age_counts_from_the_last_training_and_tokens_in_the_last_thirty_days(
    road: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (decision,) = of_kind(road, DECISION)
    spent = decision.facts["tokens"]
    arrive(road, "one")
    waits = ask(road, max_age_days=10, new_rows=100, cost_ceiling=2 * spent - 1).waiting
    assert waits[0].endswith(
        f"{spent:,} of the {2 * spent - 1:,} of triggers.cost_ceiling were spent in the last 30 days"
    )
    assert f"blocked: {waits[0]}; raise it, or `staytuned run`" in capsys.readouterr().err
    for days, retrain in [(-3, False), (9, False), (11, True)]:
        clock(monkeypatch, decision, days)
        assert ask(road, max_age_days=10).retrain is retrain
    clock(monkeypatch, decision, 31)  # what was spent then no longer counts
    assert ask(road, new_rows=100, cost_ceiling=2 * spent - 1).retrain is True


def clock(monkeypatch: pytest.MonkeyPatch, entry: Entry, days: float) -> None:
    """Let the clock stand so many days after an entry."""
    then = datetime.fromisoformat(entry.when).timestamp() + days * 86400

    class Then(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.fromtimestamp(then, tz or UTC)

    monkeypatch.setattr(situation, "datetime", Then)


def test_a_batch_that_was_there_at_a_training_is_not_new(road: Workspace) -> None:
    assert ask(road, new_rows=1).retrain is False
    arrive(road, "one", 30)
    assert ask(road, new_rows=31).waiting == ["30 of 31 new rows"]
