"""The gate: PROMOTE, HOLD or BLOCK, always with reasons; what is not shown does not pass."""

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staytuned.policy import Classes, Gate, Sources
from staytuned.registry.evidence import Standing
from staytuned.registry.gate import Decision, decide

POLICY = Gate(
    bounds={"accuracy": 0.6, "macro_f1": 0.5, "calibration_error": 0.2},
    min_gain=0.05,
    margin=0.02,
    margins={"calibration_error": 0.05},
    min_test_rows=100,
    sources=Sources(min_rows=50, margin=0.05, bounds={}),
    classes=Classes(min_support=30, margin=0.1),
    max_megabytes=None,
    max_milliseconds=None,
)
FIRST = Standing(champion=None, best=None)
SECOND = Standing(champion=4, best=4)
LATER = Standing(champion=6, best=4)
ORDER = ["BLOCK", "HOLD", "PROMOTE"]

Report = dict[str, Any]


def between(low: float, high: float) -> dict[str, Any]:
    """A difference with its interval."""
    return {"difference": (low + high) / 2, "interval": [low, high]}


def report(**differences: tuple[float, float]) -> Report:
    """A good candidate's report, with intervals of the macro-F1 difference to champion and best."""
    found: Report = {
        "metrics": [
            {"name": "macro_f1", "title": "macro-F1", "higher_is_better": True},
            {"name": "accuracy", "title": "accuracy", "higher_is_better": True},
            {"name": "calibration_error", "title": "calibration error", "higher_is_better": False},
        ],
        "before": "frozen embeddings",
        "test": {"rows": 200, "groups": 200},
        "models": {
            "candidate": {"metrics": {"accuracy": 0.8, "macro_f1": 0.75, "calibration_error": 0.05}, "slices": {}},
            "base": {"metrics": {"accuracy": 0.7, "macro_f1": 0.6, "calibration_error": 0.05}},
        },
        "comparisons": {},
        "sources": {"shop": {"rows": 50, "groups": 50}},
        "classes": {"refund": {"support": 30, "groups": 5}},
        "behaviour": {},
    }
    versions = {"champion": 6 if "best" in differences else 4, "best": 4}
    for name, (low, high) in differences.items():
        found["models"][name] = {"metrics": {"accuracy": 0.8, "macro_f1": 0.75}, "version": versions[name]}
        found["comparisons"][name] = {"macro_f1": between(low, high), "calibration_error": between(-0.01, 0.01)}
        found["sources"]["shop"][name] = between(low, high)
        found["classes"]["refund"][name] = between(-0.2, 0.2)
    return found


def with_value(found: Report, path: str, value: Any) -> Report:
    """The report with another value at a dotted path."""
    changed = deepcopy(found)
    *sections, key = path.split(".")
    place = changed
    for section in sections:
        place = place[section]
    place[key] = value
    return changed


def with_candidate(**metrics: float) -> Report:
    """A first candidate's report with other values of some metrics."""
    found = report()
    found["models"]["candidate"]["metrics"].update(metrics)
    return found


COMPLETE = report(champion=(0.01, 0.03), best=(0.01, 0.03))


@pytest.mark.parametrize(
    ("evidence", "standing", "outcome", "reason"),
    [
        # a first model needs no champion, but must clear the floors
        (report(), FIRST, "PROMOTE", "accuracy 0.800 ≥ gate.bounds.accuracy 0.6"),
        (with_candidate(accuracy=0.59), FIRST, "BLOCK", "accuracy 0.590 < gate.bounds.accuracy"),
        (
            with_candidate(macro_f1=0.49),
            FIRST,
            "BLOCK",
            "macro-F1 0.490 < gate.bounds.macro_f1",
        ),
        (
            with_value(report(), "models.base.metrics.macro_f1", 0.71),
            FIRST,
            "BLOCK",
            "gain in macro-F1 over frozen embeddings 0.040 < gate.min_gain 0.05",
        ),
        (
            with_value(report(), "models.candidate.metrics.calibration_error", 0.21),
            FIRST,
            "BLOCK",
            "calibration error 0.210 > gate.bounds.calibration_error 0.2",
        ),
        # a floor that is just reached is cleared
        (
            with_value(with_candidate(macro_f1=0.5), "models.base.metrics.macro_f1", 0.4),
            FIRST,
            "PROMOTE",
            "macro-F1 0.500 ≥ gate.bounds.macro_f1",
        ),
        # a later model must not be inferior to the champion
        (report(champion=(0.01, 0.03)), SECOND, "PROMOTE", "macro-F1 +0.020 against champion 4 (+0.010 to +0.030)"),
        (report(champion=(-0.02, 0.03)), SECOND, "PROMOTE", "no loss of more than gate.margin 0.02"),
        (report(champion=(-0.021, 0.03)), SECOND, "HOLD", "a loss of more than gate.margin 0.02 is not ruled out"),
        (report(champion=(-0.3, 0.3)), SECOND, "HOLD", "is not ruled out"),
        (report(champion=(-0.015, -0.001)), SECOND, "BLOCK", "worse"),  # within the margin, but certain
        # nor to the best version ever
        (report(champion=(0.01, 0.03), best=(-0.01, 0.01)), LATER, "PROMOTE", "against best version 4"),
        (report(champion=(0.01, 0.03), best=(-0.03, 0.01)), LATER, "HOLD", "against best version 4"),
        (report(champion=(0.01, 0.03), best=(-0.03, -0.01)), LATER, "BLOCK", "against best version 4"),
        # one reason to block outweighs one to hold, and a floor outweighs any champion
        (report(champion=(-0.03, 0.01), best=(-0.03, -0.01)), LATER, "BLOCK", "worse"),
        (
            with_value(report(champion=(0.1, 0.2)), "models.candidate.metrics.accuracy", 0.5),
            SECOND,
            "BLOCK",
            "gate.bounds.accuracy",
        ),
    ],
)
def test_decisions(evidence: Report, standing: Standing, outcome: str, reason: str) -> None:
    decision = decide(evidence, standing, POLICY)
    assert decision.outcome == outcome
    assert any(reason in said for said in decision.reasons)


def test_all_that_blocks_is_told() -> None:
    bad = with_value(report(champion=(-0.3, -0.1)), "models.candidate.metrics.accuracy", 0.5)
    assert len(decide(bad, SECOND, POLICY).reasons) == 3  # floor, champion, champion on the source


# The worse the evidence, the worse the outcome, or the same.

shares = st.floats(0, 1)
steps = st.floats(0, 0.5)
intervals = st.tuples(st.floats(-0.2, 0.2), st.floats(0, 0.2)).map(lambda pair: (pair[0], pair[0] + pair[1]))
standings = st.sampled_from([FIRST, SECOND, LATER])


@st.composite
def evidence(draw: st.DrawFn, standing: Standing) -> Report:
    names = [] if standing == FIRST else ["champion"] if standing == SECOND else ["champion", "best"]
    found = report(**{name: draw(intervals) for name in names})
    for metric in ("accuracy", "macro_f1", "calibration_error"):
        found["models"]["candidate"]["metrics"][metric] = draw(shares)
    for name in names:
        found["comparisons"][name]["calibration_error"] = between(*draw(intervals))
        found["classes"]["refund"][name] = between(*draw(intervals))
    found["models"]["base"]["metrics"]["macro_f1"] = draw(shares)
    found["test"]["rows"] = draw(st.integers(90, 110))
    return found


@given(st.data(), standings)
def test_more_against_the_candidate_never_helps_it(data: st.DataObject, standing: Standing) -> None:
    before = data.draw(evidence(standing))
    after = deepcopy(before)
    candidate, base = (after["models"][name]["metrics"] for name in ("candidate", "base"))
    candidate["accuracy"] -= data.draw(steps)
    candidate["macro_f1"] -= data.draw(steps)
    candidate["calibration_error"] += data.draw(steps)
    base["macro_f1"] += data.draw(steps)
    after["test"]["rows"] -= data.draw(st.integers(0, 20))
    for name, difference in after["comparisons"].items():
        for found in (difference["macro_f1"], after["classes"]["refund"][name]):
            low, high = found["interval"]
            high -= data.draw(steps)
            found["interval"] = [min(low, high) - data.draw(steps), high]
        low, high = difference["calibration_error"]["interval"]
        low += data.draw(steps)
        difference["calibration_error"]["interval"] = [low, max(low, high) + data.draw(steps)]
    outcomes = [decide(found, standing, POLICY).outcome for found in (before, after)]
    assert ORDER.index(outcomes[1]) <= ORDER.index(outcomes[0])


@given(st.data(), standings)
def test_every_decision_has_its_reasons(data: st.DataObject, standing: Standing) -> None:
    assert decide(data.draw(evidence(standing)), standing, POLICY).reasons


@given(
    losses=st.lists(st.floats(-0.005, 0.019), min_size=1, max_size=60),
    width=st.floats(0.0, 0.02),
)
def test_a_chain_of_small_losses_cannot_creep(losses: list[float], width: float) -> None:
    """Each candidate loses a little to the champion of its day. None that stands ever lost more to the best."""
    quality = {1: 0.9}  # of each version that was promoted, as it really is
    champion = best = 1
    for loss in losses:
        candidate = quality[champion] - loss

        def against(version: int, candidate: float = candidate) -> tuple[float, float]:
            difference = candidate - quality[version]
            return difference - width, difference + width

        found = report(champion=against(champion), best=against(best))
        found["models"]["champion"]["version"], found["models"]["best"]["version"] = champion, best
        if decide(found, Standing(champion, best), POLICY).outcome == "PROMOTE":
            champion = len(quality) + 1
            quality[champion] = candidate
            best = max(quality, key=lambda version: quality[version])
        assert quality[champion] >= quality[best] - POLICY.margin


def test_without_the_best_version_the_same_chain_would_creep() -> None:
    """What the comparison with the best is for: each step alone passes."""
    step = report(champion=(-0.019, 0.001))
    assert decide(step, SECOND, POLICY).outcome == "PROMOTE"
    down = report(champion=(-0.019, 0.001), best=(-0.038, -0.018))
    assert decide(down, LATER, POLICY).outcome == "BLOCK"


def on_sources(**intervals: tuple[float, float, int]) -> Report:
    """A candidate that is better than the champion on the whole, with interval and rows of each source."""
    found = report(champion=(0.01, 0.05))
    found["sources"] = {
        source: {"rows": rows, "groups": rows, "champion": between(low, high)}
        for source, (low, high, rows) in intervals.items()
    }
    return found


@pytest.mark.parametrize(
    ("evidence", "outcome", "reason"),
    [
        (
            on_sources(shop=(-0.04, 0.02, 50)),
            "PROMOTE",
            "on shop (-0.040 to +0.020): no loss of more than gate.sources",
        ),
        (on_sources(shop=(-0.06, 0.02, 50)), "HOLD", "a loss of more than gate.sources.margin 0.05 is not ruled out"),
        (on_sources(shop=(-0.04, -0.01, 50)), "PROMOTE", "no loss of more than gate.sources.margin 0.05"),
        (on_sources(shop=(-0.3, -0.1, 50)), "BLOCK", "macro-F1 -0.200 against champion 4 on shop"),
        (on_sources(shop=(-0.3, -0.1, 49)), "PROMOTE", "against champion 4 (+0.010 to +0.050)"),
        (
            on_sources(shop=(0.1, 0.2, 90), film=(-0.2, -0.1, 90)),
            "BLOCK",
            "on film (-0.200 to -0.100): worse by more than gate.sources.margin 0.05",
        ),
    ],
)
def test_what_was_learned_of_a_source_may_not_be_forgotten(evidence: Report, outcome: str, reason: str) -> None:
    decision = decide(evidence, SECOND, POLICY)
    assert decision.outcome == outcome
    assert any(reason in line for line in decision.reasons)


RIVALS = [("champion", "against champion 6"), ("best", "against best version 4")]
NOT_SHOWN = "no loss above its margin is shown by a further metric (1 asked) or in a class (1 asked)"


@pytest.mark.parametrize(("rival", "against"), RIVALS)
@pytest.mark.parametrize(
    ("low", "high", "outcome", "reason"),
    [
        (
            -0.9,
            -0.5,
            "BLOCK",
            "F1 of 'refund' -0.700 {} (-0.900 to -0.500): worse by more than gate.classes.margin 0.1",
        ),
        (-0.9, -0.1, "PROMOTE", NOT_SHOWN),
        (-0.3, 0.1, "PROMOTE", NOT_SHOWN),  # only not ruled out
        (0.2, 0.9, "PROMOTE", NOT_SHOWN),
    ],
)
def test_no_class_may_be_lost_where_the_others_rise(
    rival: str, against: str, low: float, high: float, outcome: str, reason: str
) -> None:
    decision = decide(with_value(COMPLETE, f"classes.refund.{rival}", between(low, high)), LATER, POLICY)
    assert decision.outcome == outcome
    assert any(reason.format(against) in line for line in decision.reasons)


@pytest.mark.parametrize(("rival", "against"), RIVALS)
@pytest.mark.parametrize(
    ("low", "high", "outcome", "reason"),
    [
        (
            0.06,
            0.2,
            "BLOCK",
            "error +0.130 {} (+0.060 to +0.200): worse by more than gate.margins.calibration_error 0.05",
        ),
        (0.05, 0.2, "PROMOTE", NOT_SHOWN),
        (-0.1, 0.1, "PROMOTE", NOT_SHOWN),  # only not ruled out
        (-0.9, -0.5, "PROMOTE", NOT_SHOWN),
    ],
)
def test_a_further_metric_has_its_margin(
    rival: str, against: str, low: float, high: float, outcome: str, reason: str
) -> None:
    evidence = with_value(COMPLETE, f"comparisons.{rival}.calibration_error", between(low, high))
    decision = decide(evidence, LATER, POLICY)
    assert decision.outcome == outcome
    assert any(reason.format(against) in line for line in decision.reasons)


@pytest.mark.parametrize(("key", "value"), [("support", 29), ("groups", 4)])
def test_a_class_with_few_rows_or_groups_is_not_asked_and_that_is_said(key: str, value: int) -> None:
    lost = with_value(COMPLETE, "classes.refund.champion", between(-0.9, -0.5))
    decision = decide(with_value(lost, f"classes.refund.{key}", value), LATER, POLICY)
    assert decision.outcome == "PROMOTE"
    said = "under gate.classes.min_support 30, or 5 groups, so not asked what was lost of a class: refund"
    assert said in decision.reasons


def test_without_classes_and_further_metrics_nothing_is_said_of_them() -> None:
    policy = POLICY.model_copy(update={"margins": {}})
    reasons = decide(with_value(COMPLETE, "classes", {}), LATER, policy).reasons
    assert not any("margin is shown" in line or "class" in line for line in reasons)


def test_a_source_with_too_few_rows_to_ask_about_is_named() -> None:
    decision = decide(on_sources(shop=(-0.3, -0.1, 49), film=(0.1, 0.2, 50)), SECOND, POLICY)
    said = "under the 50 test rows of gate.sources.min_rows, or 5 groups, so not asked what was forgotten: "
    assert f"{said}shop (49 rows, 49 groups)" in decision.reasons


def test_a_bound_holds_on_each_source_that_has_rows_enough() -> None:
    policy = POLICY.model_copy(update={"sources": Sources(min_rows=50, margin=0.05, bounds={"accuracy": 0.7})})
    evidence = report()
    slices = {"shop": {"rows": 60, "metrics": {"accuracy": 0.69}}, "film": {"rows": 40, "metrics": {"accuracy": 0.1}}}
    evidence["models"]["candidate"]["slices"] = slices
    decision = decide(evidence, FIRST, policy)
    assert decision == Decision("BLOCK", ["accuracy on shop 0.690 < gate.sources.bounds.accuracy 0.7"])


@pytest.mark.parametrize(
    ("known", "reasons"),
    [
        ({"megabytes": 90.0, "milliseconds": 8.0}, []),
        ({"megabytes": 101.0, "milliseconds": 8.0}, ["101.0 megabytes > gate.max_megabytes 100"]),
        ({"megabytes": 90.0}, ["milliseconds of the candidate are not known: missing evidence"]),
    ],
)
def test_a_model_that_is_too_large_or_too_slow_is_blocked(known: dict[str, float], reasons: list[str]) -> None:
    policy = POLICY.model_copy(update={"max_megabytes": 100.0, "max_milliseconds": 10.0})
    decision = decide(report() | known, FIRST, policy)
    assert decision.outcome == ("BLOCK" if reasons else "PROMOTE")
    assert not reasons or decision.reasons == reasons


def test_a_behavioural_check_of_which_exactly_the_share_passes_does_not_block() -> None:
    checks = {"negation": {"passed": 55, "cases": 100, "share": 0.55, "failed": []}}
    assert decide(report() | {"behaviour": checks}, FIRST, POLICY).outcome == "PROMOTE"


def test_a_failed_behavioural_check_blocks() -> None:
    checks = {
        "negation": {"passed": 3, "cases": 6, "share": 0.6, "failed": []},
        "typos": {"passed": 9, "cases": 10, "share": 0.9, "failed": []},
    }
    decision = decide(report() | {"behaviour": checks}, FIRST, POLICY)
    assert decision == Decision("BLOCK", ["behaviour: 3 of 6 cases of 'negation' pass, under its share 0.6"])


def perplexity(candidate: float, base: float, interval: list[float]) -> Report:
    """A report on a metric that is better the less it is."""
    models: Report = {
        "candidate": {"metrics": {"perplexity": candidate}, "slices": {}},
        "base": {"metrics": {"perplexity": base}},
    }
    models["champion"] = {"metrics": {"perplexity": 20.0}, "version": 4}
    return {
        "metrics": [{"name": "perplexity", "title": "perplexity", "higher_is_better": False}],
        "before": "the base model",
        "test": {"rows": 200, "groups": 200},
        "models": models,
        "comparisons": {"champion": {"perplexity": between(*interval)}},
        "sources": {},
        "classes": {},
        "behaviour": {},
    }


@pytest.mark.parametrize(
    ("evidence", "outcome", "reason"),
    [
        (perplexity(18, 40, [-3, -1]), "PROMOTE", "perplexity -2.000 against champion 4 (-3.000 to -1.000)"),
        (perplexity(20, 40, [-0.4, 0.4]), "PROMOTE", "no loss of more than gate.margin 0.5"),
        (perplexity(20, 40, [-0.4, 0.6]), "HOLD", "is not ruled out"),
        (perplexity(21, 40, [0.1, 0.3]), "BLOCK", "worse"),
        (perplexity(31, 40, [-3, -1]), "BLOCK", "perplexity 31.000 > gate.bounds.perplexity 30"),
        (perplexity(18, 18.5, [-3, -1]), "BLOCK", "gain in perplexity over the base model 0.500 < gate.min_gain 1"),
    ],
)
def test_where_less_is_better_everything_is_turned_round(evidence: Report, outcome: str, reason: str) -> None:
    asked = {"bounds": {"perplexity": 30.0}, "min_gain": 1.0, "margin": 0.5, "margins": {}}
    policy = POLICY.model_copy(update=asked)
    decision = decide(evidence, SECOND, policy)
    assert decision.outcome == outcome
    assert any(reason in said for said in decision.reasons)
