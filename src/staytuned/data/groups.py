"""Groups of rows that must not part, near-duplicates among them, and the side each group is on."""

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import xxhash
from datasketch import MinHash, MinHashLSH

from staytuned.data.sides import KEPT_OUT, side_of
from staytuned.sections import Split

SHINGLE = 5  # characters
PERMUTATIONS = 64
MISSED = 1e-4  # share of the pairs right at the threshold that the index may miss; above it the share falls fast


@dataclass(frozen=True)
class Placed:
    """Where a row belongs."""

    group: str
    side: str
    near: str | None  # an older row that it nearly repeats


def place(rows: Iterable[tuple[str, str, str | None]], split: Split) -> Iterator[Placed]:
    """Place rows, given in the order of their arrival as (id, text, group or None).

    A row belongs to its group where it has one, else to the group of the older rows that it nearly repeats, else it
    starts one. A group's side is decided by the hash of its name, which for a group of near-duplicates is its first
    row's id; so no later row moves it. A row that nearly repeats rows of another side than its own is kept out.
    """
    index = NearDuplicates(split.near_duplicate)
    groups: list[tuple[str, str]] = []  # of the rows in the index
    for row, text, group in rows:
        near = index.find(text)
        older = [groups[i] for i in near]
        name, side = (group, side_of(group, split)) if group else (older[0] if older else (row, side_of(row, split)))
        same = index.rows[near[0]] if near else None
        if any(other != side for _, other in older):
            yield Placed(name, KEPT_OUT, same)
            continue
        index.add(row, text)
        groups.append((name, side))
        yield Placed(name, side, same)


def normalised(text: str) -> str:
    """Text without case, spacing, punctuation and compatibility forms; letters, marks, digits and emoji stay."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(c for c in folded if unicodedata.category(c)[0] in "LMNS" or c == "\N{ZERO WIDTH JOINER}")
    return kept or folded


class NearDuplicates:
    """Rows by the similarity of their texts: MinHash and locality-sensitive hashing (Broder 1997; Leskovec,
    Rajaraman & Ullman, Mining of Massive Datasets, ch. 3), each candidate then checked exactly.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.rows: list[str] = []
        self._texts: list[str] = []
        self._same: dict[str, int] = {}  # the first row of each normalised text
        self._lsh = MinHashLSH(num_perm=PERMUTATIONS, params=_bands(threshold))
        self._blank = MinHash(num_perm=PERMUTATIONS, hashfunc=xxhash.xxh32_intdigest)

    def find(self, text: str) -> list[int]:
        """Places of the older rows whose shingles are similar enough, oldest first."""
        text = normalised(text)
        candidates = self._lsh.query(self._minhash(text))
        return sorted(place for place in candidates if self._similar(text, self._texts[place]))

    def add(self, row: str, text: str) -> None:
        """Remember a row; a text that is there already needs no second entry."""
        text = normalised(text)
        place = len(self.rows)
        self.rows.append(row)
        self._texts.append(text)
        if self._same.setdefault(text, place) == place:
            self._lsh.insert(place, self._minhash(text))

    def _minhash(self, text: str) -> MinHash:
        minhash = self._blank.copy()
        minhash.update_batch([shingle.encode() for shingle in sorted(_shingles(text))])
        return minhash

    def _similar(self, one: str, other: str) -> bool:
        if one == other:
            return True
        a, b = _shingles(one), _shingles(other)
        return len(a & b) >= self.threshold * len(a | b)


def _bands(threshold: float) -> tuple[int, int]:
    """Bands, and rows a band: as many rows as ``MISSED`` allows, since more rows mean fewer candidates to check.

    The library's own choice weighs a miss like a needless check, and at 0.9 misses two pairs of three.
    """
    sizes = [(PERMUTATIONS // rows, rows) for rows in range(1, PERMUTATIONS // 2 + 1)]
    fitting = [(bands, rows) for bands, rows in sizes if (1 - threshold**rows) ** bands <= MISSED]
    return fitting[-1] if fitting else sizes[0]


def _shingles(text: str) -> set[str]:
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}


def shared_texts(texts: Iterable[tuple[str, str]]) -> int:
    """Leakage: how many normalised texts stand on more than one side, given (text, side) pairs."""
    side_of_text: dict[bytes, str] = {}
    leaked: set[bytes] = set()
    for text, side in texts:
        key = hashlib.blake2b(normalised(text).encode(), digest_size=16).digest()
        if side_of_text.setdefault(key, side) != side:
            leaked.add(key)
    return len(leaked)
