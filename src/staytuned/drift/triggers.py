"""Is a retraining due? One pure function from what is known and the policy to an answer with its reasons."""

import math
from dataclasses import dataclass
from typing import Any

from staytuned.policy import Triggers

PERIOD = 30  # days that the cost ceiling looks back on


@dataclass(frozen=True)
class Measured:
    """A metric of the champion on rows that it was not trained on, beside the same metric on its reference rows."""

    title: str
    higher_is_better: bool
    rows: int
    value: float
    reference: float
    change: tuple[float, float]  # from the reference: the interval of both values' difference

    @property
    def drop(self) -> float:
        """How much worse than on the reference it is at the interval's better end: at least this much was lost."""
        low, high = self.change
        return -high if self.higher_is_better else low

    def __str__(self) -> str:
        low, high = self.change
        return (
            f"{self.title} {self.value:.3f} on {self.rows:,} new rows, {self.reference:.3f} on the reference: a change "
            f"of {low:+.3f} to {high:+.3f}"
        )


def measured(drift: dict[str, Any]) -> Measured | None:
    """The task's first metric as the drift stage found it; None where there were no labels."""
    window, metric, change = (
        drift["window"],
        drift["metric"],
        drift["window"].get("change"),
    )  # a report of before has none
    if change is None:
        return None
    values = window["metric"], drift["reference"]["metric"], tuple(change)
    return Measured(metric["title"], metric["higher_is_better"], _asked(window), *values)


def estimated(drift: dict[str, Any]) -> Measured | None:
    """The accuracy that the drift stage estimated without labels; None where it could not."""
    found, reference = drift["estimated_accuracy"], drift["reference"]["accuracy"]
    if found is None or "change" not in found:
        return None
    return Measured("accuracy", True, _asked(drift["window"]), found["value"], reference, tuple(found["change"]))


def _asked(window: dict[str, Any]) -> int:
    """Of how many rows answers were looked at; a stage of before did not say, and looked at all."""
    asked: int = window.get("asked", window["rows"])
    return asked


@dataclass(frozen=True)
class Situation:
    """What is known when it is asked."""

    champion: int | None  # version
    age: float | None  # days since the last training; None: not known
    new_rows: int  # labelled, and in no training yet
    tried_rows: int  # new to the champion too, and learned in vain by a candidate that was not promoted
    alarms: tuple[bool, ...]  # of the champion's windows, the newest last
    measured: Measured | None  # the task's first metric, on new labelled rows
    estimated: Measured | None  # accuracy, without their labels
    cost: int  # training tokens that a retraining is expected to take; 0: there is nothing to learn
    spent: int  # training tokens of the last ``PERIOD`` days


@dataclass(frozen=True)
class Answer:
    """Whether to retrain, and why."""

    retrain: bool
    reasons: list[str]  # the triggers that fired, in words and numbers
    waiting: list[str]  # what the others wait for, and what forbids
    expected_cost: int  # training tokens


def decide(situation: Situation, policy: Triggers) -> Answer:
    """Retrain if any trigger fires, unless that costs more than the ceiling allows; without a champion, always."""
    cost = situation.cost
    if situation.champion is None:
        return Answer(True, ["there is no champion yet"], [], cost)
    if cost == 0:
        return Answer(False, [], ["no training row is new to the champion, from which training is to go on"], cost)
    counted, observed = (
        [found for trigger in triggers if (found := trigger(situation, policy))]
        for triggers in ((_age, _rows), (_drift, _quality, _estimate))
    )
    said = [*counted, *_answered(observed, situation, policy.retry_growth)]
    reasons = [why for fired, why in said if fired]
    waiting = [why for fired, why in said if not fired]
    ceiling = policy.cost_ceiling
    if reasons and ceiling is not None and situation.spent + cost > ceiling:
        above = (
            f"a retraining is due, but not allowed: it takes about {cost:,} training tokens, and {situation.spent:,} "
            f"of the {ceiling:,} of triggers.cost_ceiling were spent in the last {PERIOD} days"
        )
        return Answer(False, reasons, [above, *waiting], cost)
    return Answer(bool(reasons), reasons, waiting or ([] if said else ["every trigger is off"]), cost)


Fired = tuple[bool, str]  # whether a trigger fired, and why or what it waits for
Said = Fired | None  # None: it is off


def _answered(observed: list[Fired], situation: Situation, growth: float) -> list[Fired]:
    """What was seen of the champion stays true until it goes: after a candidate in vain it asks again of more rows."""
    rows, wanted = situation.new_rows + situation.tried_rows, math.ceil(growth * situation.tried_rows)
    if rows >= wanted or not any(fired for fired, _ in observed):
        return observed
    waits = (
        f"that was answered by a candidate that was not promoted, on {situation.tried_rows:,} rows that are new to the "
        f"champion; it asks again at {wanted:,}, and there are {rows:,} (triggers.retry_growth {growth:g})"
    )
    return [(False, f"{why}; {waits}" if fired else why) for fired, why in observed]


def _age(situation: Situation, policy: Triggers) -> Said:
    wanted, age = policy.max_age_days, situation.age
    if wanted is None:
        return None
    if age is None:
        return False, "the time of the last training is not known"
    if age < 0:
        return False, f"the clock stands {-age:.1f} days before the last training; its age is not judged"
    return age >= wanted, f"{age:.1f} of {wanted:g} days since the last training"


def _rows(situation: Situation, policy: Triggers) -> Said:
    if policy.new_rows is None:
        return None
    return situation.new_rows >= policy.new_rows, f"{situation.new_rows:,} of {policy.new_rows:,} new rows"


def _drift(situation: Situation, policy: Triggers) -> Said:
    if policy.drift is None:
        return None
    last = situation.alarms[-policy.drift.windows :]
    found = f"drift in {sum(last)} of the last {len(last)} windows" if last else "no window of new rows yet"
    return sum(last) >= policy.drift.alarms, f"{found}; {policy.drift.alarms} of {policy.drift.windows} are asked for"


def _quality(situation: Situation, policy: Triggers) -> Said:
    return _drop(situation.measured, policy.quality_drop, "quality on new labels")


def _estimate(situation: Situation, policy: Triggers) -> Said:
    return _drop(situation.estimated, policy.estimated_drop, "estimated quality")


def _drop(measured: Measured | None, allowed: float | None, what: str) -> Said:
    if allowed is None:
        return None
    if measured is None:
        return False, f"{what} is not known yet"
    if measured.drop > allowed:
        return True, f"{what}: {measured}; a loss of more than {allowed:g} is shown"
    return False, f"{what}: {measured}; no loss of more than {allowed:g} is shown"
