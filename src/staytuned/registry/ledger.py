"""The ledger: an append-only record of decisions and promotions, each entry sealed by the hash of the one before."""

import getpass
import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from staytuned.errors import RegistryError, disk_full, is_full

DECISION = "decision"  # facts: key, outcome, reasons, weights, run
PROMOTION = "promotion"  # the intent, before the alias moves: key, version, weights, best, why
CONFIRMATION = "confirmation"  # the alias has moved: key, version
CHALLENGE = "challenge"  # a version was kept without being promoted: key, version


@dataclass(frozen=True)
class Entry:
    """One entry; ``facts`` depends on the kind."""

    number: int
    kind: str
    when: str
    who: str
    facts: dict[str, Any]


SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (number INTEGER PRIMARY KEY, body TEXT NOT NULL, seal TEXT NOT NULL);
CREATE TRIGGER IF NOT EXISTS no_update BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS no_delete BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""


class Ledger:
    """Entries in one SQLite file. Its ``user_version`` counts them: the seals alone would not miss the last ones."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, kind: str, **facts: Any) -> Entry:
        """Add an entry, durably.

        Raises:
            RegistryError: an entry was changed or taken out.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._opened() as db:
            db.executescript(SCHEMA)
            db.execute("BEGIN IMMEDIATE")
            rows = self._rows(db)
            number, before = len(rows) + 1, rows[-1][1] if rows else ""
            body: dict[str, Any] = {
                "kind": kind,
                "when": datetime.now(UTC).isoformat(timespec="seconds"),
                "who": getpass.getuser(),
                "facts": facts,
            }
            text = json.dumps(body, sort_keys=True)
            db.execute("INSERT INTO entries VALUES (?, ?, ?)", (number, text, _seal(before, text)))
            db.execute(f"PRAGMA user_version = {number}")
            db.execute("COMMIT")
        return Entry(number, **body)

    def entries(self) -> list[Entry]:
        """All entries, oldest first.

        Raises:
            RegistryError: an entry was changed or taken out.
        """
        if not self.path.exists() or self.path.stat().st_size == 0:  # made, and cut off before its first entry
            return []
        with self._opened() as db:
            return [Entry(number, **json.loads(text)) for number, (text, _) in enumerate(self._rows(db), 1)]

    def _rows(self, db: sqlite3.Connection) -> list[tuple[str, str]]:
        """Body and seal of each entry, checked."""
        rows = db.execute("SELECT number, body, seal FROM entries ORDER BY number").fetchall()
        (written,) = db.execute("PRAGMA user_version").fetchone()
        before = ""
        for expected, (number, text, seal) in enumerate(rows, 1):
            if number != expected or seal != _seal(before, text):
                raise RegistryError(
                    f"entry {number} of {self.path} does not carry its seal: it, or one before it, was changed; "
                    "restore the file from a copy"
                )
            before = seal
        if len(rows) != written:
            raise RegistryError(
                f"{self.path} holds {len(rows)} entries, but {written} were written; restore the file from a copy"
            )
        return [(text, seal) for _, text, seal in rows]

    def last(self, kind: str, key: str | None = None) -> Entry | None:
        """The newest entry of a kind, or of a kind and a key."""
        of_kind = (entry for entry in reversed(self.entries()) if entry.kind == kind)
        return next((entry for entry in of_kind if key in (None, entry.facts["key"])), None)

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=30, isolation_level=None)) as db:
                db.execute("PRAGMA synchronous = FULL")
                yield db
        except sqlite3.Error as error:
            if is_full(error):
                raise disk_full(self.path) from error
            raise RegistryError(f"the ledger {self.path} cannot be used: {error}; restore it from a copy") from error


def _seal(before: str, text: str) -> str:
    return hashlib.sha256(f"{before}\n{text}".encode()).hexdigest()
