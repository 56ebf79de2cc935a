"""What the commands say and do about the champion: status, history, rollback, promote."""

import itertools
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from staytuned import alerts
from staytuned.data.batches import manifest
from staytuned.data.sides import TRAIN
from staytuned.errors import DataError, MissingError, RegistryError
from staytuned.files import read_json, sha256
from staytuned.params import Params
from staytuned.progress import busy
from staytuned.registry import pin
from staytuned.registry.ledger import DECISION, PROMOTION, TRIGGER, WITHDRAWAL, Entry, Ledger, check_reason
from staytuned.registry.promotion import BY_HAND, GATE, ROLLBACK, check_heads, line, move, promotions, unconfirmed
from staytuned.registry.versions import KEY, WEIGHTS, Registry
from staytuned.workspace import Workspace

LAST_DECISIONS = 5  # that the status shows


def status(workspace: Workspace) -> None:
    """Say who is champion, since when and why, what was decided last, and how things stand now.

    Raises:
        RegistryError: the ledger does not answer, or was changed.
    """
    params = Params.read(workspace.params)
    ledger = Ledger.of(workspace, params)
    entries = ledger.entries()
    table = Table(show_header=False, title="staytuned", title_justify="left")
    for name, said in _champion(workspace, params, ledger):
        table.add_row(name, said)
    decisions = [entry for entry in entries if entry.kind == DECISION][: -LAST_DECISIONS - 1 : -1]
    for number, entry in enumerate(decisions):
        outcome, (first, *others) = entry.facts["outcome"], entry.facts["reasons"]
        more = f" (and {len(others)} more: reports/decision.html)" if others and outcome != "PROMOTE" else ""
        said = f"{_time(entry)} {outcome}: {first}{more}"
        table.add_row("" if number else "last decisions", said)
    if withdrawn := ledger.last(WITHDRAWAL):
        table.add_row("last withdrawal", "\n".join([f"{_time(withdrawn)} {_said(withdrawn)}", *_why(withdrawn)]))
    if workspace.stage_error.exists():
        table.add_row("last run", f"stopped: {workspace.stage_error.read_text(encoding='utf-8')}")
    if waiting := _not_taken_in(workspace):
        table.add_row("ingested since", waiting)
    table.add_row("drift", _drift(workspace, ledger))
    table.add_row("next training", _next_training(workspace, params, ledger, waiting))
    Console(markup=False).print(table)


def _champion(workspace: Workspace, params: Params, ledger: Ledger) -> list[tuple[str, str]]:
    moves = promotions(ledger)
    if not moves:
        return [("champion", "none yet; `staytuned run` trains one and promotes it if the gate agrees")]
    version = moves[-1].facts["version"]
    of_this = itertools.takewhile(lambda entry: entry.facts["version"] == version, reversed(moves))
    since = list(of_this)[-1]  # it may have been judged again since
    days = (datetime.now(UTC) - datetime.fromisoformat(since.when)).days
    rows = [
        ("champion", f"{params.registry.model} version {version}"),
        ("since", f"{_time(since)} ({max(days, 0)} days), by {since.who}"),
        ("why", "\n".join([since.facts["cause"], *since.facts["why"]])),
    ]
    try:
        found = pin.disagreement(workspace, params, ledger)
    except RegistryError as error:
        found = str(error)
    if unconfirmed(ledger):
        found = f"the promotion of version {version} was cut off; `staytuned run` brings it to its end"
    return rows + ([("but", found)] if found else [])


def _not_taken_in(workspace: Workspace) -> str | None:
    """Batches that no run has validated."""
    report = workspace.reports / "validation.json"
    known = {batch["batch"] for batch in read_json(report)["batches"]} if report.exists() else set()
    waiting = [batch for batch in manifest(workspace) if batch.batch[:16] not in known]
    if not waiting:
        return None
    rows, files = sum(batch.rows for batch in waiting), ", ".join(batch.file for batch in waiting)
    return f"{rows:,} rows of {files}; `staytuned run` uses them"


def _drift(workspace: Workspace, ledger: Ledger) -> str:
    """What the last run saw, if it looked at today's champion."""
    file, moves = workspace.drift / "drift.json", promotions(ledger)
    if not moves:
        return "not measured yet"
    report = read_json(file) if file.exists() else {"champion": None}
    if report["champion"] != moves[-1].facts["version"]:
        return "not measured yet for this champion: that takes rows that came after it"
    return str(report["said"])


def _next_training(workspace: Workspace, params: Params, ledger: Ledger, waiting: str | None) -> str:
    """Whether the triggers ask for one now, and what they wait for."""
    from staytuned import situation  # the other commands here have no use for what it imports

    looked_at = workspace.accepted, workspace.encoded / f"{TRAIN}.arrow"
    if not promotions(ledger) or not all(path.exists() for path in looked_at):
        return "at the next `staytuned run` that finds new rows or params"
    answer, _ = situation.answered(workspace, params, ledger)
    due = "due" if answer.retrain else "not due"
    since = ", before the rows ingested since" if waiting else ""
    return "\n".join([f"{due}{since}", *answer.reasons, *answer.waiting])


def history(workspace: Workspace) -> None:
    """Print every entry of the ledger, and hold it against what the registry's versions were tagged with.

    Raises:
        RegistryError: the ledger was changed, or one of the two does not answer.
    """
    params = Params.read(workspace.params)
    ledger = Ledger.of(workspace, params)
    entries = ledger.entries()
    if not entries:
        print("the ledger is empty: nothing was decided yet")
        return
    for entry in entries:
        print(f"{entry.number:4}  {_time(entry)}  {entry.who}  {_said(entry)}")
        for reason in _why(entry):
            print(f"      {reason}")
    with busy("asking the registry"):
        head = check_heads(Registry(workspace, params), ledger)
    witnessed = f"up to entry {head} by the tags of the registry's versions" if head else "by no version's tag yet"
    print(f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}, each with its seal; witnessed {witnessed}")


def _said(entry: Entry) -> str:
    """What was done, and from which version to which."""
    facts = entry.facts
    if entry.kind == PROMOTION:
        return f"promotion ({facts['cause']}): version {facts['before'] or 'none'} → {facts['version']}"
    if entry.kind == TRIGGER:
        return f"trigger: a training is {'due' if facts['retrain'] else 'not due'}"
    if entry.kind == WITHDRAWAL:
        return f"withdrawal of batch {facts['batch']}: {facts['rows']:,} rows of {facts['file']}"
    return f"{entry.kind} {facts.get('outcome') or facts.get('version') or ''}".rstrip()


def _why(entry: Entry) -> list[str]:
    """The reasons; those of a promotion by the gate stand at its decision."""
    if entry.facts.get("cause") == GATE:
        return []
    if entry.kind == TRIGGER:
        return [*entry.facts["reasons"], *entry.facts["waiting"]]
    return list(entry.facts.get("why") or entry.facts.get("reasons") or [])


def rollback(workspace: Workspace, why: str | None) -> None:
    """Make the champion before this one champion again.

    Raises:
        MissingError: there is none.
    """
    params = Params.read(workspace.params)
    with workspace.hold():
        registry, ledger, ended = _opened(workspace, params)
        if ended and ended.facts["cause"] == ROLLBACK:  # this command, cut off, given once more
            return tell(params, ended)
        champions = line(ledger)
        if len(champions) < 2:
            raise MissingError("there is no champion before this one to go back to; `staytuned history` shows all")
        target = champions[-2].facts
        facts = {name: target[name] for name in ("key", "version", "weights", "best")}
        _tags(registry, facts["version"])
        _check_weights(workspace, registry, facts["version"], facts["weights"])
        reason = why or f"back from version {champions[-1].facts['version']}, no reason was given"
        _move(workspace, registry, ledger, facts, ROLLBACK, reason)


def promote(workspace: Workspace, version: int, why: str) -> None:
    """Make a registered version champion by hand, whatever the gate said of it, or did not.

    Raises:
        DataError: it is the champion, or the reason is blank.
        MissingError: the registry has no such version.
        RegistryError: its weights are not those that were registered.
    """
    check_reason(why)
    params = Params.read(workspace.params)
    with workspace.hold():
        registry, ledger, ended = _opened(workspace, params)
        if ended and ended.facts["cause"] == BY_HAND and ended.facts["version"] == version:
            return tell(params, ended)
        tags, last = _tags(registry, version), ledger.last(PROMOTION)
        if last and last.facts["version"] == version:
            raise DataError(f"version {version} is the champion already; nothing was changed")
        new = {"version": version, "weights": _check_weights(workspace, registry, version, tags.get(WEIGHTS))}
        best = last.facts["best"] if last else new
        _move(workspace, registry, ledger, new | {"key": tags.get(KEY), "best": best}, BY_HAND, why)


def _opened(workspace: Workspace, params: Params) -> tuple[Registry, Ledger, Entry | None]:
    """Registry and ledger, and the promotion that was cut off, if one was: it is brought to its end."""
    with busy("opening the registry"):
        registry = Registry(workspace, params)
    return registry, Ledger.of(workspace, params), pin.recover(workspace, registry)


def _tags(registry: Registry, version: int) -> dict[str, str]:
    """The tags of a version, which must be in the registry."""
    versions = registry.versions()
    if version not in versions:
        known = ", ".join(map(str, sorted(versions))) or "none"
        raise MissingError(f"the registry has no version {version} of {registry.model!r}; known: {known}")
    return versions[version]


def _check_weights(workspace: Workspace, registry: Registry, version: int, expected: str | None) -> str:
    """The SHA-256 of a version's weights, which are at hand after this."""
    found = sha256(registry.model_folder(version) / "model.safetensors")
    if expected not in (found, None):
        raise RegistryError(
            f"the weights of version {version} are not those that were registered: their SHA-256 is {found}, not "
            f"{expected}; move {workspace.version(version)} away, so that they are fetched anew"
        )
    return found


def _move(
    workspace: Workspace, registry: Registry, ledger: Ledger, facts: dict[str, Any], cause: str, why: str
) -> None:
    last = ledger.last(PROMOTION)
    before = last.facts["version"] if last else None
    moved = move(workspace, registry, ledger, **facts, before=before, cause=cause, why=[why])
    tell(registry.params, moved)


def tell(params: Params, moved: Entry) -> None:
    """Say who is champion by a promotion, here and to whom alerts go."""
    before, cause = moved.facts["before"], moved.facts["cause"]
    from_where = f"version {before} was" if before else "there was none"
    said = f"version {moved.facts['version']} is champion; {from_where} before"
    print(said)
    kind: alerts.Kind = "rollback" if cause == ROLLBACK else "promotion"
    alerts.send(params, kind, f"{said} ({cause}: {'; '.join(moved.facts['why'])}); `staytuned history` shows all")


def _time(entry: Entry) -> str:
    return entry.when[:16].replace("T", " ")
