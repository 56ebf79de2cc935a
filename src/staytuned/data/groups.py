"""Groups of rows that must not part, near-duplicates among them, and the side each group is on."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy
import pandas
import xxhash
from datasketch import MinHash

from staytuned.data.sides import KEPT_OUT, side_of
from staytuned.sections import Split

SHINGLE = 5  # characters
PERMUTATIONS = 64
MISSED = 1e-4  # share of the pairs right at the threshold that the bands may miss; above it the share falls fast
PRIME = numpy.uint64(0x100000001B3)


class Signed(NamedTuple):
    """A text by which near-duplicates are found."""

    text: str  # normalised
    bands: Sequence[int]  # of the text


class Newcomer(NamedTuple):
    """A row that is to be placed."""

    row: str  # its id
    text: str  # normalised
    bands: Sequence[int]  # of the text
    group: str | None
    pair: Signed | None = None  # of a row on two texts: both, in an order of their own, so that a swap is the same pair


class Older(NamedTuple):
    """A row that has its place."""

    row: str
    text: str
    bands: Sequence[int]
    group: str
    side: str
    pair: Signed | None = None


@dataclass(frozen=True)
class Placed:
    """Where a row belongs."""

    group: str
    side: str
    near: str | None  # an older row that it nearly repeats


def place(rows: Iterable[Newcomer], older: Iterable[Older], split: Split) -> Iterator[Placed]:
    """Place rows, given in the order of their arrival.

    A row belongs to its group where it has one, else to the group of the older rows that it nearly repeats, else it
    starts one. A group's side is decided by the hash of its name, which for a group of near-duplicates is its first
    row's id; so no later row moves it. A row that nearly repeats rows of another side than its own is kept out.

    Args:
        rows: To be placed.
        older: Rows that were placed before, in their order: all that share a band with any of ``rows`` and were not
            kept out.
        split: The params.
    """
    index = NearDuplicates(split.near_duplicate)
    groups: list[tuple[str, str]] = []  # of the rows in the index

    def remember(row: Newcomer | Older, group: str, side: str) -> None:
        for text, bands in _signed(row):
            index.add(row.row, text, bands)
            groups.append((group, side))

    for one in older:
        remember(one, one.group, one.side)
    for new in rows:
        row, own = new.row, new.group
        near = sorted({place for text, bands in _signed(new) for place in index.find(text, bands)})
        same_as = [groups[i] for i in near]
        start = same_as[0] if near else (row, side_of(row, split))
        name, side = (own, side_of(own, split)) if own else start
        same = index.rows[near[0]] if near else None
        if any(other != side for _, other in same_as):
            yield Placed(name, KEPT_OUT, same)
            continue
        remember(new, name, side)
        yield Placed(name, side, same)


def _signed(row: Newcomer | Older) -> list[Signed]:
    """All by which a row nearly repeats another."""
    return [Signed(row.text, row.bands), *([row.pair] if row.pair else [])]


class NearDuplicates:
    """Rows by the similarity of their texts: those that share a band of their MinHash are candidates (Broder 1997;
    Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, ch. 3), each of which is then checked exactly.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.rows: list[str] = []
        self._texts: list[str] = []
        self._same: dict[str, int] = {}  # the first row of each text
        self._places: dict[int, list[int]] = defaultdict(list)  # by band

    def find(self, text: str, bands: Sequence[int]) -> list[int]:
        """Places of the older rows whose shingles are similar enough, oldest first."""
        candidates = {place for band in bands for place in self._places.get(band, ())}
        return sorted(place for place in candidates if self._similar(text, self._texts[place]))

    def add(self, row: str, text: str, bands: Sequence[int]) -> None:
        """Remember a row; a text that is there already needs no second entry."""
        place = len(self.rows)
        self.rows.append(row)
        self._texts.append(text)
        if self._same.setdefault(text, place) == place:
            for band in bands:
                self._places[band].append(place)

    def _similar(self, one: str, other: str) -> bool:
        if one == other:
            return True
        a, b = _shingles(one), _shingles(other)
        return len(a & b) >= self.threshold * len(a | b)


def bands_of(texts: Iterable[str], threshold: float) -> numpy.ndarray:
    """Hashes of the bands of each text's MinHash, shape (texts, bands): near-duplicates share at least one.

    Args:
        texts: Normalised.
        threshold: Jaccard similarity from which on two texts are near-duplicates.
    """
    blank = MinHash(num_perm=PERMUTATIONS, hashfunc=xxhash.xxh32_intdigest)
    values = numpy.array([_minhash(blank, text) for text in texts], numpy.uint64).reshape(-1, PERMUTATIONS)
    bands, rows = _bands(threshold)
    words = values[:, : bands * rows].reshape(-1, bands, rows)
    found = numpy.tile(numpy.arange(bands, dtype=numpy.uint64), (len(words), 1))
    for place in range(rows):  # FNV-1a
        found = (found * PRIME) ^ words[:, :, place]
    return found * PRIME


def _minhash(blank: MinHash, text: str) -> numpy.ndarray:
    minhash = blank.copy()
    minhash.update_batch([shingle.encode() for shingle in sorted(_shingles(text))])
    values: numpy.ndarray = minhash.hashvalues
    return values


def _bands(threshold: float) -> tuple[int, int]:
    """Bands, and rows a band: as many rows as ``MISSED`` allows, since more rows mean fewer candidates to check."""
    sizes = [(PERMUTATIONS // rows, rows) for rows in range(1, PERMUTATIONS // 2 + 1)]
    fitting = [(bands, rows) for bands, rows in sizes if (1 - threshold**rows) ** bands <= MISSED]
    return fitting[-1] if fitting else sizes[0]


def _shingles(text: str) -> set[str]:
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}


def texts_on_two_sides(texts: Sequence[int] | numpy.ndarray, sides: Sequence[str] | numpy.ndarray) -> int:
    """Leakage: how many texts stand on more than one side.

    Args:
        texts: A hash of each row's normalised text.
        sides: Of the rows; those that were kept out do not count.
    """
    pairs = pandas.DataFrame({"text": texts, "side": sides}).drop_duplicates()
    return int(pairs.loc[pairs["side"] != KEPT_OUT, "text"].value_counts().gt(1).sum())
