"""Metrics of classes, from how often each was hit, predicted and actual: three counts of each class."""

import numpy


def per_class(counts: numpy.ndarray) -> numpy.ndarray:
    """Precision, recall and F1, shape (3, ..., classes).

    A class that is never predicted has precision 0, one that never occurs has recall 0.

    Args:
        counts: Of each class hits, predicted and actual, shape (..., 3, classes).
    """
    hits, predicted, actual = numpy.moveaxis(counts, -2, 0)
    precision = hits / numpy.maximum(predicted, 1)
    recall = hits / numpy.maximum(actual, 1)
    return numpy.stack([precision, recall, 2 * hits / numpy.maximum(predicted + actual, 1)])


def macro_f1(counts: numpy.ndarray) -> numpy.ndarray:
    """Mean F1 of the classes that occur, shape (...); 0 where none does.

    Args:
        counts: As of ``per_class``.
    """
    occurs = counts[..., 2, :] > 0
    mean: numpy.ndarray = (per_class(counts)[2] * occurs).sum(axis=-1) / numpy.maximum(occurs.sum(axis=-1), 1)
    return mean


def class_table(names: list[str], counts: numpy.ndarray) -> dict[str, dict[str, float]]:
    """For the report: precision, recall, F1 and occurrences of each class.

    Args:
        names: Of the classes.
        counts: Shape (3, classes).
    """
    rows = zip(names, *per_class(counts), counts[2], strict=True)
    return {
        name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
        for name, p, r, f, n in rows
    }
