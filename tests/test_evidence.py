"""What the gate needs to decide: what is not shown does not pass."""

import math
from copy import deepcopy

import pytest
from test_gate import COMPLETE, LATER, POLICY, SECOND, Report, between, report, with_value

from staytuned.registry.evidence import Standing
from staytuned.registry.gate import Decision, decide


def without(found: Report, path: str) -> Report:
    """The report without what is at a dotted path."""
    changed = deepcopy(found)
    *sections, key = path.split(".")
    place = changed
    for section in sections:
        place = place[section]
    del place[key]
    return changed


NEEDED = [
    "metrics",
    "models",
    "models.candidate",
    "models.candidate.metrics.accuracy",
    "models.candidate.metrics.macro_f1",
    "models.candidate.metrics.calibration_error",
    "models.base",
    "models.base.metrics.macro_f1",
    "models.champion",
    "models.champion.version",
    "models.best",
    "comparisons",
    "comparisons.champion",
    "comparisons.champion.macro_f1",
    "comparisons.champion.macro_f1.difference",
    "comparisons.champion.macro_f1.interval",
    "comparisons.best",
    "test",
    "test.rows",
    "test.groups",
    "sources",
    "sources.shop.rows",
    "sources.shop.groups",
    "sources.shop.champion",
    "sources.shop.best.interval",
    "comparisons.best.calibration_error",
    "classes",
    "classes.refund.support",
    "classes.refund.groups",
    "classes.refund.best",
    "classes.refund.champion.interval",
    "behaviour",
    "models.candidate.slices",
]


def test_with_all_evidence_the_candidate_passes() -> None:
    assert decide(COMPLETE, LATER, POLICY).outcome == "PROMOTE"


@pytest.mark.parametrize("path", NEEDED)
def test_missing_evidence_blocks(path: str) -> None:
    decision = decide(without(COMPLETE, path), LATER, POLICY)
    assert decision.outcome == "BLOCK"
    assert decision.reasons


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
@pytest.mark.parametrize(
    "path",
    [
        "models.candidate.metrics.accuracy",
        "models.candidate.metrics.macro_f1",
        "models.candidate.metrics.calibration_error",
        "models.base.metrics.macro_f1",
        "comparisons.champion.macro_f1.difference",
        "test.rows",
    ],
)
def test_what_is_no_number_blocks(path: str, value: float | None) -> None:
    assert decide(with_value(COMPLETE, path, value), LATER, POLICY).outcome == "BLOCK"


@pytest.mark.parametrize("interval", [[], [0.1], [math.nan, 0.1], [0.1, math.nan], [None, 0.1], None, [0.1, 0.2, 0.3]])
@pytest.mark.parametrize("other", ["champion", "best"])
def test_an_interval_that_is_none_blocks(other: str, interval: list[float] | None) -> None:
    evidence = with_value(COMPLETE, f"comparisons.{other}.macro_f1.interval", interval)
    assert decide(evidence, LATER, POLICY).outcome == "BLOCK"


def test_too_few_test_rows_are_missing_evidence() -> None:
    decision = decide(with_value(COMPLETE, "test.rows", 99), LATER, POLICY)
    said = (
        "99 test rows, under gate.min_test_rows 100: missing evidence; ingest more rows, raise split.test, or lower "
        "gate.min_test_rows"
    )
    assert decision == Decision("BLOCK", [said])


def test_test_rows_of_a_few_groups_are_missing_evidence() -> None:
    """The bootstrap draws groups: of one of them each draw is the same, and the interval has no width."""
    narrow = with_value(report(champion=(0.001, 0.001)), "test.groups", 4)
    (said,) = decide(narrow, SECOND, POLICY).reasons
    assert "the 200 test rows are of 4 groups, and it takes 5" in said and "missing evidence" in said
    assert decide(with_value(narrow, "test.groups", 5), SECOND, POLICY).outcome == "PROMOTE"


def test_a_source_of_a_few_groups_is_not_asked() -> None:
    lost = with_value(report(champion=(0.001, 0.01)), "sources.shop.champion", between(-0.5, -0.5))
    assert decide(lost, SECOND, POLICY).outcome == "BLOCK"
    decision = decide(with_value(lost, "sources.shop.groups", 4), SECOND, POLICY)
    assert (
        decision.outcome == "PROMOTE"
        and "or 5 groups, so not asked what was forgotten: shop (50 rows, 4 groups)" in decision.reasons[-1]
    )


def test_too_few_test_rows_hide_no_missed_bound_and_no_loss() -> None:
    few = with_value(
        with_value(report(champion=(-0.3, -0.1)), "test.rows", 99), "models.candidate.metrics.accuracy", 0.5
    )
    rows, accuracy, champion, _of_source = decide(few, SECOND, POLICY).reasons
    assert "99 test rows" in rows
    assert "accuracy 0.500 < gate.bounds.accuracy 0.6" in accuracy
    assert "worse" in champion


def test_a_report_on_another_champion_is_no_evidence() -> None:
    """The ledger says who the champion is; a report from before it was promoted proves nothing."""
    decision = decide(report(champion=(0.1, 0.2)), Standing(champion=9, best=9), POLICY)
    assert decision.outcome == "BLOCK"
    assert decision.reasons == [
        "version 9, the champion, was not scored beside the candidate; `staytuned sync` pins it"
    ]
    assert decide(report(), Standing(champion=9, best=9), POLICY) == decision  # what follows from that is not told
