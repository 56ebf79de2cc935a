"""What a trained model says of rows, asked once and kept: in lots, rows that are always asked about together.

The last digits of a score depend on which rows share a forward pass. What a lot holds does not depend on what was asked
before, nor on who asks: so an answer is the same from the model and from the piece store.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import torch

from staytuned.files import read_json
from staytuned.modelling.examples import Examples
from staytuned.modelling.threads import in_threads
from staytuned.models import fingerprint
from staytuned.pieces import Pieces, made_by
from staytuned.predictor import Predictor
from staytuned.surroundings import surroundings
from staytuned.tasks import Task

CONTENT = ["text", "text_pair", "label"]


def kept_in(folder: Path, asker: str, other: str) -> Pieces:
    """The pieces of one who asks, who also takes those of another.

    Args:
        folder: Of the pieces of both.
        asker: Who asks; what it no longer asks for goes.
        other: Whose pieces are looked at as well.
    """
    made = made_by("scoring.py", "predictor.py", "tasks", "modelling")
    made = f"{made} {surroundings()} {torch.get_num_threads()}"
    return Pieces(folder / asker, made, folder / other)


def predictions(folder: Path, frame: pandas.DataFrame, pieces: Pieces) -> list[Any]:
    """What a model says of each row.

    Args:
        folder: The model's.
        frame: Whole lots, in the order of arrival, with their numbers as ``lot``; numbered from 0.
        pieces: Where answers are kept.
    """
    predictor = Predictor(folder)
    task, about = predictor.task, read_json(folder / "staytuned.json")
    model = f"{fingerprint(folder)} {about['class']} {about['task']} {about['max_tokens']}"
    examples = predictor.examples(frame)
    lots = [rows for _, rows in frame.groupby("lot")]
    keys = [f"{model} {_content_of(rows)}" for rows in lots]
    kept = {key: pieces.read(key) for key in keys}
    missing = {key: rows for key, rows in zip(keys, lots, strict=True) if kept[key] is None}
    for key, table in zip(missing, _asked(predictor, list(missing.values()), examples), strict=True):
        kept[key] = pieces.keep(key, table)
    said = dict[int, Any]()
    for key, rows in zip(keys, lots, strict=True):
        here = rows.index.tolist()
        places = here if generates(task) else [place for row in here for place in examples.by_row[row]]
        said.update(zip(places, _read(task, kept[key]), strict=True))
    in_order = [said[place] for place in range(len(said))]
    return in_order if generates(task) else task.decode(frame, examples, in_order)


def _content_of(lot: pandas.DataFrame) -> str:
    """A hash of all that a model could read of it."""
    return hashlib.sha256(lot[CONTENT].to_json(orient="values").encode()).hexdigest()


def generates(task: Task) -> bool:
    """Whether a task's predictions are more than its model's outputs, decoded."""
    return type(task).predict is not Task.predict


def _asked(predictor: Predictor, lots: list[pandas.DataFrame], examples: Examples) -> Iterator[pyarrow.Table]:
    """What the model says of each lot: outputs by example or, of a task that generates, predictions by row."""
    task, model = predictor.task, predictor.model

    def ask(rows: pandas.DataFrame) -> pyarrow.Table:
        own = examples.of_rows(rows.index.tolist())
        if generates(task):
            found = task.predict(model, predictor.tokenizer, rows.reset_index(drop=True), own)
            return pyarrow.table({"prediction": [json.dumps(prediction) for prediction in found]})
        outputs = task.outputs_of(model, own)
        shapes, values = ([list(one.shape) for one in outputs], [one.ravel() for one in outputs])
        return pyarrow.table({"shape": shapes, "values": values})

    return map(ask, lots) if generates(task) else in_threads(ask, lots)


def _read(task: Task, table: pyarrow.Table) -> list[Any]:
    if generates(task):
        return [task.from_json(json.loads(prediction)) for prediction in table["prediction"].to_pylist()]
    shaped = zip(table["values"].to_numpy(), table["shape"].to_pylist(), strict=True)
    return [values.reshape(shape) for values, shape in shaped]
