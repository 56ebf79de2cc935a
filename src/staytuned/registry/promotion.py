"""How the champion moves: an intent in the ledger, the alias, a confirmation, all under the ledger's lease.

The gate, a rollback and a promotion by hand go this one way. Whoever is cut off on it is set right by the next run.
"""

from typing import Any

from staytuned.errors import BusyError, RegistryError
from staytuned.files import write_text
from staytuned.registry.alias import CHALLENGER, CHAMPION
from staytuned.registry.ledger import CONFIRMATION, PROMOTION, Entry, Ledger
from staytuned.registry.versions import HEAD, Registry, holder_of
from staytuned.workspace import Workspace

# why a champion moved: the cause in its entry
GATE, ROLLBACK, BY_HAND = "gate", "rollback", "by hand"
RESTORED = "restored"  # its version was deleted from the registry, and registered again under another number


def promotions(ledger: Ledger) -> list[Entry]:
    """Every move of the champion, oldest first."""
    return [entry for entry in ledger.entries() if entry.kind == PROMOTION]


def unconfirmed(ledger: Ledger) -> Entry | None:
    """A promotion that was cut off before its alias was known to have moved."""
    last = ledger.last(PROMOTION)
    confirmed = ledger.last(CONFIRMATION)
    if last and (confirmed is None or confirmed.number < last.number):
        return last
    return None


def line(ledger: Ledger) -> list[Entry]:
    """The promotions that lead to today's champion, oldest first; what was rolled back is not among them."""
    found = list[Entry]()
    for entry in promotions(ledger):
        same = found and found[-1].facts["version"] == entry.facts["version"]  # the champion, judged again
        if found and (same or entry.facts["cause"] == RESTORED):
            found[-1] = entry
        elif entry.facts["cause"] == ROLLBACK:
            found.pop()
        else:
            found.append(entry)
    return found


def rolled_back(ledger: Ledger, weights: str) -> Entry | None:
    """The rollback that took these weights out of service, if nothing has put them back since."""
    found, before = None, None
    for entry in promotions(ledger):
        if entry.facts["weights"] == weights:
            found = None
        elif entry.facts["cause"] == ROLLBACK and before == weights:
            found = entry
        before = entry.facts["weights"]
    return found


def move(workspace: Workspace, registry: Registry, ledger: Ledger, **facts: Any) -> Entry:
    """Make a version champion; ``facts`` are those of a promotion, without the fence. Returns its entry.

    Raises:
        BusyError: another is moving the champion, or has moved it since ``before`` was read; nothing was changed.
        RegistryError: the registry does not answer; the next run goes on from there.
    """
    with ledger.lease(holder_of(workspace)) as fence:
        begun = unconfirmed(ledger)
        if begun is None or begun.facts["key"] != facts["key"] or begun.facts["version"] != facts["version"]:
            ledger.append(PROMOTION, fence, **facts)
        return _follow(workspace, registry, ledger, fence)


def settle(workspace: Workspace, registry: Registry, ledger: Ledger) -> None:
    """Let the alias name the ledger's champion, and confirm that it does."""
    with ledger.lease(holder_of(workspace)) as fence:
        _follow(workspace, registry, ledger, fence)


def _follow(workspace: Workspace, registry: Registry, ledger: Ledger, fence: int) -> Entry:
    last = promotions(ledger)[-1]
    version = last.facts["version"]
    remember(workspace, version)
    registry.set_alias(CHAMPION, version)
    registry.take_alias(CHALLENGER, version)
    witness(registry, ledger)
    try:
        ledger.append(CONFIRMATION, fence, key=last.facts["key"], version=version)
    except BusyError:  # held too long; MLflow sets an alias without a check, perhaps over that of a newer champion
        registry.set_alias(CHAMPION, promotions(ledger)[-1].facts["version"])
        raise
    return last


def remember(workspace: Workspace, version: int) -> None:
    """Note which version answers, for the time that the ledger does not."""
    write_text(workspace.champion, f"{version}\n")


def witness(registry: Registry, ledger: Ledger) -> None:
    """Tag the champion's version with the head of the ledger: what is cut off from the ledger later shows."""
    last, head = ledger.last(PROMOTION), ledger.entries()[-1]
    if last:
        registry.tag(last.facts["version"], HEAD, f"{head.number} {head.seal}")


def check_heads(registry: Registry, ledger: Ledger) -> int | None:
    """Every head that a version was tagged with must be in the ledger; returns the number of the newest one.

    Raises:
        RegistryError: entries were cut off, or all seals were written anew.
    """
    tagged = sorted(registry.versions().items())  # before the ledger, which others may write to meanwhile
    seals = {entry.number: entry.seal for entry in ledger.entries()}
    newest = None
    for version, tags in tagged:
        if HEAD not in tags:
            continue
        number, seal = tags[HEAD].split()
        if seals.get(int(number)) != seal:
            found = "carries another seal" if int(number) in seals else f"is missing: the last is {len(seals)}"
            raise RegistryError(
                f"the ledger {ledger.place} was changed: its entry {number}, whose seal version {version} is tagged "
                f"with, {found}; restore it from a copy, or name in registry.ledger_url the one that was used before"
            )
        newest = max(newest or 0, int(number))
    return newest
