"""CoNLL columns: a token and its tag on a line, sentences parted by blank lines."""

import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

import regex  # type: ignore[import-untyped]

from staytuned.data.readers import Found

NO_BLANKS = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"  # scripts that part no words
TOGETHER = regex.compile(f"{NO_BLANKS} {NO_BLANKS}")  # a seam of tokens at which no text of theirs has a blank
TAG = re.compile(r"O|[BI]-.+")


def sentences(lines: Iterator[str]) -> Iterator[Found]:
    """A row for each sentence: its tokens, joined as they are written, and the spans that its IOB2 tags say.

    A line has a token in its first column and its tag in the last, with tabs or blanks between; ``-DOCSTART-`` ends a
    sentence as a blank line does (Tjong Kim Sang & De Meulder 2003, section 2.1).
    """
    text, spans, problems, last, before, columns = "", list[list[Any]](), list[str](), 0, "O", 0
    for number, line in enumerate(chain(lines, [""]), 1):
        fields = re.split(r"[ \t]+", line.strip())
        token = fields[0]
        if token in ("", "-DOCSTART-"):
            if text:
                yield last, {"text": text, "label": spans}, "; ".join(problems) or None
            text, spans, problems, before = "", [], [], "O"
            continue
        problem = _problem(fields, columns, before)
        columns = columns or (0 if problem else len(fields))  # as the first good line has them
        if problem:
            problems.append(f"line {number} has {problem}")
        tag = fields[-1] if TAG.fullmatch(fields[-1]) else "O"
        seam = "" if not text or TOGETHER.fullmatch(f"{text[-1]} {token[0]}") else " "
        text += seam + token
        if _continues(tag, before):
            spans[-1][1] = len(text)
        elif tag != "O":
            spans.append([len(text) - len(token), len(text), tag[2:]])
        before, last = tag, number


def _problem(fields: list[str], columns: int, before: str) -> str | None:
    tag = fields[-1]
    if len(fields) < 2 or columns not in (0, len(fields)):
        return f"{len(fields)} column(s), not {columns or 'two or more'}"
    if not TAG.fullmatch(tag):
        return f"the tag {tag!r}, which is not O, B-type or I-type"
    if tag[0] == "I" and not _continues(tag, before):
        return f"{tag} without its B-{tag[2:]}; tags must be IOB2"
    return None


def _continues(tag: str, before: str) -> bool:
    return tag[0] == "I" and before[2:] == tag[2:]
