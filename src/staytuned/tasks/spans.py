"""Labels of token classification: a JSON list of [start, end, type], in characters, the end not included."""

import json
from itertools import pairwise
from typing import Any

Span = tuple[int, int, str]


def spans_of(label: Any) -> list[Span]:
    """The spans of a label, in the order of the text; none where there is no label."""
    return sorted((start, end, kind) for start, end, kind in json.loads(label)) if isinstance(label, str) else []


def as_lists(label: str) -> str:
    """A label out of a list of {start, end, type}, as predictions are written; any other as it was."""
    try:
        spans = json.loads(label)
        return json.dumps([[span[name] for name in ("start", "end", "type")] for span in spans], ensure_ascii=False)
    except (ValueError, RecursionError, TypeError, KeyError):  # the contract says what is wrong with it
        return label


def fault(text: str, label: str, types: list[str]) -> str | None:
    """Why a label cannot be used, as ``kind: what it holds``; None where it can."""
    try:
        spans = json.loads(label)
    except (ValueError, RecursionError):
        spans = None
    if not isinstance(spans, list) or not all(map(_is_span, spans)):
        return f"label is no JSON list of [start, end, type]: {label[:80]!r}"
    for start, end, kind in spans:
        for bad, why in (
            (kind not in types, f"type is none of {', '.join(types)}"),
            (start >= end, "span does not start before it ends"),
            (start < 0 or end > len(text), "span is outside of the text"),
            (text[start:end].strip() != text[start:end], "span starts or ends with a blank"),
        ):
            if bad:
                return f"{why}: {json.dumps([start, end, kind], ensure_ascii=False)}"
    spans = sorted(spans)
    for one, other in pairwise(spans):
        if one[1] > other[0]:
            return f"spans overlap or nest, but entities are flat: {json.dumps([one, other], ensure_ascii=False)}"
    return None


def _is_span(value: Any) -> bool:
    return isinstance(value, list) and list(map(type, value)) == [int, int, str]
