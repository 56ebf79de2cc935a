"""Accuracy without labels: confidence, calibrated where labels are there, averaged where they are not."""

from collections.abc import Sequence

import numpy

from staytuned.modelling.intervals import draw, interval


def estimated_accuracy(
    reference: tuple[numpy.ndarray, numpy.ndarray, Sequence[str]],
    window: tuple[numpy.ndarray, Sequence[str]],
    draws: int,
    level: float,
    seed: int,
) -> tuple[float, list[float]]:
    """The share of right answers in the window, as the confidence in them has it, and the interval of how much more
    that is than on the reference.

    Confidence becomes a probability to be right by isotonic regression on the reference (Zadrozny & Elkan 2002,
    section 3); its mean over the window is the estimate (Guillory et al. 2021, section 3, on the plain confidence).
    It holds as long as a confidence means the same in both. The groups of both are drawn anew for the interval. A wrong
    answer of confidence 0 is added to the reference: below its lowest confidence the probability falls, where isotonic
    regression alone would go on with that of the lowest, 1 if the reference has no wrong answer.

    Args:
        reference: Confidence, whether the answer is right, and group of each row.
        window: Confidence and group of each row.
        draws: Of the bootstrap.
        level: Share of draws within the interval.
        seed: Of the draws.
    """
    from sklearn.isotonic import IsotonicRegression

    known, right, groups = reference
    confidence, others = window
    count, times = _times(groups, draws, seed), _times(others, draws, seed + 1)
    known, right = numpy.append(known, 0.0), numpy.append(right, 0.0)
    calibration = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
    value = float(calibration.fit(known, right).predict(confidence).mean())
    found = []
    for weights, drawn in zip(count, times, strict=True):
        calibration.fit(known, right, sample_weight=numpy.append(weights, 1.0))
        there = numpy.average(right[:-1], weights=weights)
        found.append(numpy.average(calibration.predict(confidence), weights=drawn) - there)
    return value, interval(numpy.array(found), min(len(set(groups)), len(set(others))), level)


def _times(groups: Sequence[str], draws: int, seed: int) -> numpy.ndarray:
    """How often each row is in each bootstrap draw of groups, shape (draws, rows)."""
    _, number = numpy.unique(groups, return_inverse=True)
    return draw(list(groups), draws, seed)[:, number].astype(float)
