"""The pin: champion and best version as a versioned input of the evaluation, and the alias that projects the ledger."""

import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from staytuned import pipeline
from staytuned.errors import MissingError, RegistryError, StaytunedError
from staytuned.files import read_json, replacing_folder, sha256, write_json
from staytuned.params import Params
from staytuned.registry.alias import CHAMPION, alias_now
from staytuned.registry.ledger import PROMOTION, Entry, Ledger
from staytuned.registry.promotion import RESTORED, check_heads, move, remember, settle, unconfirmed
from staytuned.registry.versions import WEIGHTS, Registry
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
    before, pin = written(workspace) or {}, wanted(Ledger.of(workspace, params))
    continues = params.train.start == "champion"
    pin["start"] = (pin["champion"] if arrived else before.get("start") or pin["champion"]) if continues else None
    if pin == before:
        return False
    with replacing_folder(workspace.pin) as folder:  # DVC may have linked its files to the cache: all are new
        for name, about in pin.items():
            if about and (name != "best" or about != pin["champion"]):
                shutil.copytree(local_copy(workspace, about["version"], about["weights"]), folder / name)
        write_json(folder / "start" / "start.json", pin["start"])
        write_json(folder / "pin.json", pin)
    return True


def local_copy(workspace: Workspace, version: int, weights: str | None = None) -> Path:
    """Folder of a version's model; where a copy is at hand, neither the registry nor the params are asked.

    Args:
        workspace: That has it.
        version: Its number.
        weights: SHA-256 that a copy must have; None: it is not looked at. One of a registry that was begun anew has
            other weights under the number, one that a power cut tore has none: it is fetched again.

    Raises:
        RegistryError: the registry has other weights too.
    """
    kept = workspace.version(version)
    if weights and not has_weights(kept, weights):
        shutil.rmtree(kept, ignore_errors=True)
    if not kept.exists():
        Registry(workspace, Params.read(workspace.params)).model_folder(version)
        if weights and not has_weights(kept, weights):
            raise RegistryError(
                f"the weights of version {version} in the registry are not those that were registered: their SHA-256 "
                f"is not {weights}; restore the registry from a copy"
            )
    return kept


def has_weights(folder: Path, weights: str) -> bool:
    """Whether a folder holds a model with weights of this SHA-256."""
    file = folder / "model.safetensors"
    return file.is_file() and sha256(file) == weights


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


def serving(workspace: Workspace) -> tuple[int, Path] | None:
    """Version and folder of the ledger's champion; None where there is none yet.

    While params.yaml, the ledger or the registry is out of order, the champion that was last known here goes on.
    """
    try:
        ledger = Ledger.of(workspace, Params.read(workspace.params))
        last = ledger.last(PROMOTION)
        if last is None:
            if workspace.champion.exists():
                raise RegistryError(f"the ledger {ledger.place} knows no champion")
            return None
        version = int(last.facts["version"])
        folder = local_copy(workspace, version)
    except StaytunedError as error:
        if not workspace.champion.exists():
            raise
        version = int(workspace.champion.read_text())
        print(f"warning: {error}; version {version}, the champion last known here, is asked", file=sys.stderr)
        return version, local_copy(workspace, version)
    with suppress(OSError):  # a workspace may be for reading only
        remember(workspace, version)
    return version, folder


def served(workspace: Workspace) -> tuple[int, Path]:
    """The same where there must be one.

    Raises:
        MissingError: there is none yet.
    """
    found = serving(workspace)
    if found is None:
        raise MissingError("there is no champion yet; `staytuned run` trains one and promotes it if the gate agrees")
    return found


def check_alias(workspace: Workspace, params: Params) -> None:
    """The alias must name the ledger's champion, unless a promotion is under way.

    Raises:
        RegistryError: it was moved or deleted by hand.
    """
    ledger = Ledger.of(workspace, params)
    difference = disagreement(workspace, params, ledger)
    if difference and not unconfirmed(ledger):
        raise RegistryError(
            f"{difference}; somebody moved it by hand. `staytuned sync` sets it back; the ledger's champion goes on "
            "answering `staytuned predict`"
        )


def check_comparable(workspace: Workspace, params: Params) -> None:
    """Champion and best version must give the answers that the params ask for.

    Raises:
        ParamsError: the task or its labels are others now.
    """
    from staytuned import tasks  # heavier than what else is here
    from staytuned.tasks.comparable import check_answers

    task = tasks.load(params)
    for about in sorted(workspace.pin.glob("*/staytuned.json")):
        check_answers(task, about.parent)


def recover(workspace: Workspace, registry: Registry) -> Entry | None:
    """Bring a promotion that was cut off to its end, it was decided, registered and proved; and MLflow's record.
    Returns the promotion, if there was one.

    Raises:
        RegistryError: the ledger lacks what versions say was in it.
    """
    ledger = Ledger.of(workspace, registry.params)
    check_heads(registry, ledger)
    registry.end_what_was_cut_off()
    ended = unconfirmed(ledger)
    if ended:
        settle(workspace, registry, ledger)
    return ended


def sync(workspace: Workspace, params: Params) -> list[str]:
    """Set the alias to what the ledger says and bring the pin up to date; says what it did.

    Raises:
        RegistryError: the ledger lacks what versions say was in it, as one at another address would.
    """
    ledger, done = Ledger.of(workspace, params), []
    difference = disagreement(workspace, params, ledger)
    last = ledger.last(PROMOTION)
    if difference:
        registry = Registry(workspace, params)
        check_heads(registry, ledger)
        if last is None:
            registry.delete_alias(CHAMPION)
        elif last.facts["version"] in registry.versions():
            settle(workspace, registry, ledger)
        else:
            done.append(_restore(workspace, registry, ledger, last.facts))
            last = ledger.last(PROMOTION)
        done.append(f"{difference}: set back")
    if refresh(workspace, params, arrived=False):
        done.append("pinned " + (_version(last.facts["version"]) if last else "no champion yet"))
    pipeline.track(workspace, workspace.batches, workspace.pin)  # an ingest may have been cut off before it did
    return done


def _restore(workspace: Workspace, registry: Registry, ledger: Ledger, facts: dict[str, Any]) -> str:
    """Register a champion anew whose version was deleted by hand: MLflow keeps the model, and gives a new number."""
    old, weights = facts["version"], facts["weights"]
    again = [number for number, tags in registry.versions().items() if tags.get(WEIGHTS) == weights]  # cut off here
    new = max(again, default=None) or registry.register_again(facts["key"], weights)
    if new is None:
        raise RegistryError(
            f"version {old}, the champion, was deleted from the registry with all that belongs to it; its local copy "
            "goes on answering `staytuned predict`. Restore the registry from a copy, or make another version "
            "champion: `staytuned rollback`, `staytuned promote`"
        )
    best = facts["best"] if facts["best"]["version"] != old else {"version": new, "weights": facts["weights"]}
    why = [f"version {old} was deleted from the registry by hand"]
    kept = {"key": facts["key"], "weights": facts["weights"], "version": new, "best": best}
    if workspace.version(old).exists():
        with replacing_folder(workspace.version(new)) as folder:
            shutil.copytree(workspace.version(old), folder, dirs_exist_ok=True)
    move(workspace, registry, ledger, **kept, before=old, cause=RESTORED, why=why)
    return f"version {old} had been deleted from the registry: registered again as version {new}"


def _version(number: int | None) -> str:
    return "nothing" if number is None else f"version {number}"
