"""What the champion says of rows, how sure it is, and how good that is."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import pandas
import pyarrow

from staytuned.entry_points import class_at
from staytuned.files import read_json, sha256
from staytuned.models import fingerprint
from staytuned.pieces import made_by, read_piece, write_piece

if TYPE_CHECKING:
    from staytuned.tasks import Task

CONTENT = ["text", "text_pair", "label"]


@dataclass(frozen=True)
class Said:
    """What is known of the champion's predictions for the rows of a frame."""

    answers: numpy.ndarray  # of all rows; empty where the task has none that can be compared
    confidence: numpy.ndarray  # probability of each answer
    judged: numpy.ndarray  # which rows have a label that the champion's task knows
    statistics: numpy.ndarray  # of those, as of the task


def task_of(folder: Path) -> "Task":
    """The task that a model was trained for, without its weights."""
    about = read_json(folder / "staytuned.json")
    made = class_at(about["class"])
    task: Task = made(made.Options.model_validate(about["task"]))
    return task


def said(folder: Path, frame: pandas.DataFrame, piece: Path) -> Said:
    """The champion's predictions for a frame, out of the piece if it was made from these rows by this model.

    Args:
        folder: The champion's.
        frame: Rows to predict, at least one.
        piece: Where the piece store keeps them.
    """
    import torch

    rows = hashlib.sha256(frame[CONTENT].to_json(orient="values").encode()).hexdigest()
    made = made_by("drift/answers.py", "predictor.py", "tasks", "modelling")
    key = f"{fingerprint(folder)} {sha256(folder / 'staytuned.json')} {torch.get_num_threads()} {made} {rows}"
    table = read_piece(piece, key)
    if table is None:
        from staytuned.predictor import Predictor

        champion = Predictor(folder)
        known = answered(champion.task, champion.predict(frame), frame)
        table = pyarrow.table({name: [values.tolist()] for name, values in known.items()})
        write_piece(piece, key, table)
    return Said(**{name: numpy.array(table[name][0].as_py()) for name in table.column_names})


def answered(task: "Task", predictions: list[Any], frame: pandas.DataFrame) -> dict[str, numpy.ndarray]:
    """What is known of predictions for a frame, as arrays by name."""
    good = numpy.array([fault is None for fault in task.faults(frame)])
    judged = good & frame["label"].notna().to_numpy() if task.labelled else good
    places = numpy.flatnonzero(judged)
    statistics = numpy.empty((0, 0))
    if len(places):
        rows = frame.iloc[places].reset_index(drop=True)
        statistics = task.statistics(rows, [predictions[place] for place in places])
    answers, confidence = task.sureness(predictions) or ([], numpy.empty(0))
    return {
        "answers": numpy.array(answers, str),
        "confidence": confidence,
        "judged": judged,
        "statistics": statistics,
    }
