"""Text classification, one label of several: columns, contract, labels, metrics."""

from dataclasses import dataclass
from typing import Any

import numpy
import pandas

from staytuned.data.contract import Contract
from staytuned.params import Params


@dataclass(frozen=True)
class TextClassification:
    """The task under the workspace's params."""

    params: Params

    def contract(self) -> Contract:
        """What a row must be to be used."""
        return Contract(
            labels=self.params.task.labels,
            max_characters=self.params.validate_.max_characters,
            columns=["row", "text", "label", "source", "group", "problem", *self.params.ingest.columns.keep],
        )

    def labels(self, frame: pandas.DataFrame) -> pandas.Series:
        """The label of each row: its column, or made from its rating; null where there is none."""
        rule = self.params.task.label_from_rating
        if rule is None:
            return frame["label"]
        rating = pandas.to_numeric(frame[rule.column], errors="coerce")
        negative, neutral, positive = self.params.task.labels
        label = pandas.Series(neutral, index=frame.index, dtype="str")
        label = label.mask(rating < rule.negative_below, negative).mask(rating > rule.positive_above, positive)
        return label.where(rating.notna())

    def metrics(self, truth: numpy.ndarray, logits: numpy.ndarray) -> dict[str, Any]:
        """What one model achieves on rows.

        Args:
            truth: Class numbers, shape (rows,).
            logits: Shape (rows, classes).

        Returns:
            accuracy; macro_f1 over the classes that occur in the truth; calibration_error (expected, 15 bins of
            equal width; Guo et al. 2017, section 3); per_class precision, recall, F1, support; confusion, rows
            being the truth.
        """
        names = self.params.task.labels
        predicted = logits.argmax(axis=1)
        confusion = numpy.zeros((len(names), len(names)), dtype=int)
        numpy.add.at(confusion, (truth, predicted), 1)
        precision, recall, f1 = per_class(confusion)
        support = confusion.sum(axis=1)
        return {
            "accuracy": float((truth == predicted).mean()),
            "macro_f1": float(f1[support > 0].mean()),
            "calibration_error": calibration_error(truth, logits),
            "per_class": {
                name: {
                    "precision": float(precision[i]),
                    "recall": float(recall[i]),
                    "f1": float(f1[i]),
                    "support": int(support[i]),
                }
                for i, name in enumerate(names)
            },
            "confusion": confusion.tolist(),
        }


def per_class(confusion: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """Precision, recall and F1 of each class, shape (..., classes), from counts of shape (..., truth, predicted).

    A class that is never predicted has precision 0, one that never occurs has recall 0.
    """
    hits = numpy.diagonal(confusion, axis1=-2, axis2=-1)
    predicted, actual = confusion.sum(axis=-2), confusion.sum(axis=-1)
    precision = hits / numpy.maximum(predicted, 1)
    recall = hits / numpy.maximum(actual, 1)
    return precision, recall, 2 * hits / numpy.maximum(predicted + actual, 1)


def softmax(logits: numpy.ndarray) -> numpy.ndarray:
    """Probabilities, shape (rows, classes)."""
    powers: numpy.ndarray = numpy.exp(logits - logits.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers


def calibration_error(truth: numpy.ndarray, logits: numpy.ndarray, bins: int = 15) -> float:
    """Mean distance between confidence and accuracy, weighted by the rows in each bin of confidence."""
    probabilities = softmax(logits.astype(numpy.float64))
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == truth
    place = numpy.minimum((confidence * bins).astype(int), bins - 1)
    gaps = numpy.bincount(place, right, bins) - numpy.bincount(place, confidence, bins)
    return float(numpy.abs(gaps).sum() / len(truth))
