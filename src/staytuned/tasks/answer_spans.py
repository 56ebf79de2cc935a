"""Answers as characters of a context and as tokens of its windows."""

import unicodedata
from typing import TYPE_CHECKING

import numpy

if TYPE_CHECKING:
    from tokenizers import Encoding


def offsets_of(window: "Encoding") -> numpy.ndarray:
    """Where each token of the context stands, shape (tokens, 2); 0 for the others."""
    of_context = [part == 1 for part in window.sequence_ids]
    found: numpy.ndarray = numpy.array(window.offsets, numpy.int32) * numpy.array(of_context)[:, None]
    return found


def first_and_last(context: str, offsets: numpy.ndarray, answers: list[tuple[int, int]]) -> tuple[int, int]:
    """First and last token of the first answer that a window holds whole; (0, 0) where it holds none."""
    tokens = numpy.flatnonzero(offsets[:, 1])
    starts, ends = offsets[tokens].T
    for start, end in answers:
        first, last = int(numpy.searchsorted(ends, start, "right")), int(numpy.searchsorted(starts, end, "left")) - 1
        if first <= last:
            begin, finish = whole(context, int(starts[first]), int(ends[last]))
            if begin <= start and end <= finish:
                return int(tokens[first]), int(tokens[last])
    return 0, 0


def whole(context: str, start: int, end: int) -> tuple[int, int]:
    """A span without white space around it, and with the marks on its letters, which some tokenizers leave out."""
    text = context[start:end]
    start += len(text) - len(text.lstrip())
    end = start + len(text.strip())
    while 0 < start < end and _is_mark(context[start]):
        start -= 1
    while 0 < end < len(context) and _is_mark(context[end]):
        end += 1
    return start, end


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")


def lengths_allowed(tokens: int, most: int) -> numpy.ndarray:
    """Which (first, last) are spans of 1 to ``most`` tokens, shape (tokens, tokens)."""
    length = numpy.arange(tokens) - numpy.arange(tokens)[:, None]
    return (length >= 0) & (length < most)
