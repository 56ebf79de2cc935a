"""Figures of entities: counted by hand, and as the field's own library counts them."""

import json
from typing import Any

import numpy
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nervaluate import Evaluator

from staytuned.predictor import frame_of
from staytuned.tasks.token_classification import Entity, Options, TokenClassification

TYPES = ["product", "place", "year"]


def task_of() -> TokenClassification:
    return TokenClassification(Options(name="token-classification", types=TYPES, pieces="first"))


def frame(*rows: tuple[str, list[Any]]) -> pandas.DataFrame:
    return frame_of([text for text, _ in rows]).assign(label=[json.dumps(spans) for _, spans in rows])


def entities(text: str, spans: list[Any]) -> list[Entity]:
    return [Entity(start, end, kind, text[start:end], 0.9) for start, end, kind in spans]


def test_metrics_and_tables_counted_by_hand() -> None:
    task = task_of()
    texts = ["the lamp in old rome", "rome lamp 042", "042"]
    rows = frame(
        (texts[0], [[4, 8, "product"], [12, 20, "place"]]),
        (texts[1], [[0, 4, "place"], [5, 9, "product"]]),
        (texts[2], []),
    )
    said = [
        entities(texts[0], [[4, 8, "product"], [16, 20, "place"]]),  # one right, one too short
        entities(texts[1], [[0, 4, "product"], [5, 9, "product"]]),  # one of the wrong type, one right
        entities(texts[2], [[0, 3, "year"]]),
    ]
    assert task.score(rows, said) == pytest.approx(
        {"f1": 2 * 0.4 * 0.5 / 0.9, "precision": 2 / 5, "recall": 2 / 4, "macro_f1": (0.8 + 0) / 2}
    )
    assert task.details(rows, said) == {
        "per_class": {
            "product": {"precision": pytest.approx(2 / 3), "recall": 1, "f1": pytest.approx(0.8), "support": 2},
            "place": {"precision": 0, "recall": 0, "f1": 0, "support": 2},
            "year": {"precision": 0, "recall": 0, "f1": 0, "support": 0},
        },
        "confusion": {
            "labels": ["O", "product", "place", "year"],
            "counts": [[3, 0, 0, 1], [0, 2, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]],
            "of": "words",
        },
    }
    nothing: list[Any] = [[], [], []]
    assert task.score(rows, nothing) == {"f1": 0, "precision": 0, "recall": 0, "macro_f1": 0}
    assert task.score(rows[2:], [[]]) == {"f1": 0, "precision": 0, "recall": 0, "macro_f1": 0}


def test_metrics_of_many_sums_are_those_of_each() -> None:
    sums = numpy.random.default_rng(0).integers(0, 9, (4, 5, 3 * len(TYPES)))
    together = task_of().measure(sums)
    for place in numpy.ndindex(4, 5):
        assert {name: values[place] for name, values in together.items()} == task_of().measure(sums[place])


flat = st.lists(st.tuples(st.integers(0, 1), st.integers(1, 3), st.sampled_from(TYPES)), max_size=5)


def laid_out(parts: list[tuple[int, int, str]]) -> list[list[Any]]:
    """Spans that do not overlap, out of gaps, lengths and types."""
    spans, at = [], 0
    for gap, length, kind in parts:
        spans.append([at + gap, at + gap + length, kind])
        at += gap + length
    return spans


@settings(deadline=None)
@given(st.lists(st.tuples(flat, flat), min_size=1, max_size=6))
def test_figures_are_those_of_nervaluate(rows: list[Any]) -> None:
    """Strict mode: its ends are included, so that spans that touch do not overlap."""
    task, text = task_of(), "x" * 20
    true, said = ([laid_out(row[side]) for row in rows] for side in (0, 1))
    frame_ = frame(*((text, spans) for spans in true))
    predictions: list[Any] = [entities(text, spans) for spans in said]
    theirs = [
        [[{"label": kind, "start": start, "end": end - 1} for start, end, kind in spans] for spans in side]
        for side in (true, said)
    ]
    found = Evaluator(*theirs, tags=task.options.types, loader="dict").evaluate()
    overall, ours = found["overall"]["strict"], task.score(frame_, predictions)
    assert (ours["precision"], ours["recall"]) == (overall.precision, overall.recall)
    assert ours["f1"] == pytest.approx(overall.f1)
    table = task.details(frame_, predictions)["per_class"]
    for kind, results in found["entities"].items():
        strict = results["strict"]
        assert (table[kind]["precision"], table[kind]["recall"]) == (strict.precision, strict.recall)
        assert table[kind]["f1"] == pytest.approx(strict.f1)
    occurring = [results["strict"].f1 for results in found["entities"].values() if results["strict"].possible]
    assert ours["macro_f1"] == pytest.approx(numpy.mean(occurring) if occurring else 0)
