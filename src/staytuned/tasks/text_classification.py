"""Text classification, one label of several."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy
import pandas
import pyarrow
from pydantic import Field, ValidationInfo, field_validator

from staytuned.modelling.class_metrics import macro_f1
from staytuned.modelling.examples import Examples
from staytuned.sections import Name, Section, TaskOptions, distinct
from staytuned.tasks import Batch, Metric, Side, Task

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

BINS = 15  # of confidence, for the calibration error


class RatingLabels(Section):
    """Three labels made from a number: the first below one bound, the last above the other."""

    column: Name
    negative_below: float
    positive_above: float

    @field_validator("positive_above")
    @classmethod
    def _ordered(cls, value: float, info: ValidationInfo) -> float:
        below = info.data.get("negative_below")
        if below is not None and value < below:
            raise ValueError(
                f"is {value}, under task.label_from_rating.negative_below, which is {below}; one of the two must change"
            )
        return value


class LabelOptions(TaskOptions):
    """Labels in their order, and how far rare ones are preferred to what is likeliest (``look_at``)."""

    labels: Annotated[list[Name], Field(min_length=2)]
    logit_adjustment: Annotated[float, Field(ge=0, le=1)] = 0.0

    @field_validator("labels")
    @classmethod
    def _once(cls, value: list[str]) -> list[str]:
        return distinct(value)


class Options(LabelOptions):
    """The number that the labels are made from, if they are."""

    label_from_rating: RatingLabels | None

    @classmethod
    def contradictions(cls, raw: dict[str, Any]) -> list[str]:
        """A label has one origin."""
        rating, labels = raw["task"]["label_from_rating"], raw["task"]["labels"]
        label, keep = raw["ingest"]["columns"]["label"], raw["ingest"]["columns"]["keep"]
        found = []
        if (rating is None) == (label is None):
            both = "are both null" if label is None else "are both set"
            found.append(
                f"ingest.columns.label and task.label_from_rating {both}; a label has one origin, so set exactly one"
            )
        if rating is not None and isinstance(labels, list) and len(labels) != 3:
            found.append(
                f"task.label_from_rating: needs three labels, but task.labels has {len(labels)}; change one of the two"
            )
        column = rating.get("column") if isinstance(rating, dict) else None
        if column and isinstance(keep, list) and column not in keep:
            found.append(
                f"task.label_from_rating.column: is {column!r}, which ingest.columns.keep lacks; add it there, or name "
                "another column"
            )
        return found


class TextClassification(Task):
    """The mean of the encoder's states under a linear head; a prediction is a row of probabilities."""

    Options: ClassVar[type[TaskOptions]] = Options
    columns: ClassVar[tuple[str, ...]] = ("text",)
    can_be_part: ClassVar[bool] = True
    freezable: ClassVar[bool] = True
    metrics: tuple[Metric, ...] = (
        Metric("macro_f1", "macro-F1"),
        Metric("accuracy", "accuracy"),
        Metric("calibration_error", "calibration error", higher_is_better=False),
    )
    before = "frozen embeddings with logistic regression"
    start = {
        "task": {"labels": ["negative", "neutral", "positive"], "label_from_rating": None},
        "gate": {"margins": {"calibration_error": 0.1}},
    }
    _offset: Any = 0.0  # of the logits, a number for each class

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        rule = getattr(options, "label_from_rating", None)  # tasks that inherit from this one may have none
        if rule:
            self.unlabelled = f"has no label, for {rule.column} is empty or no number"

    @property
    def classes(self) -> list[str]:
        """The labels of the params."""
        labels: list[str] = self.options.labels
        return labels

    def labels(self, frame: pandas.DataFrame) -> pandas.Series:
        """Its column, or made from its rating."""
        rule = self.options.label_from_rating
        if rule is None:
            return frame["label"]
        rating = pandas.to_numeric(frame[rule.column], errors="coerce")
        negative, neutral, positive = self.classes
        label = pandas.Series(neutral, index=frame.index, dtype="str")
        label = label.mask(rating < rule.negative_below, negative).mask(rating > rule.positive_above, positive)
        return label.where(rating.notna())

    def faults(self, frame: pandas.DataFrame) -> list[str | None]:
        """A label that the params do not know."""
        known = f"label is none of {', '.join(self.classes)}"
        good = frame["label"].isin(self.classes) | frame["label"].isna()
        return [None if fine else f"{known}: {label!r}" for fine, label in zip(good, frame["label"], strict=True)]

    def encode(self, tokenizer: "Tokenizer", frame: pandas.DataFrame) -> pyarrow.Table:
        """Token ids, and the number of the class, -1 where there is none."""
        return self.tokenized(tokenizer, frame).append_column("class", [self._numbers(frame)])

    def _numbers(self, frame: pandas.DataFrame) -> numpy.ndarray:
        return pandas.Index(self.classes).get_indexer(pandas.Index(frame["label"])).astype(numpy.int16)

    def batch(self, examples: Examples, places: list[int], random: numpy.random.Generator | None) -> Batch:
        """Token ids and their mask; class numbers."""
        import torch

        return Batch(self.text_inputs(examples, places), torch.from_numpy(examples.column("class")[places]).long())

    def model(self, backbone: Any, dropout: float) -> "torch.nn.Module":
        """A linear head on the mean of the states."""
        from staytuned.modelling.heads import PooledHead

        return PooledHead(backbone, self.width, dropout)

    @property
    def width(self) -> int:
        """An output for each label."""
        return len(self.classes)

    def look_at(self, train: Examples) -> None:
        """Measure how frequent each class is; while it learns, its logit is raised by so much (Menon et al. 2021, 3.2).

        It learns to say what it would if all classes were equally frequent, which macro-F1 rewards.
        """
        counts = (
            numpy.bincount(train.column("class"), minlength=len(self.classes)) + 1
        )  # one that is not there: as rare
        self._offset = self.options.logit_adjustment * numpy.log(counts / counts.sum())

    def loss(self, outputs: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
        """Cross-entropy, of the logits as ``look_at`` has them."""
        import torch
        from torch.nn.functional import cross_entropy

        self._offset = torch.as_tensor(self._offset).to(outputs)  # copied once: each copy would wait for a GPU
        return cross_entropy(outputs + self._offset, targets)

    def decode(self, frame: pandas.DataFrame, examples: Examples, outputs: list[numpy.ndarray]) -> list[Any]:
        """Probabilities of the classes, float64."""
        return list(softmax(numpy.stack(outputs).astype(numpy.float64)))

    def table(self, predictions: list[Any]) -> dict[str, list[Any]]:
        """The likeliest label, and the probability of each."""
        values = numpy.stack(predictions)
        labels = [self.classes[best] for best in values.argmax(axis=1)]
        return {"label": labels} | {name: values[:, i].tolist() for i, name in enumerate(self.classes)}

    def say(self, prediction: Any) -> str:
        """The label and its probability."""
        return f"{self.classes[prediction.argmax()]}\t{prediction.max():.3f}"

    def sureness(self, predictions: list[Any]) -> tuple[list[str], numpy.ndarray] | None:
        """The likeliest label and its probability."""
        values = numpy.stack(predictions)
        return [self.classes[best] for best in values.argmax(axis=1)], values.max(axis=1)

    def predict_before(self, base: Path, train: Side, test: Side) -> list[Any]:
        """By a logistic regression on the base model's embeddings."""
        from staytuned.modelling.embeddings import probabilities_before

        truth = train.examples.column("class")
        return list(probabilities_before(base, train.examples, truth, test.examples, len(self.classes), train.pieces))

    def statistics(self, frame: pandas.DataFrame, predictions: list[Any]) -> numpy.ndarray:
        """Of each class hits, predicted and actual; of each bin of confidence how many are right, and confidence."""
        values, truth = numpy.stack(predictions), self._numbers(frame)
        predicted, one = values.argmax(axis=1), numpy.eye(len(self.classes))
        right = predicted == truth
        confidence = values.max(axis=1)
        bins = numpy.eye(BINS)[numpy.minimum((confidence * BINS).astype(int), BINS - 1)]
        parts = [
            one[truth] * right[:, None],
            one[predicted],
            one[truth],
            bins * right[:, None],
            bins * confidence[:, None],
        ]
        return numpy.concatenate(parts, axis=1)

    def measure(self, sums: numpy.ndarray) -> dict[str, numpy.ndarray]:
        """Macro-F1 over the classes that occur; accuracy; expected calibration error (Guo et al. 2017, section 3)."""
        counts = self.counts(sums)
        right, confidence = sums[..., -2 * BINS : -BINS], sums[..., -BINS:]
        hits, _, rows = numpy.moveaxis(counts.sum(axis=-1), -1, 0)
        return {
            "macro_f1": macro_f1(counts),
            "accuracy": hits / rows,
            "calibration_error": numpy.abs(right - confidence).sum(axis=-1) / rows,
        }

    @property
    def counted(self) -> list[str]:
        """The labels."""
        return self.classes

    def details(self, frame: pandas.DataFrame, predictions: list[Any]) -> dict[str, Any]:
        """Precision, recall and F1 of each class; how often each class was taken for each other."""
        count = len(self.classes)
        confusion = numpy.zeros((count, count), dtype=int)
        numpy.add.at(confusion, (self._numbers(frame), numpy.stack(predictions).argmax(axis=1)), 1)
        return super().details(frame, predictions) | {
            "confusion": {"labels": self.classes, "counts": confusion.tolist(), "of": "rows"}
        }


def softmax(logits: numpy.ndarray) -> numpy.ndarray:
    """Probabilities, shape (rows, classes)."""
    powers: numpy.ndarray = numpy.exp(logits - logits.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers
