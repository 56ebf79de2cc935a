"""Words of a text as characters and as pieces of a tokenizer, and windows over many pieces."""

from typing import TYPE_CHECKING, NamedTuple

import numpy
import regex  # type: ignore[import-untyped]

from staytuned.data.conll import NO_BLANKS

if TYPE_CHECKING:
    from tokenizers import Encoding

# As a reader sees it, with its accents, an emoji as a whole: a grapheme cluster (UAX 29, section 3), if it is visible.
CHARACTER = r"(?![\s\p{Cc}\p{Cf}])\X"
WORD = rf"(?:(?=[\p{{L}}\p{{N}}])(?!{NO_BLANKS})\X)+|{CHARACTER}"


class Words(NamedTuple):
    """Words in their order: where each starts and ends in characters, and the place of its first piece."""

    starts: numpy.ndarray
    ends: numpy.ndarray
    at: numpy.ndarray


def words_of(text: str, pieces: list[tuple[int, int]] | None = None, unit: str = WORD) -> Words:
    """The words of a text, as far as pieces part them.

    A word is a run of letters and digits, or one other character, or one character of a script that is written
    without blanks. Those that share a piece count as one, those without any are left out. What a tokenizer drops, such
    as an accent at the end, still belongs to its word.

    Args:
        text: Any.
        pieces: Start and end of each in characters, as tokenizers give them; None: the words themselves.
        unit: ``WORD``; or ``CHARACTER``, for pieces to be words of their own, but for pieces of one character.
    """
    spans = numpy.array([match.span() for match in regex.finditer(unit, text)], int).reshape(-1, 2)
    offsets = spans if pieces is None else numpy.array(pieces, int).reshape(-1, 2)
    first = spans[:, 1].searchsorted(offsets[:, 0], "right")  # that a piece touches
    after = spans[:, 0].searchsorted(offsets[:, 1], "left")  # the next after the last that it touches
    touching = numpy.flatnonzero(first < after)  # others are blanks, or nothing
    first, after = first[touching], after[touching]
    begins = numpy.flatnonzero(first >= numpy.append(0, after)[: len(first)])
    lasts = after[numpy.append(begins, len(first))[1:] - 1] - 1
    return Words(spans[first[begins], 0], spans[lasts, 1], touching[begins])


def own_pieces(encoding: "Encoding") -> slice:
    """Where a text's own pieces are, between the tokens that the tokenizer puts around it."""
    special = encoding.special_tokens_mask
    if 0 not in special:
        return slice(len(special), len(special))
    return slice(special.index(0), len(special) - special[::-1].index(0))


def windows(pieces: int, size: int) -> list[tuple[int, int, int, int]]:
    """Windows over a row of pieces: start and end of each, and of those pieces that are its own.

    Neighbours share a quarter of their size. A piece is the own of the window in which it stands farthest from an edge
    (of equals the first), so that each is the own of one.
    """
    shared = size // 4
    starts = range(0, max(1, pieces - shared), size - shared)
    own = [0, *(start + (shared + 1) // 2 for start in starts[1:]), pieces]
    return [(start, min(start + size, pieces), own[i], own[i + 1]) for i, start in enumerate(starts)]
