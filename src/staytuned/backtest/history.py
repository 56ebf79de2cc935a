"""The rows of a workspace in the order of their arrival, encoded once for all policies."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pandas
import pyarrow.parquet
import torch
from tokenizers import Tokenizer

from staytuned import tasks
from staytuned.data.batches import manifest
from staytuned.data.sides import KEPT_OUT, TEST, TRAIN, VALIDATION, rows_of
from staytuned.drift.embedding import embedded
from staytuned.drift.views import texts_of
from staytuned.errors import DataError, TrainingError
from staytuned.modelling.device import make_deterministic
from staytuned.modelling.examples import Examples
from staytuned.modelling.heads import backbone
from staytuned.models import base_of
from staytuned.params import Params
from staytuned.sections import Train
from staytuned.tasks import Side, Task
from staytuned.training.continual import continued, mean_with
from staytuned.training.cost import tokens_of
from staytuned.training.loop import fit, steps_in
from staytuned.training.state import Weights
from staytuned.workspace import Workspace

SIDES = (TRAIN, VALIDATION, TEST)


@dataclass(frozen=True)
class History:
    """All rows of each side, and the arrival that each came with, counted from 0."""

    task: Task
    params: Params
    base: Path
    sides: dict[str, Side]
    arrival: dict[str, numpy.ndarray]  # by side, shape (rows,)
    everything: pandas.DataFrame  # the rows of all sides in the order of arrival, with ``side`` and ``arrival``
    vectors: numpy.ndarray  # embeddings of them
    arrivals: list[str]  # names of the files that they came in

    @classmethod
    def read(cls, workspace: Workspace, params: Params) -> "History":
        """What validate, split and encode left in the workspace.

        Raises:
            DataError: there are fewer than two arrivals, or the first cannot be learned from.
        """
        batches, task = manifest(workspace), tasks.load(params)
        if len(batches) < 2:
            raise DataError(f"a backtest needs at least 2 batches, and there are {len(batches)}; ingest more")
        number = {batch.batch[:16]: place for place, batch in enumerate(batches)}
        base = base_of(workspace, params)
        task.read(base)
        everything = _everything(workspace, number)
        frames = {side: rows_of(workspace, side) for side in SIDES}
        arrival = {side: frame["batch"].map(number).to_numpy() for side, frame in frames.items()}
        lacking = [side for side in SIDES if 0 not in arrival[side]]
        if lacking:
            raise DataError(
                f"the first batch, {batches[0].file}, has no row for {' and '.join(lacking)}, so no model could "
                "be trained and judged when it came; let it be larger, or enlarge split.validation and split.test"
            )
        return cls(
            task,
            params,
            base,
            {side: Side(frames[side], Examples.read(workspace.encoded / f"{side}.arrow")) for side in SIDES},
            arrival,
            everything,
            embedded(texts_of(everything), base, params.encode.max_tokens, workspace.embeddings),
            [batch.file for batch in batches],
        )

    def until(self, side: str, arrival: int) -> numpy.ndarray:
        """Places of the rows of a side that are there when ``arrival`` has come."""
        return numpy.flatnonzero(self.arrival[side] <= arrival)

    def some(self, side: str, rows: numpy.ndarray) -> Side:
        """Some rows of a side."""
        whole = self.sides[side]
        return Side(whole.frame.iloc[rows].reset_index(drop=True), whole.examples.of_rows(rows.tolist()))

    def judged(self, arrival: int) -> numpy.ndarray:
        """Which test rows judge the model that serves after ``arrival``: all of the sources that were seen by then."""
        frame = self.sides[TEST].frame
        seen = set(frame["source"][self.arrival[TEST] <= arrival])
        return frame["source"].isin(seen).to_numpy()


def _everything(workspace: Workspace, number: dict[str, int]) -> pandas.DataFrame:
    rows = pyarrow.parquet.read_table(workspace.accepted).to_pandas()
    split = pyarrow.parquet.read_table(workspace.split, columns=["side", "group"]).to_pandas()
    whole = rows.assign(side=split["side"], group=split["group"], arrival=rows["batch"].map(number))
    kept: pandas.DataFrame = whole[whole["side"] != KEPT_OUT].reset_index(drop=True)
    return kept


@dataclass(frozen=True)
class Version:
    """A model that was trained in a backtest."""

    number: int
    arrival: int
    learned: numpy.ndarray  # places of the training rows that it, or what it was made of, learned from
    weights: Weights
    said: list[Any]  # its predictions for all test rows
    tokens: int  # that its training read, each time they were read


def learn(
    history: History, rows: numpy.ndarray, arrival: int, before: Version | None, number: int, seed: int
) -> Version:
    """Train on some rows, from the base model or on from another version.

    Args:
        history: Whose rows.
        rows: Places of the training rows.
        arrival: The last that has come.
        before: The version to go on from; None for the base model.
        number: Of the new version.
        seed: Of the training.
    """
    options = history.params.train.model_copy(update={"seed": seed, "processes": 1, "sharded": False})
    if before:
        options = continued(options)
    make_deterministic(seed, options.threads)
    model = model_of(history, options, before)
    train = history.some(TRAIN, rows).examples
    validation = history.some(VALIDATION, history.until(VALIDATION, arrival))
    done = 0

    def step_done() -> None:
        nonlocal done
        done += 1

    weights, _ = fit(history.task, model, train, validation, options, lambda point: None, step_done)
    tokens = tokens_of(train, options) * done / steps_in(len(train), options)
    learned = rows
    if before:
        weights = mean_with(before.weights, weights, options.champion_share)
        learned = numpy.union1d(rows, before.learned)
    model.load_state_dict(weights)
    said = predict(history, model, history.sides[TEST].frame)
    return Version(number, arrival, learned, weights, said, round(tokens))


def model_of(history: History, options: Train, before: Version | None) -> torch.nn.Module:
    """The base model under the task's head, or a version."""
    task = history.task
    model = task.model(backbone(task.kind, history.base, options.dropout, pretrained=True), options.dropout)
    if options.lora or options.frozen:
        raise TrainingError("a backtest trains all weights; set train.lora and train.frozen to null")
    if before:
        model.load_state_dict(before.weights)
    return model


def predict(history: History, model: torch.nn.Module, frame: pandas.DataFrame) -> list[Any]:
    """Predictions for rows."""
    tokenizer = Tokenizer.from_file(str(history.base / "tokenizer.json"))
    history.task.adapt(tokenizer, history.params.encode.max_tokens)
    table = history.task.encode(tokenizer, frame)
    examples = Examples(table.append_column("row", table["place"].cast("string")))
    return history.task.predict(model.eval(), tokenizer, frame, examples)
