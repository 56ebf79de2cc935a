"""When a retraining is due: each trigger says why it fired or what it waits for; no champion and the ceiling rule."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staytuned.drift.triggers import Measured, Situation, decide
from staytuned.policy import DriftTrigger, Triggers

OFF = Triggers(
    max_age_days=None,
    new_rows=None,
    drift=None,
    quality_drop=None,
    estimated_drop=None,
    retry_growth=1.5,
    cost_ceiling=None,
)
QUIET = Situation(
    champion=3,
    age=2.0,
    new_rows=412,
    tried_rows=0,
    alarms=(),
    measured=None,
    estimated=None,
    cost=1_000_000,
    spent=3_000_000,
)


def policy(**values: Any) -> Triggers:
    return OFF.model_copy(update=values)


def f1(low: float, high: float, reference: float = 0.80) -> Measured:
    """So far above or below the reference, by the interval."""
    return Measured("macro-F1", True, 200, reference + (low + high) / 2, reference, (low, high))


def perplexity(low: float, high: float) -> Measured:
    return Measured("perplexity", False, 200, 20.0 + (low + high) / 2, 20.0, (low, high))


TWO_OF_THREE = DriftTrigger(alarms=2, windows=3)


@pytest.mark.parametrize(
    ("situation", "asked", "retrain", "said"),
    [
        # age
        ({"age": 29.94}, {"max_age_days": 30}, False, "29.9 of 30 days since the last training"),
        ({"age": 31.2}, {"max_age_days": 30}, True, "31.2 of 30 days since the last training"),
        ({"age": None}, {"max_age_days": 30}, False, "the time of the last training is not known"),
        ({"age": -2.0}, {"max_age_days": 30}, False, "the clock stands 2.0 days before the last training"),
        # rows
        ({}, {"new_rows": 2000}, False, "412 of 2,000 new rows"),
        ({"new_rows": 2000}, {"new_rows": 2000}, True, "2,000 of 2,000 new rows"),
        # drift
        ({}, {"drift": TWO_OF_THREE}, False, "no window of new rows yet; 2 of 3 are asked for"),
        ({"alarms": (True,)}, {"drift": TWO_OF_THREE}, False, "drift in 1 of the last 1 windows; 2 of 3"),
        ({"alarms": (True, False, True)}, {"drift": TWO_OF_THREE}, True, "drift in 2 of the last 3 windows"),
        ({"alarms": (True, True, False, False)}, {"drift": TWO_OF_THREE}, False, "drift in 1 of the last 3 windows"),
        # measured quality, at the interval's better end
        ({}, {"quality_drop": 0.03}, False, "quality on new labels is not known yet"),
        ({"measured": f1(-0.10, -0.02)}, {"quality_drop": 0.03}, False, "no loss of more than 0.03 is shown"),
        (
            {"measured": f1(-0.10, -0.04)},
            {"quality_drop": 0.03},
            True,
            "quality on new labels: macro-F1 0.730 on 200 new rows, 0.800 on the reference: a change of -0.100 to "
            "-0.040; a loss of more than 0.03 is shown",
        ),
        ({"measured": perplexity(-1, 5)}, {"quality_drop": 1.0}, False, "no loss of more than 1 is shown"),
        (
            {"measured": perplexity(2, 5)},
            {"quality_drop": 1.0},
            True,
            "20.000 on the reference: a change of +2.000 to +5.000",
        ),
        # estimated quality
        ({}, {"estimated_drop": 0.05}, False, "estimated quality is not known yet"),
        ({"estimated": f1(-0.2, -0.1)}, {"estimated_drop": 0.05}, True, "estimated quality: macro-F1 0.650"),
        # after a candidate in vain: what was seen of the champion waits for more rows, what counts does not
        (
            {"alarms": (True, True), "new_rows": 99, "tried_rows": 200},
            {"drift": TWO_OF_THREE},
            False,
            "drift in 2 of the last 2 windows; 2 of 3 are asked for; that was answered by a candidate that was not "
            "promoted, on 200 rows that are new to the champion; it asks again at 300, and there are 299 "
            "(triggers.retry_growth 1.5)",
        ),
        ({"alarms": (True, True), "new_rows": 100, "tried_rows": 200}, {"drift": TWO_OF_THREE}, True, "drift in 2"),
        ({"measured": f1(-0.1, -0.04), "new_rows": 99, "tried_rows": 200}, {"quality_drop": 0.03}, False, "at 300"),
        ({"estimated": f1(-0.2, -0.1), "new_rows": 99, "tried_rows": 200}, {"estimated_drop": 0.05}, False, "at 300"),
        ({"new_rows": 99, "tried_rows": 200}, {"new_rows": 99}, True, "99 of 99 new rows"),
        ({"age": 31.2, "new_rows": 0, "tried_rows": 200}, {"max_age_days": 30}, True, "31.2 of 30 days"),
        ({"new_rows": 99, "tried_rows": 200}, {"drift": TWO_OF_THREE}, False, "no window of new rows yet; 2 of 3 are"),
        # the ceiling
        ({"new_rows": 2000}, {"new_rows": 2000, "cost_ceiling": 4_000_000}, True, "2,000 of 2,000"),
        (
            {"new_rows": 2000, "cost": 1_000_001},
            {"new_rows": 2000, "cost_ceiling": 4_000_000},
            False,
            "a retraining is due, but not allowed: it takes about 1,000,001 training tokens, and 3,000,000 of the "
            "4,000,000 of triggers.cost_ceiling were spent in the last 30 days",
        ),
        # the first
        ({"champion": None, "cost": 9_000_000}, {"cost_ceiling": 1}, True, "there is no champion yet"),
        ({}, {}, False, "every trigger is off"),
    ],
)
def test_each_trigger_fires_or_waits_in_words_and_numbers(
    situation: dict[str, Any], asked: dict[str, Any], retrain: bool, said: str
) -> None:
    answer = decide(replace(QUIET, **situation), policy(**asked))
    assert answer.retrain is retrain
    assert any(said in line for line in (answer.reasons if retrain else answer.waiting)), answer


def test_what_fired_stands_in_the_reasons_and_the_rest_waits() -> None:
    answer = decide(replace(QUIET, age=40.0), policy(max_age_days=30, new_rows=2000, quality_drop=0.03))
    assert answer.reasons == ["40.0 of 30 days since the last training"]
    assert answer.waiting == ["412 of 2,000 new rows", "quality on new labels is not known yet"]
    assert answer.expected_cost == 1_000_000


def test_what_the_ceiling_forbids_still_stands_in_the_reasons() -> None:
    answer = decide(replace(QUIET, age=40.0), policy(max_age_days=30, cost_ceiling=1))
    assert answer.reasons == ["40.0 of 30 days since the last training"]


def test_where_there_is_nothing_to_learn_no_trigger_asks_for_it() -> None:
    due, asked = replace(QUIET, age=31.0), policy(max_age_days=30)
    assert decide(due, asked).retrain
    answer = decide(replace(due, cost=0), asked)
    assert not answer.retrain
    assert answer.waiting == ["no training row is new to the champion, from which training is to go on"]


numbers = st.floats(-1, 1)
measured = st.builds(
    Measured, st.just("accuracy"), st.booleans(), st.integers(1), numbers, numbers, st.tuples(numbers, numbers)
)
situations = st.builds(
    Situation,
    champion=st.integers(1) | st.none(),
    age=st.floats(-1e6, 1e6) | st.none(),
    new_rows=st.integers(0, 10**9),
    tried_rows=st.integers(0, 10**9),
    alarms=st.lists(st.booleans(), max_size=8).map(tuple),
    measured=measured | st.none(),
    estimated=measured | st.none(),
    cost=st.integers(0, 10**12),
    spent=st.integers(0, 10**12),
)
drifts = st.integers(1, 5).flatmap(
    lambda most: st.builds(DriftTrigger, alarms=st.integers(1, most), windows=st.just(most))
)
policies = st.builds(
    Triggers,
    max_age_days=st.floats(0.1, 1e6) | st.none(),
    new_rows=st.integers(1, 10**9) | st.none(),
    drift=drifts | st.none(),
    quality_drop=st.floats(0, 1) | st.none(),
    estimated_drop=st.floats(0, 1) | st.none(),
    retry_growth=st.floats(1, 100),
    cost_ceiling=st.integers(1, 10**12) | st.none(),
)


@given(situations, policies, st.integers(0, 10**9))
def test_more_rows_never_take_an_alarm_back(situation: Situation, asked: Triggers, more: int) -> None:
    later = replace(situation, new_rows=situation.new_rows + more)
    assert decide(later, asked).retrain >= decide(situation, asked).retrain


@given(situations, policies)
def test_above_the_ceiling_nothing_is_retrained_but_a_first_model(situation: Situation, asked: Triggers) -> None:
    ceiling = situation.spent + situation.cost - 1
    if ceiling < 1:
        return
    answer = decide(situation, asked.model_copy(update={"cost_ceiling": ceiling}))
    assert answer.retrain == (situation.champion is None)
    assert answer.reasons == [] or answer.retrain or "triggers.cost_ceiling" in answer.waiting[0]


@given(situations)
def test_with_every_trigger_off_only_a_first_model_is_trained(situation: Situation) -> None:
    assert decide(situation, OFF).retrain == (situation.champion is None)


@given(situations, policies)
def test_an_answer_always_says_something(situation: Situation, asked: Triggers) -> None:
    answer = decide(situation, asked)
    assert (answer.reasons if answer.retrain else answer.waiting) != []
