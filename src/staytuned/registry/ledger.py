"""The ledger: an append-only record of decisions and promotions, each entry sealed by the hash of the one before.

Several workspaces may share one: who moves the champion holds the ledger's lease, and says which champion the new one
was chosen over (docs/decisions/0009-ledger.md).
"""

import getpass
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from staytuned.errors import BusyError, DataError, RegistryError, StaytunedError
from staytuned.params import Params
from staytuned.registry.ledger_store import TERM, Row, Store
from staytuned.workspace import Workspace

DECISION = "decision"  # facts: key, outcome, reasons, weights, run, report, champion, tokens, measured
PROMOTION = "promotion"  # the intent, before the alias moves: key, version, weights, best, before, cause, why, fence
CONFIRMATION = "confirmation"  # the alias has moved: key, version, fence
CHALLENGE = "challenge"  # a version was kept without being promoted: key, version
TRIGGER = (
    "trigger"  # whether a retraining is due: key, champion, alarm, batches, retrain, reasons, waiting, expected_cost
)
WITHDRAWAL = "withdrawal"  # a batch was taken out: batch, file, rows, why
MOVES = (PROMOTION, CONFIRMATION)  # what only the holder of the lease may write


@dataclass(frozen=True)
class Entry:
    """One entry; ``facts`` depends on the kind."""

    number: int
    kind: str
    when: str
    who: str
    facts: dict[str, Any]
    seal: str


class Ledger:
    """The entries, in a SQLite file or in the database at a URL."""

    def __init__(self, place: Path | str) -> None:
        self.place = place
        self._store = Store(place)

    @classmethod
    def of(cls, workspace: Workspace, params: Params) -> "Ledger":
        """The ledger that a workspace uses."""
        return cls(params.registry.ledger_url or workspace.ledger)

    def entries(self) -> list[Entry]:
        """All entries, oldest first.

        Raises:
            RegistryError: an entry was changed or taken out, or the database does not answer.
        """
        return self._checked(self._store.rows())

    def last(self, kind: str, key: str | None = None) -> Entry | None:
        """The newest entry of a kind, or of a kind and a key."""
        of_kind = (entry for entry in reversed(self.entries()) if entry.kind == kind)
        return next((entry for entry in of_kind if key in (None, entry.facts.get("key"))), None)

    def append(self, kind: str, fence: int | None = None, **facts: Any) -> Entry:
        """Add an entry, durably.

        Args:
            kind: What it is about.
            fence: Number of the lease; what moves the champion needs one, and keeps it among its facts.
            facts: Of a promotion, ``before`` is the version that was champion when the new one was chosen.

        Raises:
            BusyError: the lease is no longer held, or there is another champion by now; nothing was written.
            RegistryError: an entry was changed or taken out, or the database does not answer.
        """
        if (fence is None) == (kind in MOVES):
            raise ValueError(f"{kind}: what moves the champion is written under a lease, and nothing else")
        if fence is not None:
            facts["fence"] = fence
        body = {"kind": kind, "when": datetime.now(UTC).isoformat(timespec="seconds"), "who": _who(), "facts": facts}
        text = json.dumps(body, sort_keys=True)
        with self._store.writing() as writer:
            entries = self._checked(writer.rows())
            if fence is not None:
                writer.check_lease(fence)
            if kind == PROMOTION:
                _check_champion(entries, facts["before"])
            row = (len(entries) + 1, text, _seal(entries[-1].seal if entries else "", text))
            writer.add(row)
        return _entry(row)

    @contextmanager
    def lease(self, holder: str, term: float = TERM) -> Iterator[int]:
        """Hold the right to move the champion, for ``term`` seconds at most; yields its fencing number.

        A holder that comes again has ended before (a workspace is one run's at a time), so it need not wait.

        Raises:
            BusyError: another holds it.
        """
        with self._store.writing() as writer:
            fence = writer.take_lease(holder, term)
        try:
            yield fence
        finally:
            with suppress(StaytunedError), self._store.writing() as writer:  # else it ends by itself
                writer.end_lease(fence)

    def _checked(self, rows: list[Row]) -> list[Entry]:
        """The rows as entries, if each carries its seal."""
        before = ""
        for expected, (number, text, seal) in enumerate(rows, 1):
            if number != expected or seal != _seal(before, text):
                raise RegistryError(
                    f"entry {number} of {self.place} does not carry its seal: it, or one before it, was changed; "
                    "restore the ledger from a copy"
                )
            before = seal
        return [_entry(row) for row in rows]


def _check_champion(entries: list[Entry], before: int | None) -> None:
    last = next((entry for entry in reversed(entries) if entry.kind == PROMOTION), None)
    if last and last.facts["version"] != before:
        raise overtaken(last)


def check_reason(why: str) -> None:
    """What is done by hand needs a reason.

    Raises:
        DataError: it is blank.
    """
    if not why.strip():
        raise DataError("--why is blank; the ledger needs your reason")


def overtaken(by: Entry) -> BusyError:
    """What to say when the champion is no longer the one that a version was chosen over."""
    return BusyError(
        f"version {by.facts['version']} was promoted by {by.who} meanwhile ({by.when}), and this one was not judged "
        "beside it; nothing was promoted; the same command again goes on from there"
    )


def _entry(row: Row) -> Entry:
    number, text, seal = row
    return Entry(number, **json.loads(text), seal=seal)


def _seal(before: str, text: str) -> str:
    return hashlib.sha256(f"{before}\n{text}".encode()).hexdigest()


def _who() -> str:
    try:
        user = getpass.getuser()
    except KeyError:  # a container may run under a number that has no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
