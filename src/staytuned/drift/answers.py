"""What the champion says of rows, how sure it is, and how good that is."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import pandas

if TYPE_CHECKING:
    from staytuned.pieces import Pieces
    from staytuned.tasks import Task


@dataclass(frozen=True)
class Said:
    """What is known of the champion's predictions for the rows of a frame."""

    answers: numpy.ndarray  # of all rows; empty where the task has none that can be compared
    confidence: numpy.ndarray  # probability of each answer
    judged: numpy.ndarray  # which rows have a label that the champion's task knows
    statistics: numpy.ndarray  # of those, as of the task


def said(folder: Path, frame: pandas.DataFrame, together: pandas.DataFrame, pieces: "Pieces") -> Said:
    """The champion's predictions for a frame.

    Args:
        folder: The champion's.
        frame: Rows to predict, at least one.
        together: With all rows that are asked about together with them, and their ``lot``.
        pieces: Where answers are kept.
    """
    from staytuned.scoring import predictions
    from staytuned.tasks import trained

    wanted = together["lot"].isin(together["lot"][together["row"].isin(frame["row"])])
    rows = together[wanted].reset_index(drop=True)
    known = dict(zip(rows["row"], predictions(folder, rows, pieces), strict=True))
    return answered(trained(folder), [known[row] for row in frame["row"]], frame)


def answered(task: "Task", predictions: list[Any], frame: pandas.DataFrame) -> Said:
    """What is known of predictions for a frame."""
    good = numpy.array([fault is None for fault in task.faults(frame)])
    judged = good & frame["label"].notna().to_numpy() if task.labelled else good
    places = numpy.flatnonzero(judged)
    statistics = numpy.empty((0, 0))
    if len(places):
        rows = frame.iloc[places].reset_index(drop=True)
        statistics = task.statistics(rows, [predictions[place] for place in places])
    answers, confidence = task.sureness(predictions) or ([], numpy.empty(0))
    return Said(numpy.array(answers, str), confidence, judged, statistics)
