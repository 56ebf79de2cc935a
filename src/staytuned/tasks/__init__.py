"""The contract of a task, and the door to those that are installed. One file here is one task."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy
import pandas
import pyarrow

from staytuned.data.readers import Format
from staytuned.entry_points import class_at, task_class
from staytuned.files import read_json
from staytuned.modelling.examples import Examples, list_array
from staytuned.params import Params
from staytuned.sections import TaskOptions

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer


class Metric(NamedTuple):
    """One figure of a task."""

    name: str
    title: str
    higher_is_better: bool = True


class Batch(NamedTuple):
    """What the model takes, each tensor of shape (examples, ...), and what the loss compares its outputs with."""

    inputs: "dict[str, torch.Tensor]"
    targets: Any  # a tensor, or a dict of tensors

    def on(self, device: "torch.device") -> "Batch":
        """The same on a device, which is not waited for."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def rows(self, which: "slice | torch.Tensor") -> "Batch":
        """Some of its examples (or of what it parts them into, such as windows)."""
        return self._each(lambda tensor: tensor[which])

    @property
    def size(self) -> int:
        """Its examples, or what it parts them into."""
        return len(next(iter(self.inputs.values())))

    def _each(self, change: "Callable[[torch.Tensor], torch.Tensor]") -> "Batch":
        is_one = not isinstance(self.targets, dict)
        targets = change(self.targets) if is_one else {name: change(one) for name, one in self.targets.items()}
        return Batch({name: change(one) for name, one in self.inputs.items()}, targets)


@dataclass(frozen=True)
class Side:
    """Rows of one side: as text, one a line of ``frame``, and encoded."""

    frame: pandas.DataFrame
    examples: Examples
    pieces: Path | None = None  # folder that keeps what is dear to make of them, once for each text


class Task(ABC):
    """A task adaptation layer: columns, contract, encoding, head and loss, decoding, metrics.

    A frame of rows has the columns ``row``, ``text``, ``text_pair``, ``label``, ``source``, ``group``, strings or
    None; what a label says is the task's own, JSON where it is more than a word. Rows to predict have no label.
    """

    Options: ClassVar[type[TaskOptions]]  # the section ``task`` of params.yaml
    columns: ClassVar[tuple[str, ...]] = ("text", "label")  # that must be mapped in ingest.columns
    can_be_part: ClassVar[bool] = False  # of several: one example a row, one linear layer on the mean of its states
    labelled: ClassVar[bool] = True  # a row without a label is quarantined
    unlabelled: str = "has no label"  # what is wrong with one, in words; it may depend on the options
    divisible: ClassVar[bool] = True  # a batch: its loss is the mean of that of its parts; False: it compares its rows
    freezable: ClassVar[bool] = False  # its model is a ``TokenHead``: with ``train.frozen`` it alone learns
    counts_tokens: bool = False  # the first metric is one of tokens, as perplexity; it may depend on the options
    formats: ClassVar[dict[str, Format]] = {}  # readers of further endings of files, such as ``.conll``
    kind: str = "AutoModel"  # class of transformers that its models are loaded by; it may depend on the options
    kinds: ClassVar[dict[str, str]] = {}  # what ``kind`` can be, and what to set for it
    metrics: tuple[Metric, ...]  # the first selects the best evaluation, with the loss, and rules the gate
    before: str  # what the fine-tuned model is compared with, in words; it may too
    start: ClassVar[dict[str, Any]]  # params.yaml of a new workspace, where it differs from the example's

    def __init__(self, options: Any) -> None:
        self.options = options
        self.max_tokens = 0  # of an example; set as the tokenizer is adapted

    # Rows

    def labels(self, frame: pandas.DataFrame) -> pandas.Series:
        """The label of each row as validation keeps it; null where there is none."""
        return frame["label"]

    @abstractmethod
    def faults(self, frame: pandas.DataFrame) -> list[str | None]:
        """Why each row cannot be used for this task, as ``kind: what it holds``; None where it can."""

    def unanswerable(self, frame: pandas.DataFrame) -> list[str | None]:
        """The same of rows that are to be predicted, not learned from."""
        return self.faults(frame)

    @property
    def width(self) -> int:
        """Outputs of its head, of a task that ``can_be_part``."""
        raise NotImplementedError

    @property
    def classes(self) -> list[str]:
        """The labels that a row may have, each needed to train on; empty where labels are open."""
        return []

    @property
    def answers(self) -> Any:
        """What its answers are made of, as JSON: models of other answers cannot be compared with its own."""
        return self.classes

    # Examples

    def read(self, folder: Path) -> None:  # noqa: B027 - most tasks need nothing
        """Read what the task must know of a model's folder besides weights and tokenizer, such as a chat template.

        Called before ``adapt``, with the base model's folder and with that of the fine-tuned model.
        """

    def adapt(self, tokenizer: "Tokenizer", max_tokens: int) -> None:
        """Set the base model's tokenizer, and the task, to examples of at most ``max_tokens``."""
        self.max_tokens = max_tokens
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_tokens)

    @abstractmethod
    def encode(self, tokenizer: "Tokenizer", frame: pandas.DataFrame) -> pyarrow.Table:
        """Examples of rows: ``place`` of the row in the frame, ``input_ids``, ``truncated``, and columns of its own."""

    @abstractmethod
    def batch(self, examples: Examples, places: list[int], random: numpy.random.Generator | None) -> Batch:
        """The examples at some places; ``random`` is None where they are judged, not learned from."""

    # Model

    @abstractmethod
    def model(self, backbone: Any, dropout: float) -> "torch.nn.Module":
        """The model: what transformers loaded, with the task's head on it, whose weights begin with ``head.``."""

    def look_at(self, train: Examples) -> None:  # noqa: B027 - most tasks need nothing
        """Learn what the loss has to know of all examples, before training begins."""

    @abstractmethod
    def loss(self, outputs: "torch.Tensor", targets: Any) -> "torch.Tensor":
        """Mean loss of a batch."""

    def terms(self, batch: Batch) -> int:
        """Of how many terms, rows or tokens, ``loss`` is the mean: so much a part of a batch weighs."""
        return batch.size

    def outputs(self, outputs: "torch.Tensor", batch: Batch) -> list[numpy.ndarray]:
        """What the model said of each example, without padding."""
        return list(outputs.float().cpu().numpy())

    # Predictions

    @abstractmethod
    def decode(self, frame: pandas.DataFrame, examples: Examples, outputs: list[numpy.ndarray]) -> list[Any]:
        """The prediction for each row of ``frame``, from what the model said of its examples."""

    def predict(
        self, model: "torch.nn.Module", tokenizer: "Tokenizer", frame: pandas.DataFrame, examples: Examples
    ) -> list[Any]:
        """The prediction for each row of ``frame``, whose examples these are; a task that generates does that here."""
        return self.decode(frame, examples, self.outputs_of(model, examples))

    def from_json(self, prediction: Any) -> Any:
        """A prediction of a task that generates, as JSON has kept it, as it was; of other tasks outputs are kept."""
        return prediction

    @abstractmethod
    def table(self, predictions: list[Any]) -> dict[str, list[Any]]:
        """Predictions as columns of strings and numbers, the first of them the answer."""

    def say(self, prediction: Any) -> str:
        """One prediction in one line."""
        return "\t".join(str(values[0]) for values in self.table([prediction]).values())

    def sureness(self, predictions: list[Any]) -> tuple[list[str], numpy.ndarray] | None:
        """Answers in the words of the labels, and the probability of each, shape (rows,); None where there are none.

        What watches a model without labels looks at them.
        """
        return None

    @abstractmethod
    def predict_before(self, base: Path, train: Side, test: Side) -> list[Any]:
        """What ``before`` names predicts for the rows of ``test``."""

    # Judgement

    @property
    def validation_metric(self) -> Metric:
        """What selects the best evaluation in training, with the loss."""
        return self.metrics[0]

    def validation_score(self, frame: pandas.DataFrame, examples: Examples, outputs: list[numpy.ndarray]) -> float:
        """``validation_metric`` on the validation rows."""
        return self.score(frame, self.decode(frame, examples, outputs))[self.validation_metric.name]

    @abstractmethod
    def statistics(self, frame: pandas.DataFrame, predictions: list[Any]) -> numpy.ndarray:
        """What the metrics are made of, shape (rows, statistics): a metric of rows is a function of their sum."""

    @abstractmethod
    def measure(self, sums: numpy.ndarray) -> dict[str, numpy.ndarray]:
        """Each of ``metrics``, shape (...), from sums of statistics, shape (..., statistics)."""

    @property
    def counted(self) -> list[str]:
        """Classes that are told apart; empty where there are none. Statistics begin with ``counts`` of these."""
        return []

    def counts(self, sums: numpy.ndarray) -> numpy.ndarray:
        """Of each of ``counted`` hits, predicted and actual, shape (..., 3, classes), from sums of statistics."""
        classes = len(self.counted)
        return sums[..., : 3 * classes].reshape(*sums.shape[:-1], 3, classes)

    def details(self, frame: pandas.DataFrame, predictions: list[Any]) -> dict[str, Any]:
        """For the report: ``per_class`` {class: {column: value}}, ``confusion`` {labels, counts, of: rows or words}."""
        from staytuned.modelling.class_metrics import class_table

        if not self.counted:
            return {}
        return {"per_class": class_table(self.counted, self.counts(self.statistics(frame, predictions).sum(axis=0)))}

    # Given

    def score(self, frame: pandas.DataFrame, predictions: list[Any]) -> dict[str, float]:
        """The metrics of predictions."""
        sums = self.statistics(frame, predictions).sum(axis=0)
        return {name: float(value) for name, value in self.measure(sums).items()}

    def outputs_of(self, model: "torch.nn.Module", examples: Examples) -> list[numpy.ndarray]:
        """What a model says of each example, on the model's device, those of like length together."""
        import torch

        from staytuned.modelling.threads import in_threads

        device, batches = next(model.parameters()).device, examples.batches_by_length()

        @torch.inference_mode()
        def outputs(places: list[int]) -> list[numpy.ndarray]:
            batch = self.batch(examples, places, None).on(device)
            return self.outputs(model(**batch.inputs), batch)

        found: dict[int, numpy.ndarray] = {}
        for places, said in zip(batches, in_threads(outputs, batches), strict=True):
            found.update(zip(places, said, strict=True))
        return [found[place] for place in range(len(examples))]

    def tokenized(self, tokenizer: "Tokenizer", frame: pandas.DataFrame) -> pyarrow.Table:
        """One example for each row: place, input_ids, truncated; of pairs, where the task is on them, type_ids too."""
        pairs = "text_pair" in self.columns
        texts = list(zip(frame["text"], frame["text_pair"], strict=True)) if pairs else frame["text"].tolist()
        encodings = tokenizer.encode_batch_fast(texts)
        ids = [encoding.ids for encoding in encodings]
        lengths = numpy.fromiter(map(len, ids), numpy.int32, len(ids))
        truncated = numpy.zeros(len(ids), bool)
        full = numpy.flatnonzero(lengths >= self.max_tokens)
        truncated[full] = [bool(encodings[place].overflowing) for place in full]
        columns = {"place": numpy.arange(len(ids)), "input_ids": list_array(ids), "truncated": truncated}
        if pairs:
            columns["type_ids"] = list_array([encoding.type_ids for encoding in encodings])
        return pyarrow.table(columns)

    def text_inputs(self, examples: Examples, places: list[int]) -> "dict[str, torch.Tensor]":
        """What a model reads of ``tokenized`` examples: token ids and their mask, and of pairs which text is whose."""
        from staytuned.modelling.heads import mask_of, padded

        ids = examples.lists("input_ids", places)
        inputs = {"input_ids": padded(ids), "attention_mask": mask_of(ids)}
        if "text_pair" in self.columns:
            inputs["token_type_ids"] = padded(examples.lists("type_ids", places))
        return inputs


def trained(folder: Path) -> Task:
    """The task that a model was trained for, without its weights."""
    about = read_json(folder / "staytuned.json")
    made = class_at(about["class"])
    task: Task = made(made.Options.model_validate(about["task"]))
    return task


def load(params: Params) -> Task:
    """The task that ``task.name`` names, under the workspace's params."""
    made: Task = task_class(params.task.name)(params.task)
    return made
