"""What SQuAD has set for extractive question answering: its files, the form of an answer, its score."""

import hashlib
import json
import re
import string
from collections import Counter
from collections.abc import Iterator
from typing import Any

from staytuned.data.readers import Found
from staytuned.errors import DataError

SHAPE = "{data: [{title, paragraphs: [{context, qas: [{id, question, answers: [{text, answer_start}]}]}]}]}"
ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)
SHOWN = 60  # characters of a text in a reason


def read_squad(lines: Iterator[str]) -> Iterator[Found]:
    """Questions of a file in SQuAD's JSON, of version 1.1 or 2.0; for a line each has its number, from 1.

    Its documents are the groups, by title or, where they have none, by content.

    Raises:
        DataError: the file is something else.
    """
    number = 0
    try:
        for document in json.loads("".join(lines))["data"]:
            content = json.dumps([paragraph["context"] for paragraph in document["paragraphs"]])
            group = document.get("title") or hashlib.blake2b(content.encode(), digest_size=10).hexdigest()
            for paragraph in document["paragraphs"]:
                for asked in paragraph["qas"]:
                    number += 1
                    label = [] if asked.get("is_impossible") else asked.get("answers")
                    row = {"text": asked["question"], "text_pair": paragraph["context"], "label": label, "group": group}
                    yield number, row | ({"id": asked["id"]} if "id" in asked else {}), None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"this is not SQuAD's JSON, {SHAPE}: after question {number} comes {error!r}; is the file cut short?"
        ) from None


def answers_in(label: Any) -> list[tuple[str, int]] | None:
    """The answers in a label, each a text and the character where it starts; None where it is no list of them.

    Each is {text, start} or {text, answer_start}; or all are {text: [...], answer_start: [...]}, as the library
    ``datasets`` keeps SQuAD.
    """
    try:
        value = json.loads(label)
        if isinstance(value, dict):
            answers = list(zip(value["text"], value["answer_start"], strict=True))
        elif isinstance(value, list):
            answers = [(one["text"], one["start"] if "start" in one else one["answer_start"]) for one in value]
        else:
            return None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    good = all(isinstance(text, str) and text.strip() and type(start) is int and start >= 0 for text, start in answers)
    return answers if good else None


def trimmed(label: Any, context: Any) -> Any:
    """A label as a list of {text, start}, without the white space around answers; what is no such list as it was."""
    answers = answers_in(label)
    if answers is None or not isinstance(context, str):
        return label
    kept = []
    for text, start in answers:
        while start < len(context) and context[start].isspace():
            start += 1
        kept.append({"text": text.strip(), "start": start})
    return json.dumps(kept, ensure_ascii=False)


def fault(label: Any, context: Any, unanswerable: bool) -> str | None:
    """Why a label cannot be used, as ``kind: what it holds``; None where it can, or where either is missing.

    ``unanswerable``: a question may have no answer.
    """
    if not isinstance(label, str) or not isinstance(context, str):
        return None
    answers = answers_in(label)
    if answers is None:
        return f"label is no list of answers {{text, start}}: {label[:SHOWN]!r}"
    if not answers and not unanswerable:
        return "there is no answer, and task.unanswerable is false"
    for text, start in answers:
        if not context.startswith(text, start):
            there = context[start : start + len(text)]
            return f"answer is not in its context: {text[:SHOWN]!r} at {start}, where {there[:SHOWN]!r} stands"
    return None


def normalised(text: str) -> str:
    """Lower case, no ASCII punctuation, no English articles, single spaces: what is compared."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def scores(predicted: str, true: list[str]) -> tuple[float, float]:
    """F1 of the words in common, and exact match, with the best of the true answers.

    Rajpurkar et al. 2016, section 6.1; where there is no answer, 1 for none and 0 for any (Rajpurkar et al. 2018), as
    in the script evaluate-v2.0.py. Words are what white space parts, so that in Chinese a whole answer is one.
    """
    said = normalised(predicted)
    wanted = [text for text in map(normalised, true) if text] or [""]
    return max(_f1(said.split(), text.split()) for text in wanted), float(said in wanted)


def _f1(one: list[str], other: list[str]) -> float:
    if not one or not other:
        return float(one == other)
    return 2 * (Counter(one) & Counter(other)).total() / (len(one) + len(other))
