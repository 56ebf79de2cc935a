"""What training aims at, when labels are made of ratings."""

from pathlib import Path

import numpy
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from staytuned.params import Params
from staytuned.tasks.text_classification import TextClassification

PARAMS = Params.read(Path(__file__).parents[1] / "params.yaml")
ratings = st.lists(st.floats(-4, 4), min_size=1, max_size=30)


def task(spread: float) -> TextClassification:
    rule = PARAMS.task.label_from_rating
    assert rule is not None
    changed = PARAMS.task.model_copy(update={"label_from_rating": rule.model_copy(update={"spread": spread})})
    return TextClassification(PARAMS.model_copy(update={"task": changed}))


def labels_of(found: TextClassification, values: list[float]) -> numpy.ndarray:
    names = found.labels(pandas.DataFrame({"rating": [str(value) for value in values]}))
    return numpy.array([PARAMS.task.labels.index(name) for name in names], dtype=int)


@given(values=ratings, spread=st.floats(0.05, 1))
def test_targets_are_probabilities(values: list[float], spread: float) -> None:
    found = task(spread).targets(labels_of(task(spread), values), numpy.array(values))
    assert found.shape == (len(values), 3)
    assert numpy.allclose(found.sum(axis=1), 1, atol=1e-6) and (found >= -1e-6).all()


@given(values=ratings)
def test_without_spread_a_row_teaches_its_label_alone(values: list[float]) -> None:
    labels = labels_of(task(0.0), values)
    assert (task(0.0).targets(labels, numpy.array(values)) == numpy.eye(3)[labels]).all()


@given(values=ratings)
def test_a_small_spread_changes_only_rows_near_a_bound(values: list[float]) -> None:
    far = [value for value in values if abs(abs(value) - 0.5) > 0.3]
    labels = labels_of(task(0.05), far)
    assert numpy.allclose(task(0.05).targets(labels, numpy.array(far)), numpy.eye(3)[labels], atol=1e-6)


@pytest.mark.parametrize(
    ("rating", "label"), [(-0.5, "neutral"), (-0.51, "negative"), (0.5, "neutral"), (0.51, "positive")]
)
def test_a_rating_on_a_bound_is_neutral(rating: float, label: str) -> None:
    assert PARAMS.task.labels[labels_of(task(0.4), [rating])[0]] == label


def test_a_row_on_a_bound_teaches_both_labels_alike() -> None:
    negative, neutral, positive = task(0.2).targets(numpy.array([1]), numpy.array([-0.5]))[0]
    assert negative == pytest.approx(0.5) and neutral == pytest.approx(0.5, abs=1e-3) and positive < 1e-3
