"""Verdicts: what the contract makes of each row of each batch, asked once for each part of a batch."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass

import numpy
import pandas
import pyarrow

from staytuned.data.batches import Batch
from staytuned.data.contract import Checkpoint, Contract, Reasons
from staytuned.data.data_docs import Validated
from staytuned.pieces import Pieces

Faults = Callable[[pandas.DataFrame], list[str | None]]  # why a task cannot use each row
HASH = numpy.uint64
PAGE = -1  # the place in a piece that stands for no row, but for the page of Data Docs


@dataclass
class Part:
    """Consecutive rows of a batch."""

    batch: Batch
    start: int  # place of the first in the batch
    frame: pandas.DataFrame  # its rows with ``label`` and ``batch``
    key: str  # all that the verdict depends on: the batch, and those before it


class Hashes:
    """Hashes of rows, or of their ids, sorted: 8 bytes a row, however long they are."""

    def __init__(self) -> None:
        self.hashes = numpy.empty(0, HASH)

    def add(self, hashes: numpy.ndarray) -> None:
        """Remember these."""
        new = numpy.unique(hashes)
        self.hashes = numpy.insert(self.hashes, self.hashes.searchsorted(new), new)

    def holds(self, hashes: numpy.ndarray) -> numpy.ndarray:
        """Which of these were remembered."""
        return self.hashes.searchsorted(hashes, "left") < self.hashes.searchsorted(hashes, "right")


class Judge:
    """Asks Great Expectations about the parts of which no verdict is kept, as many together as one frame may hold: a
    checkpoint takes a second however few its rows are.
    """

    def __init__(self, contract: Contract, faults: Faults, chunk_rows: int, pieces: Pieces) -> None:
        self.done: list[Validated] = []  # what Data Docs show
        self._contract, self._faults, self._chunk_rows, self._pieces = contract, faults, chunk_rows, pieces
        self._checkpoint: Checkpoint | None = None
        self._everyone, self._accepted, self._here = Hashes(), Hashes(), Hashes()  # ids
        self._texts, self._contents = Hashes(), Hashes()  # of the rows that an id stands for

    def verdicts(self, parts: Iterable[Part]) -> Iterator[tuple[Part, dict[int, Reasons]]]:
        """Each part, in the order of arrival, with the reasons against each of its bad rows, by place in the part."""
        waiting: list[Part] = []
        for part in parts:
            kept = self._pieces.read(part.key)
            if waiting and (kept is not None or self._is_full(waiting, part)):
                yield from self._judged(waiting)
                waiting = []
            if kept is None:
                waiting.append(part)
            else:
                yield part, self._remembered(part, kept)
        if waiting:
            yield from self._judged(waiting)

    def _is_full(self, waiting: list[Part], part: Part) -> bool:
        """Corrected rows come alone: they are judged by what became of the rows before them."""
        rows = sum(len(one.frame) for one in (*waiting, part))
        return rows > self._chunk_rows or part.batch.readmits or waiting[0].batch.readmits

    def _judged(self, parts: list[Part]) -> Iterator[tuple[Part, dict[int, Reasons]]]:
        first, frame = parts[0], pandas.concat([part.frame for part in parts], ignore_index=True)
        frame["fault"] = pandas.Series(self._faults(frame), index=frame.index, dtype="object")
        self._compare(first, frame)
        frame["text"] = frame["text"].str.slice(0, self._contract.max_characters + 1)
        self._checkpoint = self._checkpoint or Checkpoint(self._contract)
        reasons, done = self._checkpoint.reasons(f"{first.batch.batch[:12]}-{first.start}", frame)
        lines, start = [(PAGE, json.dumps(asdict(done)))], 0
        for part in parts:
            places = range(start, start + len(part.frame))
            lines += [(place - start, json.dumps(reasons[place])) for place in places if place in reasons]
            columns = zip(*lines, strict=True) if lines else ([], [])
            schema = pyarrow.schema([("place", pyarrow.int64()), ("reasons", pyarrow.string())])
            table = pyarrow.table(list(map(list, columns)), schema=schema)
            yield part, self._remembered(part, self._pieces.keep(part.key, table))
            lines, start = [], start + len(part.frame)

    def _compare(self, first: Part, frame: pandas.DataFrame) -> None:
        """Put the id of each row whose id was there before into the column that says what else was: all of it
        (``repeat``), all but the label (``relabelled``), or neither (``reworded``).
        """
        ids, texts, contents = _hashes(frame)
        again = self._again(first, ids)
        same_text = self._texts.holds(texts) | numpy.isin(texts, texts[~again])
        same = self._contents.holds(contents) | numpy.isin(contents, contents[~again])
        frame["repeat"] = frame["row"].where(again & same)
        frame["relabelled"] = frame["row"].where(again & same_text & ~same)
        frame["reworded"] = frame["row"].where(again & ~same_text)

    def _again(self, first: Part, ids: numpy.ndarray) -> numpy.ndarray:
        """Which ids were there before, or stand above.

        A corrected row may take the id of the row that it corrects.
        """
        before = (self._accepted if first.batch.readmits else self._everyone).holds(ids)
        here = self._here.holds(ids) & (first.start > 0)
        again: numpy.ndarray = pandas.Series(ids).duplicated().to_numpy() | before | here
        return again

    def _remembered(self, part: Part, kept: pyarrow.Table) -> dict[int, Reasons]:
        """What a piece says; its rows count for those after them."""
        found = dict(zip(kept["place"].to_pylist(), map(json.loads, kept["reasons"].to_pylist()), strict=True))
        if PAGE in found:
            self.done.append(Validated(**found.pop(PAGE)))
        ids, texts, contents = _hashes(part.frame)
        new = ~self._again(part, ids)
        self._texts.add(texts[new])
        self._contents.add(contents[new])
        self._everyone.add(ids)
        self._accepted.add(numpy.delete(ids, list(found)))
        if part.start == 0:
            self._here = Hashes()
        if part.batch.readmits:
            self._here.add(ids)
        return found


def _hashes(frame: pandas.DataFrame) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """Of each row: of its id; of that and its texts; of that and its label. One that was not read whole is another."""
    ids = _hash(frame["row"])
    texts = _hash(ids, frame["text"], frame["text_pair"], frame["problem"].isna())
    return ids, texts, _hash(texts, frame["label"])


def _hash(*columns: pandas.Series | numpy.ndarray) -> numpy.ndarray:
    plain = {place: pandas.Series(column).fillna("").to_numpy(object) for place, column in enumerate(columns)}
    hashes: numpy.ndarray = pandas.util.hash_pandas_object(
        pandas.DataFrame(plain, dtype="object"), index=False, categorize=False
    ).to_numpy()
    return hashes
