"""Intervals by the paired bootstrap over groups: whole documents are drawn, for all models the same ones.

Efron & Tibshirani, An Introduction to the Bootstrap (1993), ch. 13 and 16; Koehn (2004) for the pairing.
"""

import numpy


def draw(groups: list[str], draws: int, seed: int) -> numpy.ndarray:
    """How often each group is in each draw, shape (draws, groups in sorted order)."""
    count = len(set(groups))
    return numpy.random.default_rng(seed).multinomial(count, numpy.full(count, 1 / count), size=draws)


def resampled(statistics: numpy.ndarray, groups: list[str], drawn: numpy.ndarray) -> numpy.ndarray:
    """The sums of a model's statistics on each draw, shape (draws, statistics).

    Args:
        statistics: What its metrics are made of, shape (rows, statistics); a metric of rows is one of their sum.
        groups: Group of each row.
        drawn: From ``draw``.
    """
    _, number = numpy.unique(groups, return_inverse=True)
    sums = numpy.zeros((drawn.shape[1], statistics.shape[1]))
    numpy.add.at(sums, number, statistics)
    return drawn @ sums


def interval(values: numpy.ndarray, confidence: float) -> list[float]:
    """Percentile interval, [low, high]."""
    tail = (1 - confidence) / 2
    return [float(value) for value in numpy.quantile(values, [tail, 1 - tail])]
