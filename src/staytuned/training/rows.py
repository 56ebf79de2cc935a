"""Encoded rows in memory-mapped Arrow files, and the order in which training takes them."""

from pathlib import Path

import numpy
from datasets import Dataset

from staytuned.classifier import batches_by_length

EVALUATION_TOKENS = 4096
WINDOW = 16  # batches that are shuffled together before they are sorted by length


class Rows:
    """The rows of one side.

    ``names``: row ids. ``labels``: class numbers. ``lengths``: tokens of each row. Each of shape (rows,).
    """

    def __init__(self, path: Path, classes: int) -> None:
        table = Dataset.from_file(str(path)).with_format("arrow")[:]
        column = table["input_ids"].combine_chunks()
        self._tokens = column.values.to_numpy(zero_copy_only=True)
        self._offsets = column.offsets.to_numpy(zero_copy_only=True)
        self.lengths = numpy.diff(self._offsets)
        self.names: list[str] = table["row"].to_pylist()
        self.labels = table["label"].to_numpy().astype(numpy.int64)
        self.classes = classes

    def __len__(self) -> int:
        return len(self.labels)

    def ids(self, place: int) -> numpy.ndarray:
        """Token ids of one row."""
        ids: numpy.ndarray = self._tokens[self._offsets[place] : self._offsets[place + 1]]
        return ids

    def batches_by_length(self) -> list[list[int]]:
        """All rows, those of like length together, for work whose order does not matter."""
        return batches_by_length(self.lengths.tolist(), EVALUATION_TOKENS)


def shuffled_batches(lengths: numpy.ndarray, size: int, seed: list[int]) -> list[list[int]]:
    """All rows once, in random batches of ``size`` with little padding.

    Rows are shuffled, sorted by length within windows of ``WINDOW`` batches, cut, and the batches shuffled.
    """
    random = numpy.random.default_rng(seed)
    order = random.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), size * WINDOW):
        window = order[start : start + size * WINDOW]
        window = window[numpy.argsort(lengths[window], kind="stable")]
        batches += [window[i : i + size].tolist() for i in range(0, len(window), size)]
    return [batches[place] for place in random.permutation(len(batches))]
