"""Before a round: what is known of champion, new rows and drift, and whether a retraining is due."""

from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet

from staytuned import alerts, pipeline
from staytuned.drift.triggers import PERIOD, Answer, Situation, decide, estimated, measured
from staytuned.files import read_json
from staytuned.params import Params
from staytuned.registry import pin
from staytuned.registry.ledger import DECISION, TRIGGER, Entry, Ledger
from staytuned.registry.promotion import unconfirmed
from staytuned.registry.release import key_of
from staytuned.training.cost import expected_tokens
from staytuned.workspace import Workspace

DEAR = "train"  # the stage that the question is about


def settled(workspace: Workspace, params: Params) -> Answer | None:
    """The answer, where it can be had without running a stage; None where the flow must go first, or on.

    Asks neither Prefect nor MLflow.
    """
    ledger = Ledger.of(workspace, params)
    if unconfirmed(ledger) or not pin.is_current(workspace, ledger):
        return None
    late = pipeline.stages_from(workspace, DEAR)
    stale = pipeline.stale(workspace)
    if DEAR not in stale or set(stale) - set(late):
        return None
    pin.check_alias(workspace, params)
    return ask(workspace, params)


def ask(workspace: Workspace, params: Params) -> Answer:
    """Whether a retraining is due, by what the stages before it found; a new answer goes into the ledger."""
    ledger, key = Ledger.of(workspace, params), key_of(workspace, params)
    answer, now = answered(workspace, params, ledger)
    before = (entry.facts for entry in reversed(ledger.entries()) if entry.kind == TRIGGER)
    last = next((facts for facts in before if facts["key"] == key), None)
    if last is None or (last["retrain"], bool(last["reasons"])) != (answer.retrain, bool(answer.reasons)):
        ledger.append(TRIGGER, key=key, **now, **asdict(answer))
        if now["alarm"]:
            alerts.send(params, "drift", _said_of_drift(answer))
        elif answer.reasons and not answer.retrain:
            cure = "raise it, or `staytuned run`, which asks no trigger"
            alerts.send(params, "blocked", f"{answer.waiting[0]}; {cure}. Due: {'; '.join(answer.reasons)}")
    return answer


def answered(workspace: Workspace, params: Params, ledger: Ledger) -> tuple[Answer, dict[str, Any]]:
    """The answer, and what it is about: the champion, whether there is an alarm for it, and batches that are new."""
    entries, champion = ledger.entries(), pin.wanted(ledger)["champion"]
    version = champion["version"] if champion else None
    drift, serving = _drift(workspace, version), workspace.pin / "champion"
    accepted = Counter(pyarrow.parquet.read_table(workspace.accepted, columns=["batch"])["batch"].to_pylist())
    batches, unserved = _new_to([serving, workspace.candidate], accepted), _new_to([serving], accepted)
    before = [entry.facts for entry in entries if entry.kind == TRIGGER]
    now = {"champion": version, "alarm": drift["alarm"] if drift else None, "batches": sorted(batches)}
    trainings = _trainings(entries)
    answer = decide(
        Situation(
            champion=version,
            age=_age(trainings),
            new_rows=sum(batches.values()),
            tried_rows=sum(unserved.values()) - sum(batches.values()),
            alarms=_alarms([*before, now], version, accepted),
            measured=measured(drift) if drift else None,
            estimated=estimated(drift) if drift else None,
            cost=expected_tokens(workspace, params),
            spent=sum(entry.facts.get("tokens", 0) for entry in trainings if -1 <= _days_since(entry) <= PERIOD),
        ),
        params.triggers,
    )
    return answer, now


def tell_drift(workspace: Workspace, params: Params) -> None:
    """Send word of drift before a training that nobody asked the triggers about."""
    champion = pin.wanted(Ledger.of(workspace, params))["champion"]
    drift = _drift(workspace, champion["version"] if champion else None)
    if drift and drift["alarm"] and DEAR in pipeline.stale(workspace):
        alerts.send(params, "drift", drift["said"])


def _said_of_drift(answer: Answer) -> str:
    does = "a new model is trained and judged" if answer.retrain else "the champion stays"
    fired = f"Fired: {'; '.join(answer.reasons)}. " if answer.reasons else ""
    waits = f"Not fired: {'; '.join(answer.waiting)}. " if answer.waiting else ""
    return f"new rows have drifted from those of the champion; {does}. {fired}{waits}See reports/drift/report.html"


def _trainings(entries: list[Entry]) -> list[Entry]:
    """The first decision on each model that was trained, the newest last."""
    first: dict[str, Entry] = {}
    for entry in entries:
        if entry.kind == DECISION:
            first.setdefault(entry.facts["weights"], entry)
    return list(first.values())


def _age(trainings: list[Entry]) -> float | None:
    """Days since the last training, but for those of a day that is yet to come; negative where there are no others."""
    days = [_days_since(entry) for entry in trainings]
    return next((passed for passed in reversed(days) if passed >= -1), days[-1] if days else None)


def _days_since(entry: Entry) -> float:
    """Negative if the clock went back."""
    return (datetime.now(UTC) - datetime.fromisoformat(entry.when)).total_seconds() / 86400


def _new_to(models: list[Path], accepted: dict[str, int]) -> dict[str, int]:
    """Of the accepted rows of each batch, those of batches that were not there yet when the models were trained."""
    about = [folder / "staytuned.json" for folder in models]
    known = {batch for file in about if file.exists() for batch in read_json(file).get("batches", [])}
    return {batch: rows for batch, rows in accepted.items() if batch not in known}


def _drift(workspace: Workspace, champion: int | None) -> dict[str, Any] | None:
    """What the drift stage found of this champion, if it had enough rows to find anything."""
    file = workspace.drift / "drift.json"
    found = read_json(file) if file.exists() else None
    return found if found and found["enough"] and found["champion"] == champion else None


def _alarms(facts: list[dict[str, Any]], champion: int | None, accepted: dict[str, int]) -> tuple[bool, ...]:
    """Of each window that the champion was held against, the last word.

    A window of withdrawn rows says nothing, and one without a new batch nothing that another did not say.
    """
    windows = {
        tuple(one["batches"]): one["alarm"]
        for one in facts
        if one["champion"] == champion and one["alarm"] is not None
        if one["batches"] and accepted.keys() >= set(one["batches"])
    }
    return tuple(windows.values())
