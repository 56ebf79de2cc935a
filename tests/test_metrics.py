"""Metrics as scikit-learn computes them; intervals by drawing whole groups, the same for all models."""

from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from staytuned import tasks
from staytuned.params import Params
from staytuned.stages.evaluate import compare
from staytuned.tasks.intervals import draw, interval, score
from staytuned.tasks.text_classification import calibration_error, softmax

PARAMS = Params.read(Path(__file__).parents[1] / "params.yaml")
CLASSES = len(PARAMS.task.labels)

classes = st.integers(0, CLASSES - 1)
Answers = list[tuple[int, int, str]]  # truth, prediction, group
answers = st.lists(st.tuples(classes, classes, st.sampled_from("abcdef")), min_size=1, max_size=40)


def columns(rows: Answers) -> tuple[numpy.ndarray, numpy.ndarray, list[str]]:
    truth, predicted, groups = zip(*rows, strict=True)
    return numpy.array(truth), numpy.array(predicted), list(groups)


def logits_for(predicted: numpy.ndarray) -> numpy.ndarray:
    """Logits whose largest is the prediction."""
    return numpy.eye(CLASSES)[predicted] * 2.0


def macro_f1(truth: numpy.ndarray, predicted: numpy.ndarray) -> float:
    """Mean F1 of the classes that occur."""
    return float(f1_score(truth, predicted, labels=numpy.unique(truth), average="macro", zero_division=0))


@settings(max_examples=60, deadline=None)
@given(answers)
def test_metrics_are_those_of_scikit_learn(rows: Answers) -> None:
    truth, predicted, _ = columns(rows)
    found = tasks.load(PARAMS).metrics(truth, logits_for(predicted))
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert found["macro_f1"] == pytest.approx(macro_f1(truth, predicted))
    assert found["confusion"] == confusion_matrix(truth, predicted, labels=range(CLASSES)).tolist()
    expected = precision_recall_fscore_support(truth, predicted, labels=range(CLASSES), zero_division=0)
    assert list(found["per_class"]) == PARAMS.task.labels
    for metric, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert [row[metric] for row in found["per_class"].values()] == pytest.approx(list(values))


def logits_of(*probabilities: list[float]) -> numpy.ndarray:
    return numpy.log(numpy.array(probabilities))


@pytest.mark.parametrize(
    ("truth", "probabilities", "expected"),
    [
        ([0, 1], [[1 - 2e-9, 1e-9, 1e-9], [1e-9, 1 - 2e-9, 1e-9]], 0.0),  # sure and right
        ([1, 0], [[1 - 2e-9, 1e-9, 1e-9], [1e-9, 1 - 2e-9, 1e-9]], 1.0),  # sure and wrong
        ([0, 1], [[0.75, 0.15, 0.1], [0.75, 0.15, 0.1]], 0.25),  # three quarters sure, right half the time
        ([0, 0, 1, 2], [[0.5, 0.3, 0.2]] * 4, 0.0),  # half sure, right half the time
        ([0, 1], [[0.9, 0.05, 0.05], [0.6, 0.3, 0.1]], (0.1 + 0.6) / 2),  # two bins do not make up for each other
    ],
)
def test_calibration_error_is_the_distance_of_confidence_from_accuracy(
    truth: list[int], probabilities: list[list[float]], expected: float
) -> None:
    assert calibration_error(numpy.array(truth), logits_of(*probabilities)) == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3), min_size=1, max_size=5))
def test_probabilities_sum_to_one_whatever_the_logits(logits: list[list[float]]) -> None:
    found = softmax(numpy.array(logits))
    assert numpy.isfinite(found).all()
    assert found.sum(axis=1) == pytest.approx(1)


@settings(max_examples=20, deadline=None)
@given(answers, st.integers(0, 2**32 - 1))
def test_draws_are_those_of_a_plain_loop_over_groups(rows: Answers, seed: int) -> None:
    truth, predicted, groups = columns(rows)
    names = sorted(set(groups))
    drawn = draw(groups, 10, seed)
    assert drawn.shape == (10, len(names))
    found = score(truth, predicted, groups, drawn, CLASSES)
    for number, counts in enumerate(drawn):
        assert counts.sum() == len(names)
        places = [
            place
            for name, count in zip(names, counts, strict=True)
            for _ in range(count)
            for place in range(len(groups))
            if groups[place] == name
        ]
        assert found.accuracy[number] == pytest.approx(accuracy_score(truth[places], predicted[places]))
        assert found.macro_f1[number] == pytest.approx(macro_f1(truth[places], predicted[places]))


@settings(max_examples=40, deadline=None)
@given(answers, st.integers(2, 4))
def test_rows_repeated_within_their_group_make_no_interval_narrower(rows: Answers, times: int) -> None:
    truth, predicted, groups = columns(rows)
    once = score(truth, predicted, groups, draw(groups, 20, 7), CLASSES)
    truth, predicted, groups = columns(rows * times)
    again = score(truth, predicted, groups, draw(groups, 20, 7), CLASSES)
    assert again.accuracy == pytest.approx(once.accuracy)
    assert again.macro_f1 == pytest.approx(once.macro_f1)


@given(st.floats(0, 1), st.integers(1, 50), st.floats(0.51, 0.99))
def test_the_interval_of_a_constant_is_that_constant(value: float, draws: int, confidence: float) -> None:
    assert interval(numpy.full(draws, value), confidence) == pytest.approx([value, value], rel=1e-15)


def test_an_interval_leaves_half_of_the_rest_on_each_side() -> None:
    assert interval(numpy.arange(1001.0), 0.9) == pytest.approx([50, 950])


@settings(max_examples=20, deadline=None)
@given(answers)
def test_a_model_differs_from_itself_by_exactly_nothing(rows: Answers) -> None:
    truth, predicted, groups = columns(rows)
    logits = logits_for(predicted)
    report = compare({"candidate": logits, "champion": logits}, truth, groups, ["shop"] * len(truth), PARAMS)
    nothing = {"difference": 0.0, "interval": [0.0, 0.0]}
    assert report["comparisons"] == {"champion": {"accuracy": nothing, "macro_f1": nothing}}


def test_a_model_that_is_better_in_every_group_is_better_in_every_draw() -> None:
    truth = numpy.tile([0, 1, 2], 20)
    groups = [str(number // 3) for number in range(60)]
    worse = numpy.where(numpy.arange(60) % 3 == 0, 1, truth)  # wrong once in each group
    logits = {"candidate": logits_for(truth), "base": logits_for(worse)}
    report = compare(logits, truth, groups, ["shop"] * 60, PARAMS)
    found = report["comparisons"]["base"]["accuracy"]
    assert found["difference"] == pytest.approx(1 / 3)
    assert found["interval"] == pytest.approx([1 / 3, 1 / 3])
    assert report["models"]["candidate"]["intervals"]["accuracy"] == [1, 1]
    assert report["test"] == {"rows": 60, "groups": 20, "confidence": PARAMS.evaluate.confidence}


def test_each_source_has_its_slice() -> None:
    truth, predicted = numpy.array([0, 1, 2, 0]), numpy.array([0, 1, 0, 1])
    report = compare({"candidate": logits_for(predicted)}, truth, list("abcd"), ["web", "web", "shop", "shop"], PARAMS)
    assert report["models"]["candidate"]["slices"] == {
        "shop": {"rows": 2, "accuracy": 0.0, "macro_f1": 0.0},
        "web": {"rows": 2, "accuracy": 1.0, "macro_f1": 1.0},
    }
