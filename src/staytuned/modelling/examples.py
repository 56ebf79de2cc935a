"""Encoded examples: what the model reads, several for a row where its text is cut into windows."""

import copy
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy
import pyarrow

BATCH_TOKENS = 4096  # examples of like length are scored together, up to this many tokens
NOTHING = -100  # the label of a token that nothing is learned from


class Examples:
    """Columns of encoded examples, memory-mapped where they come from a file.

    ``names``: the row that each example is of. ``lengths``: tokens of each. ``by_row``: the places of the examples of
    each row, rows and examples in their order.
    """

    def __init__(self, table: pyarrow.Table) -> None:
        self._columns = {name: table[name].combine_chunks() for name in table.column_names}
        self.names: list[str] = self._columns["row"].to_pylist()
        self.lengths = numpy.diff(self._columns["input_ids"].offsets.to_numpy())
        self.by_row: list[list[int]] = []
        for place, name in enumerate(self.names):
            if place and name == self.names[place - 1]:
                self.by_row[-1].append(place)
            else:
                self.by_row.append([place])

    @classmethod
    def read(cls, path: Path) -> "Examples":
        """The examples of one side, as the encode stage wrote them."""
        with pyarrow.memory_map(str(path)) as source:
            return cls(pyarrow.ipc.open_stream(source).read_all())

    def __len__(self) -> int:
        return len(self.names)

    def of_rows(self, rows: Sequence[int]) -> "Examples":
        """The examples of some rows, given by their places in ``by_row``."""
        places = [place for row in rows for place in self.by_row[row]]
        return Examples(pyarrow.table(self._columns).take(places))

    def column(self, name: str) -> numpy.ndarray:
        """A column with one value an example, shape (examples,)."""
        values: numpy.ndarray = self._columns[name].to_numpy(zero_copy_only=False)
        return values

    def lists(self, name: str, places: Sequence[int]) -> list[numpy.ndarray]:
        """A column with a list an example: the lists of some examples."""
        column = self._columns[name]
        offsets, values = column.offsets.to_numpy(), column.values.to_numpy()
        return [values[offsets[place] : offsets[place + 1]] for place in places]

    def under(self, name: str) -> "Examples":
        """The same examples, with the columns ``name.column`` as ``column``."""
        view = copy.copy(self)
        view._columns = {column.removeprefix(f"{name}."): values for column, values in self._columns.items()}
        return view

    def batches_by_length(self, tokens: int = BATCH_TOKENS) -> list[list[int]]:
        """All places, longest first, in batches whose padded size is at most ``tokens`` (or one example).

        For work whose order does not matter.
        """
        return batches_by_length(self.lengths.tolist(), tokens)


def batches_by_length(lengths: Sequence[int], tokens: int = BATCH_TOKENS) -> list[list[int]]:
    """Places of things of these lengths, longest first, in batches as above."""
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= tokens:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches


def list_array(lists: Sequence[Sequence[int] | numpy.ndarray]) -> pyarrow.Array:
    """Lists of whole numbers as one Arrow array, by way of one flat array: much faster than Arrow's own."""
    lengths = numpy.fromiter(map(len, lists), numpy.int32, len(lists))
    offsets = numpy.concatenate([[0], lengths.cumsum()]).astype(numpy.int32)
    flat = numpy.fromiter(itertools.chain.from_iterable(lists), numpy.int32, int(offsets[-1]))
    return pyarrow.ListArray.from_arrays(pyarrow.array(offsets), pyarrow.array(flat))
