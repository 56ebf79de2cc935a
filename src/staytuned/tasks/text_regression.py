"""Text regression: a number for a text, or one of several levels in order."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy
import pandas
import pyarrow
from pydantic import Field, field_validator

from staytuned.modelling.examples import Examples
from staytuned.sections import Name, TaskOptions, distinct
from staytuned.tasks import Batch, Metric, Side, Task

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer


class Options(TaskOptions):
    """The range of the numbers; or levels, from the lowest to the highest."""

    low: float | None
    high: float | None
    levels: Annotated[list[Name], Field(min_length=2)] | None

    @field_validator("levels")
    @classmethod
    def _once(cls, value: list[str] | None) -> list[str] | None:
        return distinct(value) if value else value

    @classmethod
    def contradictions(cls, raw: dict[str, Any]) -> list[str]:
        """Numbers have a range, levels make it."""
        low, high, levels = (raw["task"][name] for name in ("low", "high", "levels"))
        if levels is not None and (low is not None or high is not None):
            return ["task.levels, task.low and task.high are set; levels make the range, so set low and high to null"]
        if levels is None and (low is None or high is None):
            return ["task.low or task.high is null; set both to the range of the labels, or set task.levels"]
        if levels is None and low >= high:
            return [f"task.low: is {low}, not under task.high, which is {high}; change one of the two"]
        return []


class TextRegression(Task):
    """The mean of the encoder's states under a linear head of one output; a prediction is a number.

    The label is a number from ``low`` to ``high``, learned on the scale from -1 to 1: a head that starts near nothing
    starts in the middle. Levels are learned as their numbers 0, 1, 2..., as if the steps between them were equal, and
    the nearest is the answer.
    """

    Options = Options
    columns: ClassVar[tuple[str, ...]] = ("text", "label")
    can_be_part: ClassVar[bool] = True
    freezable = True
    metrics = (
        Metric("mae", "mean absolute error", higher_is_better=False),
        Metric("spearman", "Spearman correlation"),
    )
    before = "frozen embeddings with ridge regression"
    start = {
        "task": {"low": 1.0, "high": 5.0, "levels": None},
        "train": {"epochs": 4, "learning_rate": 2.0e-4, "sharpness": 0.0},
        "gate": {"bounds": {"mae": 1.0, "spearman": 0.4}},
    }

    @property
    def classes(self) -> list[str]:
        """The levels, if there are any."""
        return self.options.levels or []

    @property
    def answers(self) -> Any:
        """The levels, or the range."""
        return self.classes or list(self.range)

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest label, as numbers."""
        return (0.0, len(self.classes) - 1.0) if self.classes else (self.options.low, self.options.high)

    def faults(self, frame: pandas.DataFrame) -> list[str | None]:
        """A label that is no level, no number, or out of range."""
        return [self._fault(label) for label in frame["label"]]

    def _fault(self, label: Any) -> str | None:
        if not isinstance(label, str) or label in self.classes:
            return None  # the contract says what lacks a label
        if self.classes:
            return f"label is none of {', '.join(self.classes)}: {label!r}"
        value, (low, high) = _number(label), self.range
        if not math.isfinite(value):
            return f"label is no finite number: {label!r}"
        return None if low <= value <= high else f"label is not from {low:g} to {high:g}: {label!r}"

    def encode(self, tokenizer: "Tokenizer", frame: pandas.DataFrame) -> pyarrow.Table:
        """Token ids; ``target``: the label on the scale from -1 to 1, not a number where there is none."""
        low, high = self.range
        target = 2 * (self._truth(frame) - low) / (high - low) - 1
        return self.tokenized(tokenizer, frame).append_column("target", [target])

    def _truth(self, frame: pandas.DataFrame) -> numpy.ndarray:
        """Labels as numbers, shape (rows,)."""
        number = self.classes.index if self.classes else _number
        return numpy.array([number(label) if isinstance(label, str) else math.nan for label in frame["label"]], float)

    def batch(self, examples: Examples, places: list[int], random: numpy.random.Generator | None) -> Batch:
        """Token ids and their mask; targets."""
        import torch

        return Batch(self.text_inputs(examples, places), torch.from_numpy(examples.column("target")[places]).float())

    def model(self, backbone: Any, dropout: float) -> "torch.nn.Module":
        """A linear head on the mean of the states."""
        from staytuned.modelling.heads import PooledHead

        return PooledHead(backbone, self.width, dropout)

    @property
    def width(self) -> int:
        """One output: the number."""
        return 1

    def loss(self, outputs: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
        """Mean squared error, on the scale from -1 to 1."""
        from torch.nn.functional import mse_loss

        return mse_loss(outputs.squeeze(-1), targets)

    def decode(self, frame: pandas.DataFrame, examples: Examples, outputs: list[numpy.ndarray]) -> list[Any]:
        """Numbers in the range of the labels; those of levels are whole."""
        return self._in_range(numpy.concatenate(outputs))

    def _in_range(self, scaled: numpy.ndarray) -> list[float]:
        low, high = self.range
        values = low + (numpy.clip(scaled.astype(numpy.float64), -1, 1) + 1) / 2 * (high - low)
        found: list[float] = (values.round() if self.classes else values).tolist()
        return found

    def table(self, predictions: list[Any]) -> dict[str, list[Any]]:
        """The level, where there are levels; the number."""
        levels = {"level": [self.classes[int(value)] for value in predictions]} if self.classes else {}
        return levels | {"value": predictions}

    def predict_before(self, base: Path, train: Side, test: Side) -> list[Any]:
        """By a ridge regression on the base model's embeddings."""
        from sklearn.linear_model import Ridge

        from staytuned.modelling.embeddings import kept_embeddings

        known, asked = kept_embeddings(base, [train.examples, test.examples], train.pieces)
        return self._in_range(Ridge().fit(known, train.examples.column("target")).predict(asked))

    def statistics(self, frame: pandas.DataFrame, predictions: list[Any]) -> numpy.ndarray:
        """Absolute error; squares and product of the two ranks among all rows, less their mean, and the ranks; 1.

        Ranks are taken once, among all rows judged: on a part of them Spearman's correlation is that of these ranks,
        near to that of the ranks within the part, and the same on the whole.
        """
        truth, said = self._truth(frame), numpy.array(predictions)
        x, y = (pandas.Series(values).rank().to_numpy() - (len(frame) + 1) / 2 for values in (truth, said))
        return numpy.stack([abs(truth - said), x * x, y * y, x * y, x, y, numpy.ones(len(frame))], axis=1)

    def measure(self, sums: numpy.ndarray) -> dict[str, numpy.ndarray]:
        """Mean absolute error, in the unit of the labels; correlation of the ranks, 0 where one side is constant."""
        error, xx, yy, xy, x, y, rows = numpy.moveaxis(sums, -1, 0)
        spread = numpy.sqrt(numpy.maximum(xx - x * x / rows, 0) * numpy.maximum(yy - y * y / rows, 0))
        varies = spread > 1e-9 * numpy.sqrt(xx * yy)  # and not by rounding alone
        spearman = numpy.where(varies, (xy - x * y / rows) / numpy.where(varies, spread, 1), 0.0)
        return {"mae": error / rows, "spearman": spearman}


def _number(label: str) -> float:
    """Not a number where it is none."""
    try:
        return float(label)
    except ValueError:
        return math.nan
