"""The pin: champion and best version as a versioned input of the evaluation, and the alias that projects the ledger."""

import shutil
from pathlib import Path
from typing import Any

from staytuned import pipeline
from staytuned.errors import RegistryError
from staytuned.files import read_json, replacing_folder, write_json
from staytuned.params import Params
from staytuned.registry.ledger import CONFIRMATION, PROMOTION, Entry, Ledger
from staytuned.registry.versions import CHAMPION, Registry, alias_now
from staytuned.workspace import Workspace

Pin = dict[str, Any]  # "champion", "best" and, where training goes on from it, "start": {"version", "weights"} or None


def wanted(ledger: Ledger) -> Pin:
    """What the pin should say today."""
    last = ledger.last(PROMOTION)
    if last is None:
        return {"champion": None, "best": None}
    champion = {"version": last.facts["version"], "weights": last.facts["weights"]}
    return {"champion": champion, "best": last.facts["best"]}


def written(workspace: Workspace) -> Pin | None:
    """What the pin says now; None before the first."""
    file = workspace.pin / "pin.json"
    return read_json(file) if file.is_file() else None


def is_current(workspace: Workspace, ledger: Ledger) -> bool:
    """Whether the pin names champion and best version as the ledger does."""
    pin = written(workspace)
    return pin is not None and all(pin.get(name) == about for name, about in wanted(ledger).items())


def refresh(workspace: Workspace, params: Params, arrived: bool) -> bool:
    """Bring the pin up to date with the ledger; False if it was.

    Args:
        workspace: Whose pin.
        params: Say whether training goes on from the champion.
        arrived: Rows have: only then does another champion become the one that training goes on from. A promotion
            alone calls for no training.
    """
    before, pin = written(workspace) or {}, wanted(Ledger(workspace.ledger))
    continues = params.train.start == "champion"
    pin["start"] = (pin["champion"] if arrived else before.get("start") or pin["champion"]) if continues else None
    if pin == before:
        return False
    with replacing_folder(workspace.pin) as folder:  # DVC may have linked its files to the cache: all are new
        for name, about in pin.items():
            if about and (name != "best" or about != pin["champion"]):
                shutil.copytree(local_copy(workspace, about["version"]), folder / name)
        write_json(folder / "start" / "start.json", pin["start"])
        write_json(folder / "pin.json", pin)
    return True


def local_copy(workspace: Workspace, version: int) -> Path:
    """Folder of a version's model; where a copy is at hand, neither the registry nor the params are asked."""
    kept = workspace.var / "versions" / str(version)
    return kept if kept.exists() else Registry(workspace, Params.read(workspace.params)).model_folder(version)


def disagreement(workspace: Workspace, params: Params, ledger: Ledger) -> str | None:
    """How the alias differs from the ledger's last promotion, in words; None if it does not."""
    last = ledger.last(PROMOTION)
    expected = last.facts["version"] if last else None
    found = alias_now(workspace, params, CHAMPION)
    if found == expected:
        return None
    return (
        f"the alias {CHAMPION!r} of {params.registry.model!r} names {_version(found)}, "
        f"the ledger says {_version(expected)}"
    )


def unconfirmed(ledger: Ledger) -> Entry | None:
    """A promotion that was cut off before its alias was known to have moved."""
    last = ledger.last(PROMOTION)
    confirmed = ledger.last(CONFIRMATION)
    if last and (confirmed is None or confirmed.number < last.number):
        return last
    return None


def check_alias(workspace: Workspace, params: Params) -> None:
    """The alias must name the ledger's champion, unless a promotion is under way.

    Raises:
        RegistryError: it was moved or deleted by hand.
    """
    ledger = Ledger(workspace.ledger)
    difference = disagreement(workspace, params, ledger)
    if difference and not unconfirmed(ledger):
        raise RegistryError(
            f"{difference}; somebody moved it by hand. `staytuned sync` sets it back; the ledger's champion goes on "
            "answering `staytuned predict`"
        )


def recover(workspace: Workspace, registry: Registry) -> None:
    """Bring a promotion that was cut off to its end: it was decided, registered and proved."""
    ledger = Ledger(workspace.ledger)
    last = unconfirmed(ledger)
    if last:
        registry.set_alias(CHAMPION, last.facts["version"])
        ledger.append(CONFIRMATION, key=last.facts["key"], version=last.facts["version"])


def sync(workspace: Workspace, params: Params) -> list[str]:
    """Set the alias to what the ledger says and bring the pin up to date; says what it did."""
    ledger, done = Ledger(workspace.ledger), []
    difference = disagreement(workspace, params, ledger)
    last = ledger.last(PROMOTION)
    if difference:
        registry = Registry(workspace, params)
        if last:
            registry.set_alias(CHAMPION, last.facts["version"])
        else:
            registry.delete_alias(CHAMPION)
        done.append(f"{difference}: set back")
    if refresh(workspace, params, arrived=False):
        done.append("pinned " + (_version(last.facts["version"]) if last else "no champion yet"))
    pipeline.track(workspace, workspace.batches, workspace.pin)  # an ingest may have been cut off before it did
    return done


def _version(number: int | None) -> str:
    return "nothing" if number is None else f"version {number}"
