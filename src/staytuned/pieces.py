"""The piece store: what was dear to make, kept beside the outputs and verified when read.

A piece lies outside what DVC tracks. One that is torn, or made from something else, is made again: it never changes
what a stage says, only how long it takes. Each is a table in a file of its own, so that one more batch adds files and
leaves the others as they are.
"""

import hashlib
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import TracebackType

import pyarrow
import pyarrow.parquet

from staytuned.entry_points import task_files
from staytuned.files import replacing, sha256

DIGEST = hashlib.sha256().digest_size
PACKAGE = Path(__file__).parent
LIBRARIES = (
    "datasketch",
    "great-expectations",
    "numpy",
    "pandas",
    "pyarrow",
    "regex",
    "tokenizers",
    "torch",
    "transformers",
)


class Pieces:
    """Pieces of one kind, in a folder of their own.

    ``with Pieces(...)``: those that were not asked for until its end are of rows, params, code or weights that are of
    no more use, and go.

    Args:
        folder: Of these pieces alone.
        made_by: What all of them depend on, in any words.
        beside: Folder of others, of the same kind, which are taken over where they are asked for.
    """

    def __init__(self, folder: Path, made_by: str, beside: Path | None = None) -> None:
        self._folder = folder
        self._made_by = made_by
        self._beside = beside
        self._asked: set[Path] = set()

    def __enter__(self) -> "Pieces":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._folder.exists():
            for path in set(self._folder.iterdir()) - self._asked:
                path.unlink()

    def read(self, key: str) -> pyarrow.Table | None:
        """The piece made from ``key``; None where there is none that is whole."""
        path, key = self._path(key), self._made_by + key
        found = read_piece(path, key)
        if found is None and self._beside:
            found = read_piece(self._beside / path.name, key)
            if found is not None:
                write_piece(path, key, found)
        return found

    def keep(self, key: str, table: pyarrow.Table) -> pyarrow.Table:
        """Keep a table as the piece made from ``key``; returns what will be read."""
        return write_piece(self._path(key), self._made_by + key, table)

    def get(self, key: str, make: Callable[[], pyarrow.Table]) -> pyarrow.Table:
        """The piece made from ``key``, made if there is none."""
        kept = self.read(key)
        return self.keep(key, make()) if kept is None else kept

    def _path(self, key: str) -> Path:
        path = self._folder / f"{hashlib.sha256((self._made_by + key).encode()).hexdigest()[:32]}.arrow"
        self._asked.add(path)
        return path


def read_piece(path: Path, key: str) -> pyarrow.Table | None:
    """The table of a piece; None where there is none, where it is not whole, or where its key is another.

    Args:
        path: The file.
        key: What the table was made from, in any words.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    body = memoryview(content)[DIGEST:]
    if _digest(key, body) != content[:DIGEST]:
        return None
    return pyarrow.ipc.open_stream(body).read_all()


def write_piece(path: Path, key: str, table: pyarrow.Table) -> pyarrow.Table:
    """Keep a table, and return it as it will be read, down to its chunks.

    It is not waited for until it is on the disk: one that a power cut tears is made again.
    """
    body = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(body, table.schema, options=pyarrow.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table)
    content = memoryview(body.getvalue())
    with replacing(path, sync=False) as temporary, temporary.open("wb") as handle:
        handle.write(_digest(key, content))
        handle.write(content)
    return pyarrow.ipc.open_stream(content).read_all()


def _digest(key: str, content: memoryview) -> bytes:
    digest = hashlib.sha256(key.encode())
    digest.update(content)
    return digest.digest()


@cache
def made_by(*names: str) -> str:
    """SHA-256 of what ``code_of`` hashes, and of the versions of what the code uses."""
    versions = [f"{name} {version(name)}" for name in LIBRARIES]
    return hashlib.sha256(" ".join([sys.version, *versions, code_of(*names)]).encode()).hexdigest()


def code_of(*names: str) -> str:
    """SHA-256 of modules and packages of staytuned, given by their paths in it.

    ``tasks`` stands for the installed tasks of other packages as well.
    """
    paths = [PACKAGE / name for name in names]
    files = [file for path in paths for file in (sorted(path.glob("*.py")) if path.is_dir() else [path])]
    files += task_files() if "tasks" in names else []
    return hashlib.sha256(" ".join(map(sha256, files)).encode()).hexdigest()


def row_groups(path: Path) -> list[tuple[str, int]]:
    """Of each row group of a Parquet file: SHA-256 of its bytes, which need not be decoded for that, and its rows."""
    found = []
    metadata = pyarrow.parquet.read_metadata(path)
    with path.open("rb") as handle:
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            columns = [group.column(place) for place in range(group.num_columns)]
            handle.seek(min(column.dictionary_page_offset or column.data_page_offset for column in columns))
            content = handle.read(sum(column.total_compressed_size for column in columns))
            found.append((hashlib.sha256(content).hexdigest(), group.num_rows))
    return found
