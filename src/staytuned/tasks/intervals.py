"""Intervals by the paired bootstrap over groups: whole documents are drawn, for all models the same ones.

Efron & Tibshirani, An Introduction to the Bootstrap (1993), ch. 13 and 16; Koehn (2004) for the pairing.
"""

from dataclasses import dataclass

import numpy

from staytuned.tasks.text_classification import per_class


@dataclass(frozen=True)
class Draws:
    """Accuracy and macro-F1 of one model on each bootstrap draw, shape (draws,)."""

    accuracy: numpy.ndarray
    macro_f1: numpy.ndarray


def draw(groups: list[str], draws: int, seed: int) -> numpy.ndarray:
    """How often each group is in each draw, shape (draws, groups in sorted order)."""
    count = len(set(groups))
    return numpy.random.default_rng(seed).multinomial(count, numpy.full(count, 1 / count), size=draws)


def score(
    truth: numpy.ndarray, predicted: numpy.ndarray, groups: list[str], drawn: numpy.ndarray, classes: int
) -> Draws:
    """One model's metrics on each draw; a draw's macro-F1 is over the classes that occur in it."""
    _, number = numpy.unique(groups, return_inverse=True)
    counts = numpy.zeros((drawn.shape[1], classes, classes))
    numpy.add.at(counts, (number, truth, predicted), 1)
    confusion = (drawn @ counts.reshape(len(counts), -1)).reshape(-1, classes, classes)
    support = confusion.sum(axis=2)
    f1 = per_class(confusion)[2]
    occurs = support > 0
    hits = numpy.trace(confusion, axis1=1, axis2=2)
    return Draws(hits / support.sum(axis=1), (f1 * occurs).sum(axis=1) / occurs.sum(axis=1))


def interval(values: numpy.ndarray, confidence: float) -> list[float]:
    """Percentile interval, [low, high]."""
    tail = (1 - confidence) / 2
    return [float(value) for value in numpy.quantile(values, [tail, 1 - tail])]
