"""Files of rows, read as a stream: csv, tsv, jsonl, Parquet, and what a task reads besides.

What cannot be read in a row is said in the row.
"""

import csv
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from staytuned.errors import DataError, MissingError
from staytuned.sections import Columns

CORE = ("row", "text", "text_pair", "label", "source", "group", "line", "problem", "readmits")
NO_SOURCE = "data"
Row = dict[str, str | None]
Found = tuple[int, dict[str, Any], str | None]  # line, values by column, why it could not be read whole
Format = Callable[[Iterator[str]], Iterator[Found]]  # of lines; its columns have our own names
OWN = {name: name for name in ("text", "text_pair", "label", "id", "source", "group")}
HALF_PAIR = re.compile("[\ud800-\udfff]")

csv.field_size_limit(2**31 - 1)  # a row may be too long to use, but it is counted


class Reader:
    """Rows of one file under our column names; every value is a string or None.

    A row has ``row`` (source + id), ``text``, ``text_pair``, ``label`` (JSON where it is a list or an object),
    ``source``, ``group`` (source + group), ``line`` (where it ends in the file; of Parquet, its number), ``problem``
    (why it could not be read whole), ``readmits`` (key of the quarantined row that it corrects) and the columns in
    ``columns.keep``. After the rows are drawn, ``decoded`` counts the lines that needed another encoding than the
    first.

    Args:
        path: The file.
        columns: Our columns by the names they have in it.
        encodings: Tried in turn, line by line.
        formats: Readers of further endings, such as ``.conll``.
        lenient: Columns of ``columns.keep`` that the file lacks are left out.
    """

    def __init__(
        self,
        path: Path,
        columns: Columns,
        encodings: list[str],
        formats: Mapping[str, Format] | None = None,
        lenient: bool = False,
    ) -> None:
        self.path = path
        self.columns = columns
        self.encodings = encodings
        self.formats = formats or {}
        self.lenient = lenient
        self.decoded: Counter[str] = Counter()

    def rows(self) -> Iterator[Row]:
        """Draw the rows.

        Raises:
            MissingError: there is no such file.
            DataError: it is empty, cut short, of an unknown kind, or lacks a column.
        """
        if not self.path.is_file():
            raise MissingError(f"there is no file {self.path}; check the path")
        if self.path.stat().st_size == 0:
            raise DataError(f"{self.path} is empty; give a file with rows")
        kinds = {".csv": self._csv, ".tsv": self._csv, ".jsonl": self._jsonl, ".parquet": self._parquet}
        ending = self.path.suffix.lower()
        if ending in self.formats:
            self.columns = Columns.model_validate(OWN | {"keep": []})
            read = self._of_task
        elif ending in kinds:
            read = kinds[ending]
        else:
            known = ", ".join([*kinds, *self.formats])
            raise DataError(f"{self.path} ends with {self.path.suffix!r}; known endings: {known}")
        used = self._used()
        for line, values, problem in read():
            yield self._ours(line, values, _replace_half_pairs(values, used) or problem)

    def _of_task(self) -> Iterator[Found]:
        bad: list[int] = []
        with self.path.open("rb") as handle:
            for line, values, problem in self.formats[self.path.suffix.lower()](self._decode(handle, bad)):
                content = (json.dumps(values.get(name)) for name in ("text", "text_pair", "label"))
                yield line, {"id": _content_id(*content)} | values, _encoding_problem(bad) or problem

    def _csv(self) -> Iterator[Found]:
        dialect = "excel-tab" if self.path.suffix.lower() == ".tsv" else "excel"
        bad: list[int] = []
        with self.path.open("rb") as handle:
            lines = csv.reader(self._decode(handle, bad), dialect, strict=True)
            try:
                header = next(lines)
                self._check_columns(header)
                for fields in lines:
                    problem = _encoding_problem(bad)
                    if fields and len(fields) != len(header):
                        problem = f"{len(fields)} fields where the header has {len(header)}"
                    if fields:
                        yield lines.line_num, dict(zip(header, fields, strict=False)), problem
            except csv.Error as error:
                raise DataError(
                    f"{self.path}, near line {lines.line_num}: {error}; is the file cut short, or a quote left open?"
                ) from None

    def _jsonl(self) -> Iterator[Found]:
        bad: list[int] = []
        checked = False
        problem: str | None
        with self.path.open("rb") as handle:
            for number, line in enumerate(self._decode(handle, bad), 1):
                if not line.strip():
                    continue
                try:
                    values = json.loads(line)
                except (ValueError, RecursionError) as error:  # also of huge numbers, and of deep nesting
                    said = getattr(error, "msg", str(error))
                    if not line.endswith("\n"):
                        raise DataError(f"{self.path} is cut short in line {number}: {said}") from None
                    values, problem = {self.columns.text: line}, f"line {number} is not valid JSON: {said}"
                else:
                    problem = _encoding_problem(bad)
                    if not isinstance(values, dict):
                        values, problem = {self.columns.text: line}, f"line {number} is no JSON object"
                    elif not checked:
                        self._check_columns(list(values))
                        checked = True
                yield number, values, problem

    def _parquet(self) -> Iterator[Found]:
        try:
            file = pyarrow.parquet.ParquetFile(self.path)
            self._check_columns(file.schema_arrow.names)
            batches = file.iter_batches(batch_size=10_000, columns=self._used())
            for number, values in enumerate((values for batch in batches for values in batch.to_pylist()), 1):
                yield number, values, None
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{self.path} is no whole Parquet file: {error}; write it anew") from None

    def _decode(self, lines: Iterable[bytes], bad: list[int]) -> Iterator[str]:
        """Lines as text; the numbers of those that no encoding fits go to ``bad``."""
        for number, line in enumerate(lines, 1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            for encoding in self.encodings:
                try:
                    text = line.decode(encoding)
                except UnicodeDecodeError:
                    continue
                if encoding != self.encodings[0]:
                    self.decoded[encoding] += 1
                yield text
                break
            else:
                bad.append(number)
                yield line.decode(self.encodings[0], errors="replace")

    def _used(self) -> list[str]:
        """Columns of the file that a row of ours is made of."""
        named = self.columns.model_dump(exclude={"keep"}).values()
        return [name for name in dict.fromkeys([*named, *self.columns.keep]) if name]

    def _check_columns(self, present: list[str]) -> None:
        if self.lenient:
            kept = [name for name in self.columns.keep if name in present]
            self.columns = self.columns.model_copy(update={"keep": kept})
        named = self.columns.model_dump(exclude={"keep"})
        missing = [
            f"ingest.columns.{ours}: {theirs}" for ours, theirs in named.items() if theirs and theirs not in present
        ]
        missing += [f"ingest.columns.keep: {name}" for name in self.columns.keep if name not in present]
        if missing:
            cure = "map the columns in params.yaml, with null for those that the data has not"
            if len(present) == 1 and ";" in present[0]:
                cure = "its columns seem to be parted by ';', so save it with commas"
            raise DataError(
                f"{self.path} lacks {', '.join(missing)}; it has {', '.join(map(repr, present))[:500]}; {cure}"
            )
        twice = sorted({name for name in self._used() if present.count(name) > 1})
        if twice:
            raise DataError(f"{self.path} has more than one column {twice}; rename or drop the others")

    def _ours(self, line: int, values: dict[str, Any], problem: str | None) -> Row:
        def value(theirs: str | None) -> str | None:
            found = values.get(theirs) if theirs else None
            if isinstance(found, list | dict):
                return json.dumps(found, ensure_ascii=False)
            if isinstance(found, bytes):  # of Parquet that does not say it is text; what is none is quarantined
                return found.decode(self.encodings[0], "replace")
            return None if found is None else str(found)

        columns = self.columns
        source = value(columns.source) or NO_SOURCE
        text, pair = value(columns.text), value(columns.text_pair)
        label, group = value(columns.label) or None, value(columns.group)
        identity = value(columns.id) if columns.id else _content_id(text, pair, label)
        row: Row = {
            "row": f"{source}:{identity}" if identity else None,
            "text": text,
            "text_pair": pair,
            "label": label,
            "source": source,
            "group": f"{source}:{group}" if group else None,
            "line": str(line),
            "problem": problem,
            "readmits": None,
        }
        return row | {name: value(name) for name in columns.keep}


def chunks(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    """Rows, as many at a time."""
    while chunk := list(itertools.islice(rows, size)):
        yield chunk


def _encoding_problem(bad: list[int]) -> str | None:
    if not bad:
        return None
    numbers = ", ".join(map(str, bad))
    bad.clear()
    return f"line {numbers} holds bytes of no listed encoding"


def _replace_half_pairs(values: dict[str, Any], used: list[str]) -> str | None:
    """Half of a surrogate pair, as JSON can smuggle in, cannot be stored: replace it, and say so."""
    broken = None
    for name in used:
        value = values.get(name)
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
        if isinstance(text, str) and not text.isascii() and HALF_PAIR.search(text):
            whole = HALF_PAIR.sub("?", text)
            values[name] = whole if text is value else json.loads(whole)
            broken = f"half of a surrogate pair in {name}"
    return broken


def _content_id(*content: str | None) -> str:
    """An id for data without one: equal rows get equal ids, and the second is a duplicate."""
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=10).hexdigest()
