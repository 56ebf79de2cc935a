"""Metrics as scikit-learn computes them; intervals by drawing whole groups, the same for all models."""

from collections.abc import Sequence
from pathlib import Path

import numpy
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from staytuned import tasks
from staytuned.modelling.class_metrics import per_class
from staytuned.modelling.intervals import draw, interval, resampled
from staytuned.params import Params
from staytuned.stages.evaluate import ENOUGH, compare
from staytuned.stages.evaluate_pages import most_mistaken, write_pages
from staytuned.tasks.text_classification import softmax
from staytuned.workspace import Workspace

PARAMS = Params.read(Path(__file__).parents[1] / "params.yaml")
TASK = tasks.load(PARAMS)
CLASSES = len(TASK.classes)

classes = st.integers(0, CLASSES - 1)
Answers = list[tuple[int, int, str]]  # truth, prediction, group
answers = st.lists(st.tuples(classes, classes, st.sampled_from("abcdef")), min_size=1, max_size=40)


def columns(rows: Answers) -> tuple[numpy.ndarray, numpy.ndarray, list[str]]:
    truth, predicted, groups = zip(*rows, strict=True)
    return numpy.array(truth), numpy.array(predicted), list(groups)


def frame_of(truth: numpy.ndarray, groups: Sequence[str] = "g", sources: Sequence[str] = "shop") -> pandas.DataFrame:
    """Rows with these labels."""
    names = [TASK.classes[number] for number in truth]
    return pandas.DataFrame({"label": names, "group": groups, "source": sources, "batch": sources})


def sure_of(predicted: numpy.ndarray) -> list[numpy.ndarray]:
    """Probabilities whose largest is the prediction."""
    return list(softmax(numpy.eye(CLASSES)[predicted] * 2.0))


def drawn_metrics(rows: Answers, draws: int, seed: int) -> dict[str, numpy.ndarray]:
    truth, predicted, groups = columns(rows)
    statistics = TASK.statistics(frame_of(truth), sure_of(predicted))
    return TASK.measure(resampled(statistics, groups, draw(groups, draws, seed)))


def macro_f1(truth: numpy.ndarray, predicted: numpy.ndarray) -> float:
    """Mean F1 of the classes that occur."""
    return float(f1_score(truth, predicted, labels=numpy.unique(truth), average="macro", zero_division=0))


@settings(max_examples=60, deadline=None)
@given(answers)
def test_metrics_are_those_of_scikit_learn(rows: Answers) -> None:
    truth, predicted, _ = columns(rows)
    found, details = (judge(frame_of(truth), sure_of(predicted)) for judge in (TASK.score, TASK.details))
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert found["macro_f1"] == pytest.approx(macro_f1(truth, predicted))
    counts = confusion_matrix(truth, predicted, labels=range(CLASSES)).tolist()
    assert details["confusion"] == {"labels": TASK.classes, "counts": counts, "of": "rows"}
    expected = precision_recall_fscore_support(truth, predicted, labels=range(CLASSES), zero_division=0)
    assert list(details["per_class"]) == TASK.classes
    for metric, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert [row[metric] for row in details["per_class"].values()] == pytest.approx(list(values))


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
    found = TASK.score(frame_of(numpy.array(truth)), [numpy.array(row) for row in probabilities])
    assert found["calibration_error"] == pytest.approx(expected, abs=1e-6)


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
    found = drawn_metrics(rows, 10, seed)
    for number, counts in enumerate(drawn):
        assert counts.sum() == len(names)
        places = [
            place
            for name, count in zip(names, counts, strict=True)
            for _ in range(count)
            for place in range(len(groups))
            if groups[place] == name
        ]
        assert found["accuracy"][number] == pytest.approx(accuracy_score(truth[places], predicted[places]))
        assert found["macro_f1"][number] == pytest.approx(macro_f1(truth[places], predicted[places]))


@settings(max_examples=40, deadline=None)
@given(answers, st.integers(2, 4))
def test_rows_repeated_within_their_group_make_no_interval_narrower(rows: Answers, times: int) -> None:
    once, again = drawn_metrics(rows, 20, 7), drawn_metrics(rows * times, 20, 7)
    for metric, values in once.items():
        assert again[metric] == pytest.approx(values)


@given(st.floats(0, 1), st.integers(1, 50), st.integers(1, 50), st.floats(0.51, 0.99))
def test_the_interval_of_a_constant_is_that_constant(value: float, draws: int, groups: int, confidence: float) -> None:
    assert interval(numpy.full(draws, value), groups, confidence) == pytest.approx([value, value], rel=1e-15)


def test_an_interval_leaves_half_of_the_rest_on_each_side() -> None:
    assert interval(numpy.arange(1001.0), 10**6, 0.9) == pytest.approx([50, 950], abs=0.01)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 500), st.floats(0.51, 0.99))
def test_the_fewer_groups_the_wider_the_interval(groups: int, confidence: float) -> None:
    values = numpy.arange(1001.0)
    (low, high), (inner, outer) = (interval(values, count, confidence) for count in (groups, groups + 1))
    assert low < inner and outer < high


@pytest.mark.parametrize(("count", "plain", "most"), [(5, 0.13, 0.105), (10, 0.08, 0.07), (20, 0.055, 0.065)])
def test_an_interval_over_few_groups_misses_the_truth_nearly_as_seldom_as_it_says(
    count: int, plain: float, most: float
) -> None:
    """Means of so many groups that scatter about 0; ``plain`` is what the quantiles at 2.5 and 97.5 % miss at least."""
    values = numpy.random.default_rng(7).normal(size=(1000, count))
    means = values @ draw([str(number) for number in range(count)], 1000, 7).T / count

    def missed(ends: numpy.ndarray) -> float:
        return float(((ends[0] > 0) | (ends[1] < 0)).mean())

    assert missed(numpy.quantile(means, [0.025, 0.975], axis=1)) > plain
    assert 0.03 < missed(numpy.array([interval(row, count, 0.95) for row in means]).T) < most


@settings(max_examples=20, deadline=None)
@given(answers)
def test_a_model_differs_from_itself_by_exactly_nothing(rows: Answers) -> None:
    truth, predicted, groups = columns(rows)
    said = sure_of(predicted)
    report = compare(TASK, {"candidate": said, "champion": said}, frame_of(truth, groups), PARAMS.evaluate)
    nothing = {"difference": 0.0, "interval": [0.0, 0.0]}
    assert report["comparisons"] == {"champion": {metric.name: nothing for metric in TASK.metrics}}
    assert report["sources"]["shop"]["champion"] == nothing
    found = report["classes"]
    assert list(found) == TASK.classes
    for name, one in found.items():
        there = [group for number, group in zip(truth, groups, strict=True) if TASK.classes[number] == name]
        assert (one["support"], one["groups"]) == (len(there), len(set(there)))
        assert one.get("champion") == (nothing if there else None)


def test_intervals_are_of_the_groups_that_there_are() -> None:
    """On the whole, on a source and in a class: as many as are drawn from."""
    random = numpy.random.default_rng(7)
    truth = random.integers(0, 2, 80)
    truth[:12] = 2  # in three groups of four rows
    groups, film = [str(number // 4) for number in range(80)], numpy.arange(80) >= 40
    said = {name: numpy.where(random.random(80) < 0.3, 0, truth) for name in ("candidate", "champion")}
    frame = frame_of(truth, groups, numpy.where(film, "film", "shop").tolist())
    options = PARAMS.evaluate
    report = compare(TASK, {name: sure_of(values) for name, values in said.items()}, frame, options)

    def differences(metric: str, here: numpy.ndarray) -> numpy.ndarray:
        names = [group for group, chosen in zip(groups, here, strict=True) if chosen]
        drawn = draw(names, options.bootstrap, options.seed)
        one, other = (
            TASK.measure(resampled(TASK.statistics(frame, sure_of(said[name]))[here], names, drawn))[metric]
            for name in ("candidate", "champion")
        )
        difference: numpy.ndarray = one - other
        return difference

    whole = report["comparisons"]["champion"]["accuracy"]["interval"]
    assert whole == interval(differences("accuracy", numpy.ones(80, bool)), 20, 0.95)
    source = report["sources"]["film"]["champion"]["interval"]
    assert source == interval(differences("macro_f1", film), 10, 0.95)
    rare = report["classes"][TASK.classes[2]]
    assert (rare["support"], rare["groups"]) == (12, 3)
    drawn = draw(groups, options.bootstrap, options.seed)
    places = [sorted(set(groups)).index(str(number)) for number in range(3)]
    sums = [resampled(TASK.statistics(frame, sure_of(said[name])), groups, drawn) for name in ("candidate", "champion")]
    one, other = (per_class(TASK.counts(values))[2, :, 2] for values in sums)
    occurs = drawn[:, places].sum(axis=1) > 0
    assert not occurs.all()
    assert rare["champion"]["interval"] == interval((one - other)[occurs], 3, 0.95)


def test_of_each_class_the_difference_is_that_of_its_f1() -> None:
    truth = numpy.tile([0, 1, 2], 40)
    groups = [str(number // 3) for number in range(120)]
    worse = numpy.where(truth == 2, 0, truth)  # the third class is gone
    said = {"candidate": sure_of(worse), "champion": sure_of(truth), "best": sure_of(worse)}
    found = compare(TASK, said, frame_of(truth, groups), PARAMS.evaluate)["classes"]
    expected = f1_score(truth, worse, average=None) - 1
    for name, difference in zip(TASK.classes, expected, strict=True):
        assert (found[name]["support"], found[name]["groups"]) == (40, 40)
        assert found[name]["champion"]["difference"] == pytest.approx(difference)
        assert found[name]["champion"]["interval"] == pytest.approx([difference] * 2)
        assert found[name]["best"] == {"difference": 0, "interval": [0, 0]}


def test_of_each_source_the_difference_is_the_candidates() -> None:
    truth = numpy.tile([0, 1, 2], 20)
    groups, shop = [str(number // 3) for number in range(60)], numpy.arange(60) < 30
    wrong = numpy.where(numpy.arange(60) % 3 == 0, 1, truth)
    said = {
        "candidate": sure_of(numpy.where(shop, truth, wrong)),
        "champion": sure_of(numpy.where(shop, wrong, truth)),
    }
    frame = frame_of(truth, groups, ["shop"] * 30 + ["film"] * 30)
    found = compare(TASK, said, frame, PARAMS.evaluate)["sources"]
    gain = 1 - macro_f1(truth[:30], wrong[:30])
    for source, expected in (("shop", gain), ("film", -gain)):
        assert (found[source]["rows"], found[source]["groups"]) == (30, 10)
        assert found[source]["champion"]["difference"] == pytest.approx(expected)
        assert found[source]["champion"]["interval"] == pytest.approx([expected] * 2)


def test_the_page_sets_each_class_beside_the_champion(tmp_path: Path) -> None:
    space = Workspace(tmp_path)
    space.evaluation.mkdir(parents=True)
    space.curve.write_text("step,train_loss,validation_loss,validation_score\n1,1,1,1\n")
    truth = numpy.tile([0, 1], 20)  # the third class occurs nowhere
    said = {"candidate": sure_of(numpy.zeros(40, int)), "champion": sure_of(truth), "base": sure_of(truth)}
    report = compare(TASK, said, frame_of(truth, [str(number) for number in range(40)]), PARAMS.evaluate)
    write_pages(space, report | {"behaviour": {}})
    page = " ".join((space.evaluation / "report.html").read_text().split())
    low, high = report["classes"][TASK.classes[0]]["champion"]["interval"]
    assert "<th>accuracy<th>calibration error (less is better)</tr>" in page
    assert "F1 against champion</tr>" in page and page.count("F1 against") == 1
    assert f'<td>-0.333 <span class="range">{low:+.3f} to {high:+.3f}</span></tr>' in page
    assert '<td>-1.000 <span class="range">-1.000 to -1.000</span></tr>' in page
    assert f"<tr><td>{TASK.classes[2]} <td>0.000 <td>0.000 <td>0.000 <td>0 <td>–</tr>" in page
    assert report["classes"][TASK.classes[2]] == {"support": 0, "groups": 0}


def test_a_model_that_is_better_in_every_group_is_better_in_every_draw() -> None:
    truth = numpy.tile([0, 1, 2], 20)
    groups = [str(number // 3) for number in range(60)]
    worse = numpy.where(numpy.arange(60) % 3 == 0, 1, truth)  # wrong once in each group
    said = {"candidate": sure_of(truth), "base": sure_of(worse)}
    report = compare(TASK, said, frame_of(truth, groups), PARAMS.evaluate)
    found = report["comparisons"]["base"]["accuracy"]
    assert found["difference"] == pytest.approx(1 / 3)
    assert found["interval"] == pytest.approx([1 / 3, 1 / 3])
    assert report["models"]["candidate"]["intervals"]["accuracy"] == [1, 1]
    assert report["test"] == {"rows": 60, "groups": 20, "confidence": PARAMS.evaluate.confidence}


def test_each_source_has_its_slice() -> None:
    truth, predicted = numpy.array([0, 1, 2, 0]), numpy.array([0, 1, 0, 1])
    frame = frame_of(truth, list("abcd"), ["web", "web", "shop", "shop"])
    report = compare(TASK, {"candidate": sure_of(predicted)}, frame, PARAMS.evaluate)
    slices = report["models"]["candidate"]["slices"]
    assert {source: found["rows"] for source, found in slices.items()} == {"shop": 2, "web": 2}
    assert [slices["shop"]["metrics"][metric] for metric in ("accuracy", "macro_f1")] == [0.0, 0.0]
    assert [slices["web"]["metrics"][metric] for metric in ("accuracy", "macro_f1")] == [1.0, 1.0]


def test_a_batch_has_a_figure_of_its_own_where_its_test_rows_are_enough() -> None:
    truth = numpy.zeros(ENOUGH * 2 - 1, int)
    frame = frame_of(truth, "g", ["few"] * (ENOUGH - 1) + ["enough"] * ENOUGH)
    report = compare(TASK, {"candidate": sure_of(truth)}, frame, PARAMS.evaluate)
    assert {name: found["rows"] for name, found in report["models"]["candidate"]["batches"].items()} == {
        "enough": ENOUGH
    }


def test_of_many_labels_those_with_most_mistakes_are_drawn() -> None:
    table = numpy.diag(numpy.full(30, 9))
    assert list(most_mistaken(table[:4, :4])) == [0, 1, 2, 3]
    table[25, 28] = 1
    assert list(most_mistaken(table)) == [*range(18), 25, 28]
