"""What a trained model says of rows, asked once and kept: in lots, rows that are always asked about together.

The last digits of a score depend on which rows share a forward pass. What a lot holds does not depend on what was asked
before, nor on who asks: so an answer is the same from the model and from the piece store.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas
import pyarrow

from staytuned.files import read_json
from staytuned.modelling.examples import Examples
from staytuned.models import fingerprint
from staytuned.pieces import Pieces, made_by
from staytuned.predictor import Predictor
from staytuned.tasks import Task

CONTENT = ["text", "text_pair", "label"]


def kept_in(folder: Path, asker: str, other: str) -> Pieces:
    """The pieces of one who asks, who also takes those of another.

    Args:
        folder: Of the pieces of both.
        asker: Who asks; what it no longer asks for goes.
        other: Whose pieces are looked at as well.
    """
    import torch

    made = f"{made_by('scoring.py', 'predictor.py', 'tasks', 'modelling')} {torch.get_num_threads()}"
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
    said = dict[int, Any]()
    for _, rows in frame.groupby("lot"):
        content, here = rows[CONTENT].to_json(orient="values"), rows.index.tolist()
        key = f"{model} {hashlib.sha256(content.encode()).hexdigest()}"
        table = pieces.read(key)
        if table is None:
            table = pieces.keep(key, _asked(predictor, rows, examples.of_rows(here)))
        places = here if generates(task) else [place for row in here for place in examples.by_row[row]]
        said.update(zip(places, _read(task, table), strict=True))
    in_order = [said[place] for place in range(len(said))]
    return in_order if generates(task) else task.decode(frame, examples, in_order)


def generates(task: Task) -> bool:
    """Whether a task's predictions are more than its model's outputs, decoded."""
    return type(task).predict is not Task.predict


def _asked(predictor: Predictor, rows: pandas.DataFrame, examples: Examples) -> pyarrow.Table:
    """What the model says of a lot: outputs by example or, of a task that generates, predictions by row."""
    task = predictor.task
    if generates(task):
        found = task.predict(predictor.model, predictor.tokenizer, rows.reset_index(drop=True), examples)
        return pyarrow.table({"prediction": [json.dumps(prediction) for prediction in found]})
    outputs = task.outputs_of(predictor.model, examples)
    shapes, values = ([list(one.shape) for one in outputs], [one.ravel() for one in outputs])
    return pyarrow.table({"shape": shapes, "values": values})


def _read(task: Task, table: pyarrow.Table) -> list[Any]:
    if generates(task):
        return [task.from_json(json.loads(prediction)) for prediction in table["prediction"].to_pylist()]
    shaped = zip(table["values"].to_numpy(), table["shape"].to_pylist(), strict=True)
    return [values.reshape(shape) for values, shape in shaped]
