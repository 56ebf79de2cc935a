"""Batches: immutable Parquet files named by the hash of their rows, and the manifest of their arrival."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow
import pyarrow.parquet

from staytuned.data.readers import CORE, NO_SOURCE, OWN, Reader, Row, chunks
from staytuned.errors import DataError, MissingError
from staytuned.files import PARQUET, printable, replacing, write_text
from staytuned.sections import Columns
from staytuned.workspace import Workspace

CHUNK = 10_000  # rows in memory at a time


@dataclass(frozen=True)
class Batch:
    """One line of the manifest."""

    batch: str  # SHA-256 of the rows
    rows: int
    file: str  # name of the file that it came from
    arrived: str  # ISO 8601, UTC
    decoded: dict[str, int]  # lines that needed another encoding than the first, by encoding
    problems: int  # rows that could not be read whole
    readmits: bool  # corrected rows out of the quarantine


def manifest(workspace: Workspace) -> list[Batch]:
    """All batches in the order of their arrival."""
    if not workspace.manifest.exists():
        return []
    return [Batch(**json.loads(line)) for line in workspace.manifest.read_text().splitlines()]


def path_of(workspace: Workspace, batch: str) -> Path:
    """Where a batch's rows are."""
    return workspace.batches / f"{batch[:16]}.parquet"


def add(workspace: Workspace, reader: Reader, readmits: bool = False) -> tuple[Batch, bool]:
    """Make a batch of the reader's rows; returns it, and False if these very rows were there already.

    Raises:
        DataError: the file has a header and no rows.
    """
    workspace.batches.mkdir(parents=True, exist_ok=True)
    digest, rows, problems = hashlib.sha256(), 0, 0
    schema = pyarrow.schema([(name, pyarrow.string()) for name in (*CORE, *reader.columns.keep)])
    temporary = workspace.var / "incoming.parquet"  # outside the folder, whose hash must not see it
    with replacing(temporary) as partial:
        with pyarrow.parquet.ParquetWriter(partial, schema, **PARQUET) as writer:
            for chunk in chunks(reader.rows(), CHUNK):
                rows += len(chunk)
                problems += sum(row["problem"] is not None for row in chunk)
                digest.update("".join(_content(row) for row in chunk).encode())
                writer.write_table(pyarrow.Table.from_pylist(chunk, schema=schema))
        if not rows:
            raise DataError(f"{reader.path} has no rows; give a file with rows")
    entry = Batch(
        batch=digest.hexdigest(),
        rows=rows,
        file=printable(reader.path.name),
        arrived=datetime.now(UTC).isoformat(timespec="seconds"),
        decoded=dict(reader.decoded),
        problems=problems,
        readmits=readmits,
    )
    known = {batch.batch: batch for batch in manifest(workspace)}
    if entry.batch in known:
        temporary.unlink()
        return known[entry.batch], False
    try:
        temporary.replace(path_of(workspace, entry.batch))
        _write(workspace, [*known.values(), entry])
    except BaseException:
        if entry not in manifest(workspace):  # such a batch would stop every run
            path_of(workspace, entry.batch).unlink(missing_ok=True)
            temporary.unlink(missing_ok=True)
        raise
    return entry, True


def of_name(workspace: Workspace, name: str) -> Batch:
    """The batch of this name, the first 16 digits of its hash.

    Raises:
        MissingError: there is none.
    """
    known = {batch.batch[:16]: batch for batch in manifest(workspace)}
    if name not in known:
        listed = "\n  ".join(f"{each}  {batch.rows:,} rows of {batch.file}" for each, batch in known.items())
        raise MissingError(f"there is no batch {name!r}; known, the newest last:\n  {listed or 'none'}")
    return known[name]


def take_out(workspace: Workspace, batch: Batch) -> None:
    """Take a batch's rows away, then the batch off the manifest: cut off between, it can be done again."""
    path_of(workspace, batch.batch).unlink(missing_ok=True)
    _write(workspace, [other for other in manifest(workspace) if other != batch])


def _write(workspace: Workspace, entries: list[Batch]) -> None:
    lines = [f"{json.dumps(asdict(batch), sort_keys=True)}\n" for batch in entries]
    write_text(workspace.manifest, "".join(lines))


class Corrected(Reader):
    """Rows corrected in a copy of the quarantine: our own column names, and the key of the row corrected.

    Args:
        path: The copy.
        keep: Columns of the rows that are kept.
        before: The rows of the quarantine by their keys; one that is as it was there is passed over.
    """

    def __init__(self, path: Path, keep: list[str], before: dict[str, Row] | None = None) -> None:
        columns = Columns.model_validate(OWN | {"id": "row", "keep": keep})
        super().__init__(path, columns, ["utf-8"])
        self._before = {key: row | {"line": None} for key, row in (before or {}).items()}

    def rows(self) -> Iterator[Row]:
        """Draw the rows that were changed."""
        for row in super().rows():
            if row | {"line": None} != self._before.get(str(row["readmits"])):
                yield row

    def _check_columns(self, present: list[str]) -> None:
        if "key" not in present:
            raise DataError(f"{self.path} has no column 'key'; leave it as it is in the quarantine")
        super()._check_columns(present)

    def _used(self) -> list[str]:
        return ["key", *super()._used()]

    def _ours(self, line: int, values: dict[str, str | None], problem: str | None) -> Row:
        own = {name: values.get(name) or None for name in ("row", "text_pair", "label", "source", "group")}
        source = f"{own['source'] or NO_SOURCE}:"
        if own["row"] and not own["row"].startswith(source):  # an id that was written anew
            own["row"] = source + own["row"]
        return super()._ours(line, values, problem) | own | {"readmits": values.get("key")}


def _content(row: Row) -> str:
    """A row as it counts for the hash of its batch: blank lines between rows make no other batch."""
    return json.dumps({name: value for name, value in row.items() if name != "line"}, sort_keys=True) + "\n"


def check_manifest(workspace: Workspace) -> None:
    """Every batch in the manifest must be there, and no other.

    Raises:
        DataError: names what is missing or not known.
    """
    named = {path_of(workspace, batch.batch).name for batch in manifest(workspace)}
    found = {path.name for path in workspace.batches.iterdir()} if workspace.batches.is_dir() else set()
    if named - found:
        raise DataError(
            f"{workspace.batches} lacks {sorted(named - found)}; fetch them with `dvc pull`, "
            "or, if `staytuned withdraw` was cut off, give that command again"
        )
    if found - named:
        raise DataError(
            f"{workspace.batches} holds {sorted(found - named)}, which the manifest does not know; "
            "an ingest that was cut off left them, so ingest that file again; or move them away"
        )
