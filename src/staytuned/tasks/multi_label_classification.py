"""Multi-label classification: any number of labels a text, also none."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy
import pandas
import pyarrow
from pydantic import Field, field_validator

from staytuned.modelling.class_metrics import macro_f1, per_class
from staytuned.modelling.examples import Examples, list_array
from staytuned.sections import Name, Share, TaskOptions, distinct
from staytuned.tasks import Batch, Metric, Side, Task

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

BETWEEN = "|"  # labels, in a csv file


class Options(TaskOptions):
    """Labels in their order, and the probability from which one is given."""

    labels: Annotated[list[Name], Field(min_length=2)]
    threshold: Share

    @field_validator("labels")
    @classmethod
    def _apart(cls, value: list[str]) -> list[str]:
        mixed = [name for name in value if BETWEEN in name or name.startswith("[")]
        if mixed:
            raise ValueError(f"holds {mixed}, but {BETWEEN!r} parts labels, and '[' begins a list; rename them")
        return distinct(value)


class MultiLabelClassification(Task):
    """The mean of the encoder's states under a linear head; a prediction is a probability of each label.

    ``label`` is a JSON list of labels, [] for none; in files also ``one|other``.
    """

    Options = Options
    columns = ("text", "label")
    can_be_part = True
    freezable = True
    metrics = (
        Metric("macro_f1", "macro-F1"),
        Metric("micro_f1", "micro-F1"),
        Metric("subset_accuracy", "subset accuracy"),
    )
    before = "frozen embeddings, one logistic regression a label"
    start = {
        "task": {"labels": ["battery", "screen", "sound"], "threshold": 0.5},
        "train": {"epochs": 4, "learning_rate": 2.0e-4, "sharpness": 0.0},
        "gate": {"bounds": {"macro_f1": 0.5, "micro_f1": 0.5, "subset_accuracy": 0.3}},
    }

    def labels(self, frame: pandas.DataFrame) -> pandas.Series:
        """Lists; what is no list is cut at each ``|``."""
        return frame["label"].map(_as_list, na_action="ignore")

    def faults(self, frame: pandas.DataFrame) -> list[str | None]:
        """What is no list of labels; labels that the params do not know, or that stand twice."""
        return [self._fault(label) for label in frame["label"]]

    def _fault(self, label: Any) -> str | None:
        if not isinstance(label, str):
            return None  # the contract says so already
        given = _given(label)
        if given is None:
            return f"label is no list of labels: {label[:60]!r}"
        unknown = [name for name in given if name not in self.options.labels]
        if unknown:
            return f"label is none of {', '.join(self.options.labels)}: {unknown[0]!r}"
        twice = [name for name in given if given.count(name) > 1]
        return f"label stands twice: {twice[0]!r}" if twice else None

    def encode(self, tokenizer: "Tokenizer", frame: pandas.DataFrame) -> pyarrow.Table:
        """Token ids; ``has``: 1 for each label that a row has, else 0."""
        return self.tokenized(tokenizer, frame).append_column("has", [list_array(list(self._truth(frame)))])

    def _truth(self, frame: pandas.DataFrame) -> numpy.ndarray:
        """1 for each label that a row has, shape (rows, labels)."""
        given = [_given(label) or [] for label in frame["label"]]
        rows = [[name in labels for name in self.options.labels] for labels in given]
        return numpy.array(rows, int).reshape(len(frame), len(self.options.labels))

    def batch(self, examples: Examples, places: list[int], random: numpy.random.Generator | None) -> Batch:
        """Token ids and their mask; 1.0 for each label that a row has."""
        import torch

        has = numpy.stack(examples.lists("has", places))
        return Batch(self.text_inputs(examples, places), torch.from_numpy(has).float())

    def model(self, backbone: Any, dropout: float) -> "torch.nn.Module":
        """A linear head on the mean of the states."""
        from staytuned.modelling.heads import PooledHead

        return PooledHead(backbone, self.width, dropout)

    @property
    def answers(self) -> Any:
        """The labels."""
        return self.options.labels

    @property
    def width(self) -> int:
        """An output for each label."""
        return len(self.options.labels)

    def loss(self, outputs: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
        """Binary cross-entropy, mean over the labels."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        return binary_cross_entropy_with_logits(outputs, targets)

    def decode(self, frame: pandas.DataFrame, examples: Examples, outputs: list[numpy.ndarray]) -> list[Any]:
        """Probabilities of the labels, float64, each on its own."""
        import torch

        return list(torch.from_numpy(numpy.stack(outputs)).double().sigmoid().numpy())

    def table(self, predictions: list[Any]) -> dict[str, list[Any]]:
        """The labels given, and the probability of each."""
        values, names = numpy.stack(predictions), self.options.labels
        labels = [BETWEEN.join(numpy.array(names)[row].tolist()) for row in values >= self.options.threshold]
        return {"labels": labels} | {name: values[:, i].tolist() for i, name in enumerate(names)}

    def say(self, prediction: Any) -> str:
        """The labels given, each with its probability."""
        pairs = zip(self.options.labels, prediction, strict=True)
        given = [f"{name}\t{value:.3f}" for name, value in pairs if value >= self.options.threshold]
        return "\t".join(given) or "(no label)"

    def predict_before(self, base: Path, train: Side, test: Side) -> list[Any]:
        """By a logistic regression for each label on the base model's embeddings."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.multiclass import OneVsRestClassifier

        from staytuned.modelling.embeddings import kept_embeddings

        learned = OneVsRestClassifier(LogisticRegression(max_iter=1000))
        known, asked = kept_embeddings(base, [train.examples, test.examples], train.pieces)
        found: list[Any] = list(learned.fit(known, self._truth(train.frame)).predict_proba(asked))
        return found

    def statistics(self, frame: pandas.DataFrame, predictions: list[Any]) -> numpy.ndarray:
        """Of each label hits, predicted and actual; whether all are right; 1."""
        truth, said = self._truth(frame), numpy.stack(predictions) >= self.options.threshold
        right = (truth == said).all(axis=1, keepdims=True)
        return numpy.concatenate([truth * said, said, truth, right, numpy.ones_like(right)], axis=1, dtype=float)

    def measure(self, sums: numpy.ndarray) -> dict[str, numpy.ndarray]:
        """Macro-F1 over the labels that occur; micro-F1 over all; the share of rows with exactly their labels."""
        counts = self.counts(sums)
        return {
            "macro_f1": macro_f1(counts),
            "micro_f1": per_class(counts.sum(axis=-1, keepdims=True))[2, ..., 0],
            "subset_accuracy": sums[..., -2] / sums[..., -1],
        }

    @property
    def counted(self) -> list[str]:
        """The labels."""
        labels: list[str] = self.options.labels
        return labels


def _as_list(label: str) -> str:
    parts = [part.strip() for part in label.split(BETWEEN)]
    return label if label.lstrip().startswith("[") else json.dumps(parts, ensure_ascii=False)


def _given(label: Any) -> list[str] | None:
    """The labels in a JSON list; None where it is none."""
    try:
        given = json.loads(label)
    except (ValueError, TypeError, RecursionError):
        return None
    good = isinstance(given, list) and all(isinstance(name, str) for name in given)
    return given if good else None
