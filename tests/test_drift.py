"""Drift, part by part: statistics against plain code, thresholds where nothing drifts, what is kept."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist, pdist
from scipy.stats import ks_2samp
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from tiny import make_base
from tiny_generators import make_decoder, make_encoder_decoder, make_masked

from staytuned.drift import checks
from staytuned.drift.accuracy import estimated_accuracy
from staytuned.drift.answers import answered
from staytuned.drift.calibration import Check, judge, partings
from staytuned.drift.embedding import embedded
from staytuned.drift.rows import newest
from staytuned.drift.views import Answers, Compared, checks_of
from staytuned.drift.words import telling_words
from staytuned.params import Params
from staytuned.stages.drift import Asked, empty_report, measure
from staytuned.tasks import load
from staytuned.tasks.relation_extraction import RelationExtraction
from staytuned.tasks.sentence_pairs import SentencePairs
from staytuned.tasks.text_classification import TextClassification, softmax
from staytuned.tasks.text_regression import TextRegression

GROUPS = 9
PARAMS = Params.read(Path(__file__).parents[1] / "params.yaml")


@pytest.fixture
def random() -> numpy.random.Generator:
    return numpy.random.default_rng(5)


@pytest.fixture
def groups(random: numpy.random.Generator) -> numpy.ndarray:
    """The group of each of 60 rows; every group has some."""
    return numpy.concatenate([numpy.arange(GROUPS), random.integers(0, GROUPS, 51)])


@pytest.fixture
def windows(random: numpy.random.Generator) -> numpy.ndarray:
    """Seven partings, of one to eight groups."""
    return numpy.stack([random.permutation(GROUPS) < size for size in (1, 2, 3, 4, 5, 7, 8)])


def parts(values: numpy.ndarray, groups: numpy.ndarray, window: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    return values[window[groups]], values[~window[groups]]


# Each statistic is what plain code says, for every parting


def test_kolmogorov_smirnov_is_that_of_scipy(
    random: numpy.random.Generator, groups: numpy.ndarray, windows: numpy.ndarray
) -> None:
    values = random.integers(0, 12, len(groups))  # with ties
    expected = [ks_2samp(*parts(values, groups, window)).statistic for window in windows]
    assert checks.kolmogorov_smirnov(values, groups, windows) == pytest.approx(expected)


def test_total_variation_is_half_of_the_differences(
    random: numpy.random.Generator, groups: numpy.ndarray, windows: numpy.ndarray
) -> None:
    values = random.choice(["good", "bad", "so-so"], len(groups))
    found = checks.total_variation(values, groups, windows)
    for value, window in zip(found, windows, strict=True):
        one, other = parts(values, groups, window)
        assert value == pytest.approx(
            sum(abs((one == name).mean() - (other == name).mean()) for name in set(values)) / 2
        )


def test_unknown_words_are_counted_above_what_any_group_brings(
    random: numpy.random.Generator, groups: numpy.ndarray, windows: numpy.ndarray
) -> None:
    words = random.choice([f"word{number}" for number in range(60)], len(groups))
    found = checks.unknown_words(words, groups, windows)
    for value, window in zip(found, windows, strict=True):
        one, other = parts(words, groups, window)
        unknown = numpy.mean([word not in set(other) for word in one])
        alone = [set(words[groups == group]) for group in range(GROUPS) if not window[group]]
        usual = numpy.mean([sum(word in group for group in alone) == 1 for word in other])
        assert value == pytest.approx(unknown - usual)


def test_mean_discrepancy_is_the_biased_estimate_with_the_median_distance(
    random: numpy.random.Generator, groups: numpy.ndarray, windows: numpy.ndarray
) -> None:
    vectors = random.normal(size=(len(groups), 4))
    width = numpy.median(pdist(vectors))
    found = checks.mean_discrepancy(vectors, groups, windows)
    for value, window in zip(found, windows, strict=True):
        one, other = parts(vectors, groups, window)
        means = [
            numpy.exp(-(cdist(a, b) ** 2) / (2 * width**2)).mean()
            for a, b in ((one, one), (other, other), (one, other))
        ]
        assert value == pytest.approx(numpy.sqrt(means[0] + means[1] - 2 * means[2]))


def test_domain_scores_are_a_ridge_regression_that_saw_no_row_of_the_group(
    random: numpy.random.Generator, groups: numpy.ndarray, windows: numpy.ndarray
) -> None:
    vectors = random.normal(size=(len(groups), 4))
    fold = checks._folds(groups, GROUPS)
    assert all(len(set(fold[groups == group])) == 1 for group in range(GROUPS))
    found = checks.domain_scores(vectors, groups, windows)
    for scores, window in zip(found, windows, strict=True):
        truth = window[groups].astype(float)
        for number in set(fold):
            held = fold == number
            ridge = Ridge(alpha=checks.PENALTY * (~held).sum()).fit(vectors[~held], truth[~held])
            expected = ridge.predict(vectors[held]) - truth[~held].mean()  # shares of a fold must not part its rows
            assert scores[held] == pytest.approx(expected, abs=1e-9)


def test_domain_classifier_is_the_area_under_its_scores(
    random: numpy.random.Generator, groups: numpy.ndarray, windows: numpy.ndarray
) -> None:
    vectors, windows = random.normal(size=(len(groups), 4)), windows[1:]  # of one group, a fold learns nothing
    scores = checks.domain_scores(vectors, groups, windows)
    expected = [roc_auc_score(window[groups], row) - 0.5 for window, row in zip(windows, scores, strict=True)]
    assert checks.domain_classifier(vectors, groups, windows) == pytest.approx(expected)


def test_each_statistic_grows_with_the_shift(random: numpy.random.Generator) -> None:
    groups, window = numpy.repeat(numpy.arange(40), 5), (numpy.arange(40) >= 25)[None]
    vectors, inside = random.normal(size=(200, 4)), window[0][groups]
    far, near = vectors + 3 * inside[:, None], vectors + 0.5 * inside[:, None]
    for statistic in (checks.mean_discrepancy, checks.domain_classifier):
        assert statistic(far, groups, window) > statistic(near, groups, window) > 0.01
    assert checks.kolmogorov_smirnov(far[:, 0], groups, window) > checks.kolmogorov_smirnov(near[:, 0], groups, window)


# Windows at random


@given(
    sizes=st.lists(st.integers(1, 30), min_size=6, max_size=30),
    of_window=st.integers(1, 4),
    of_fixed=st.integers(0, 1),
    seed=st.integers(0, 99),
)
@settings(max_examples=50, deadline=None)
def test_windows_drawn_are_whole_groups_of_like_many_rows(
    sizes: list[int], of_window: int, of_fixed: int, seed: int
) -> None:
    rows, places = numpy.array(sizes), numpy.arange(len(sizes))
    window, fixed = places < of_window, places >= len(sizes) - of_fixed
    drawn = partings(rows, window, fixed, 20, seed)
    assert drawn.shape == (21, len(sizes)) and (drawn[0] == window).all()
    assert not drawn[:, fixed].any()
    assert drawn.any(axis=1).all() and not drawn[:, ~fixed].all(axis=1).any()
    more_than_one = drawn.sum(axis=1) > 1
    assert (drawn[more_than_one] @ rows <= rows[window].sum() + max(sizes) / 2).all()
    assert (drawn == partings(rows, window, fixed, 20, seed)).all()


def test_groups_that_are_known_change_places_among_themselves() -> None:
    rows, window, known = numpy.full(40, 3), numpy.arange(40) % 4 == 0, numpy.arange(40) < 20
    drawn = partings(rows, window, known, 50, 0)
    assert (drawn[:, known].sum(axis=1) == window[known].sum()).all()
    assert (drawn[:, ~known].sum(axis=1) == window[~known].sum()).all()
    assert len(numpy.unique(drawn[:, known], axis=0)) > 40


def synthetic(
    random: numpy.random.Generator, shift: float, documents: int = 40, known: int = 0, of_window: int = 0
) -> tuple[Any, Any]:
    """Checks on documents that differ much among each other, and partings; some of reference and window are known."""
    sizes = random.geometric(0.15, documents)
    groups = numpy.repeat(numpy.arange(documents), sizes)
    window = numpy.arange(documents) >= documents - 12
    vectors = random.normal(size=(documents, 5))[groups] + random.normal(size=(len(groups), 5))
    vectors[window[groups]] += shift
    apart = (numpy.arange(documents) < known) | (numpy.arange(documents) >= documents - of_window)
    asked = ~apart[groups]
    made = {
        "classifier": Check("", checks.domain_classifier, vectors, groups),
        "kernel": Check("", checks.mean_discrepancy, vectors, groups),
        "number": Check("", checks.kolmogorov_smirnov, vectors[asked, 0].round(2), groups[asked]),
        "name": Check("", checks.total_variation, (vectors[:, 1] > 0).astype(str), groups),
    }
    return made, partings(sizes, window, apart, 200, int(random.integers(1 << 30)))


@pytest.mark.parametrize(("known", "of_window"), [(0, 0), (10, 0), (14, 5)])
def test_the_alarm_is_false_as_often_as_the_level_says(known: int, of_window: int) -> None:
    """Few documents of very unlike sizes, also where some are not asked about; 400 draws at 10 %, 6 sigma below."""
    random = numpy.random.default_rng(11)
    false = [judge(*synthetic(random, 0.0, known=known, of_window=of_window), 0.1)[1] for _ in range(400)]
    assert 0.05 <= numpy.mean(false) <= 0.14


def test_a_gross_shift_gives_the_alarm_nearly_always() -> None:
    random = numpy.random.default_rng(12)
    assert numpy.mean([judge(*synthetic(random, 1.5), 0.05)[1] for _ in range(20)]) >= 0.95


def test_the_alarm_is_that_of_one_check_at_least_and_p_counts_draws(random: numpy.random.Generator) -> None:
    for shift in (0.0, 0.4, 0.8, 1.5):
        made, drawn = synthetic(random, shift)
        found, alarm = judge(made, drawn, 0.05)
        assert alarm == any(verdict.alarm for verdict in found.values())
        values = made["kernel"].statistic(made["kernel"].values, made["kernel"].groups, drawn)
        assert found["kernel"].p == pytest.approx((values >= values[0]).mean())


def test_what_never_differs_gives_no_alarm_and_has_no_threshold() -> None:
    groups = numpy.repeat(numpy.arange(30), 3)
    same = {"same": Check("", checks.total_variation, numpy.full(90, "one"), groups)}
    drawn = partings(numpy.full(30, 3), numpy.arange(30) < 8, numpy.zeros(30, bool), 100, 0)
    found, alarm = judge(same, drawn, 0.05)
    assert not alarm and found["same"].threshold is None and found["same"].p == 1 and not found["same"].alarm


# Rows


def test_the_newest_whole_groups_are_taken() -> None:
    groups = pandas.Series(list("aabbbccda"))
    assert groups[newest(groups, 4)].tolist() == list("aada")
    assert groups[newest(groups, 6)].tolist() == list("aaccda")
    assert groups[newest(groups, 7)].tolist() == list("aaccda")  # b has three


def test_a_group_larger_than_the_window_is_passed_over() -> None:
    groups = pandas.Series(list("abbcccc"))
    assert groups[newest(groups, 3)].tolist() == list("abb")
    assert not newest(pandas.Series(list("aaaa")), 3).any()


def compared(labels: list[str | None], labelled: bool, answers: Answers | None = None) -> Compared:
    count = len(labels)
    columns: dict[str, Any] = {"text": [f"Word {n % 7}" for n in range(count)], "text_pair": None, "label": labels}
    frame = pandas.DataFrame(columns | {"group": [str(n // 2) for n in range(count)], "source": "shop"})
    return Compared(frame, numpy.arange(count) >= count // 2, numpy.eye(count), labelled, answers)


def test_rows_without_labels_are_left_out_of_the_check_on_labels() -> None:
    made = checks_of(compared(["good", None] * 10, True))["labels"]
    assert made.values.tolist() == ["good"] * 10 and made.groups.tolist() == list(range(10))


def test_where_labels_are_open_and_answers_have_no_probability_these_checks_are_not_made() -> None:
    assert set(checks_of(compared(["any"] * 20, False))) == {
        "domain_classifier",
        "embeddings",
        "text_length",
        "unknown_words",
    }


def test_the_checks_on_answers_look_at_the_rows_that_were_asked() -> None:
    answers = Answers(numpy.arange(6, 20), numpy.full(14, "good"), numpy.full(14, 0.5))
    made = checks_of(compared(["good"] * 20, True, answers))
    assert made["answers"].groups.tolist() == made["confidence"].groups.tolist() == [n // 2 for n in range(6, 20)]


def test_a_group_in_reference_and_window_counts_as_two() -> None:
    rows = compared(["good"] * 6, True)
    assert rows.groups.tolist() == [0, 0, 1, 2, 3, 3]


def test_classifiers_say_how_sure_they_are_and_others_that_they_do_not() -> None:
    said = [numpy.array([0.2, 0.8]), numpy.array([0.7, 0.3])]
    options = SimpleNamespace(labels=["no", "yes"], label_from_rating=None, negative=None)
    for task in (TextClassification, SentencePairs, RelationExtraction):
        names, confidence = task(options).sureness(said) or ([], numpy.empty(0))
        assert names == ["yes", "no"] and confidence.tolist() == [0.8, 0.7]
    assert TextRegression(SimpleNamespace()).sureness([0.5]) is None


# Accuracy without labels


def test_accuracy_is_estimated_from_confidence_that_is_calibrated_first(random: numpy.random.Generator) -> None:
    """The model is right half as often as it believes; in the window it believes less."""
    known, new = random.uniform(0.5, 1, 2000), random.uniform(0.5, 0.7, 800)
    right = random.random(2000) < known / 2
    groups = [str(n // 10) for n in range(2000)]
    value, (low, high) = estimated_accuracy((known, right, groups), (new, groups[:800]), 200, 0.95, 1)
    assert value == pytest.approx(0.3, abs=0.04) and low < 0.3 - right.mean() < high and high - low < 0.15


def test_below_any_confidence_that_is_known_fewer_answers_are_expected_to_be_right() -> None:
    groups = [str(n) for n in range(40)]
    reference = (numpy.full(40, 0.9), numpy.ones(40), groups)
    for confidence, expected in ((0.95, 1), (0.9, 1), (0.45, 0.5)):
        value, between = estimated_accuracy(reference, (numpy.full(40, confidence), groups), 50, 0.95, 1)
        assert value == pytest.approx(expected) and between == pytest.approx([expected - 1, expected - 1])


def test_few_labels_of_the_reference_are_no_loss_in_the_window(random: numpy.random.Generator) -> None:
    """What the reference is short of by chance the window is short of too: the estimate leans on the same rows."""
    known, new = random.uniform(0.5, 1, 40), random.uniform(0.5, 1, 500)
    right = random.random(40) < known - 0.2
    value, (low, high) = estimated_accuracy(
        (known, right, [str(n) for n in range(40)]), (new, [str(n) for n in range(500)]), 200, 0.95, 1
    )
    assert value == pytest.approx(right.mean(), abs=0.1) and low < 0 < high
    assert high - low < 0.2  # that of the accuracy on the reference alone is 0.3 wide


def test_an_estimate_is_as_sure_as_the_fewer_groups_allow(random: numpy.random.Generator) -> None:
    known, new = random.uniform(0.5, 1, 400), random.uniform(0.5, 1, 400)
    right, many = random.random(400) < known, [str(n) for n in range(400)]
    few = [str(n // 80) for n in range(400)]  # five of 80 rows

    def width(of_reference: list[str], of_window: list[str]) -> float:
        _, (low, high) = estimated_accuracy((known, right, of_reference), (new, of_window), 400, 0.95, 1)
        return high - low

    assert width(few, many) > width(many, many) and width(many, few) > width(many, many)


# How much worse the champion is


def asked(task: TextClassification, wrong: numpy.ndarray, groups: list[str], labelled: int = 10**6) -> Asked:
    """Rows of all classes in turn, as labelled as that many rows allow, and a champion that is wrong about some."""
    truth = numpy.arange(len(wrong)) % len(task.classes)
    predicted = numpy.where(wrong, (truth + 1) % len(task.classes), truth)
    labels = [task.classes[number] if place < labelled else None for place, number in enumerate(truth)]
    frame = pandas.DataFrame({"label": labels, "group": groups})
    return frame, answered(task, list(softmax(3.0 * numpy.eye(len(task.classes))[predicted])), frame)


def change(task: TextClassification, reference: Asked, window: Asked) -> Any:
    """As the report has it: an interval, or None."""
    report = empty_report(1, task.metrics[0])
    measure(PARAMS, task, reference, window, report)
    return report["window"]["change"]


def test_a_loss_is_below_nought_and_a_gain_above() -> None:
    task, groups = load(PARAMS), [str(n // 4) for n in range(240)]
    good, bad = (asked(task, numpy.arange(240) % every == 0, groups) for every in (40, 4))
    (_, high), (low, _) = change(task, good, bad), change(task, bad, good)
    assert high < -0.1 and low > 0.1


def test_the_reference_varies_as_the_window_does(random: numpy.random.Generator) -> None:
    task, wrong = load(PARAMS), random.random(240) < 0.3
    many, few = [str(n // 4) for n in range(240)], [str(n // 48) for n in range(240)]

    def width(of_reference: list[str], of_window: list[str]) -> float:
        low, high = change(task, asked(task, wrong, of_reference), asked(task, wrong, of_window))
        assert low < 0 < high  # on the very same rows: each is drawn by itself
        return high - low

    assert width(few, many) > width(many, many) and width(many, few) > width(many, many)


@pytest.mark.parametrize(("labelled", "is_known"), [(40, True), (32, False)])
def test_of_labels_in_less_than_five_groups_nothing_is_said(labelled: int, is_known: bool) -> None:
    task, groups, wrong = load(PARAMS), [str(n // 8) for n in range(240)], numpy.arange(240) % 5 == 0
    assert (change(task, asked(task, wrong, groups), asked(task, wrong, groups, labelled)) is not None) == is_known
    assert (change(task, asked(task, wrong, groups, labelled), asked(task, wrong, groups)) is not None) == is_known


# Words


def test_words_that_tell_the_window_apart_come_first() -> None:
    old, new = ["the lamp is bright", "the desk is grey"] * 20, ["the film is dull", "the plot is thin"] * 20
    more, less = telling_words(old, new, 4)
    assert set(more) == {"film", "plot", "dull", "thin"} and set(less) == {"lamp", "desk", "bright", "grey"}
    assert telling_words([], [], 4) == ([], [])


# Embeddings


def test_embeddings_are_the_same_whatever_was_kept(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    texts = ["the lamp is bright", "awful noise", "the lamp is bright", "my phone came broken today"]
    first = embedded(texts, base, 16, tmp_path / "pieces")
    assert first.shape == (4, 32) and numpy.linalg.norm(first, axis=1) == pytest.approx(numpy.ones(4))
    assert (embedded(texts[::-1], base, 16, tmp_path / "pieces") == first[::-1]).all()
    one_more = embedded([*texts, "swift"], base, 16, tmp_path / "pieces")
    assert (one_more[:4] == first).all()
    for file in (tmp_path / "pieces").iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    assert (embedded([*texts, "swift"], base, 16, tmp_path / "pieces") == one_more).all()
    assert not (embedded(texts, base, 4, tmp_path / "pieces") == first).all()  # cut shorter


@pytest.mark.parametrize("make", [make_decoder, make_encoder_decoder, make_masked])
def test_base_models_that_are_no_plain_encoders_embed_too(tmp_path: Path, make: Callable[[Path, str], Path]) -> None:
    base = make(tmp_path / "base", "the lamp is bright and the desk is grey")
    vectors = embedded(["the lamp", "the desk is grey"], base, 16, tmp_path / "pieces")
    assert numpy.linalg.norm(vectors, axis=1) == pytest.approx(numpy.ones(2))
    assert numpy.abs(vectors[0] - vectors[1]).max() > 1e-3
