"""Several tasks at once, a topic and a sentiment say: one encoder, a head for each."""

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy
import pandas
import pyarrow
from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator

from staytuned.entry_points import task_class
from staytuned.modelling.examples import Examples
from staytuned.sections import Name, Section, TaskOptions, distinct
from staytuned.tasks import Batch, Metric, Side, Task

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer


def _options(raw: Any) -> TaskOptions:
    options: TaskOptions = task_class(raw["name"]).Options.model_validate(raw)
    return options


class Part(Section):
    """One of the tasks, and the column of its labels, which names it."""

    column: Name
    task: Annotated[SerializeAsAny[TaskOptions], BeforeValidator(_options)]


class Options(TaskOptions):
    """The parts, the first of which rules."""

    parts: Annotated[list[Part], Field(min_length=2)]

    @field_validator("parts")
    @classmethod
    def _once(cls, value: list[Part]) -> list[Part]:
        distinct([part.column for part in value])
        return value

    @classmethod
    def contradictions(cls, raw: dict[str, Any]) -> list[str]:
        """Labels come from kept columns, one a part."""
        columns, parts = raw["ingest"]["columns"], raw["task"]["parts"]
        found = [
            f"task.parts: the labels of {part['column']!r} are the column of that name, which ingest.columns.keep "
            "lacks; add it there"
            for part in parts
            if part["column"] not in columns["keep"]
        ]
        found += [
            f"task.parts: {part['task']['name']!r} reads its rows in a way of its own and stands alone; take it out"
            for part in parts
            if not task_class(part["task"]["name"]).can_be_part
        ]
        if columns["label"] is not None:
            found.append("ingest.columns.label: is set, but each part has a column of its own; set it to null")
        return found


class SeveralTasks(Task):
    """Tasks that read the same tokens and have a linear head on their mean; a prediction has one of each part.

    A row's label is a JSON object, part to label. The loss is the sum of the parts' losses (Caruana 1997, section 2).
    The first metric of the first part rules.
    """

    Options = Options
    columns = ("text",)
    freezable = True
    before = "what there was before, part by part"
    start = {
        "task": {
            "parts": [
                {
                    "column": "topic",
                    "task": {"name": "text-classification", "labels": ["phone", "camera"], "label_from_rating": None},
                },
                {"column": "stars", "task": {"name": "text-regression", "low": 1.0, "high": 5.0, "levels": None}},
            ]
        },
        "ingest": {"columns": {"label": None, "keep": ["topic", "stars"]}},
        "gate": {"bounds": {"topic.macro_f1": 0.5, "stars.mae": 1.0}},
    }

    @cached_property
    def parts(self) -> dict[str, Task]:
        """The tasks, by name."""
        return {part.column: task_class(part.task.name)(part.task) for part in self.options.parts}

    @property
    def answers(self) -> Any:
        """Those of each part."""
        return {name: [part.options.name, part.answers] for name, part in self.parts.items()}

    @property
    def metrics(self) -> tuple[Metric, ...]:  # type: ignore[override]
        """Those of each part under its name."""
        return tuple(
            metric._replace(name=f"{name}.{metric.name}", title=f"{metric.title} of {name}")
            for name, part in self.parts.items()
            for metric in part.metrics
        )

    def labels(self, frame: pandas.DataFrame) -> pandas.Series:
        """The parts' columns as one JSON object; null where one of them is."""
        columns = {
            name: part.labels(frame.assign(label=frame[name].where(frame[name] != "")))
            for name, part in self.parts.items()
        }
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        said = [None if any(map(pandas.isna, row.values())) else json.dumps(row) for row in rows]
        return pandas.Series(said, index=frame.index, dtype="object")

    def _of_parts(self, frame: pandas.DataFrame) -> Iterator[tuple[str, Task, pandas.DataFrame]]:
        """Each part with the rows under its own label."""
        said = [json.loads(label) if isinstance(label, str) else {} for label in frame["label"]]
        for name, part in self.parts.items():
            label = pandas.Series([one.get(name) for one in said], index=frame.index, dtype="object")
            yield name, part, frame.assign(label=label)

    def faults(self, frame: pandas.DataFrame) -> list[str | None]:
        """The first fault that a part finds, under its name."""
        found: list[str | None] = [None] * len(frame)
        for name, part, rows in self._of_parts(frame):
            found = [old or (new and f"{name}: {new}") for old, new in zip(found, part.faults(rows), strict=True)]
        return found

    def adapt(self, tokenizer: "Tokenizer", max_tokens: int) -> None:
        """For every part."""
        super().adapt(tokenizer, max_tokens)
        for part in self.parts.values():
            part.adapt(tokenizer, max_tokens)

    def encode(self, tokenizer: "Tokenizer", frame: pandas.DataFrame) -> pyarrow.Table:
        """The tokens once, and each part's own columns under its name."""
        table = self.tokenized(tokenizer, frame)
        for name, part, rows in self._of_parts(frame):
            encoded = part.encode(tokenizer, rows)
            for column in encoded.column_names[table.column_names.index("truncated") + 1 :]:
                table = table.append_column(f"{name}.{column}", encoded[column])
        return table

    def batch(self, examples: Examples, places: list[int], random: numpy.random.Generator | None) -> Batch:
        """The tokens, which all parts read, and each part's targets under its name."""
        batches = {name: part.batch(examples.under(name), places, random) for name, part in self.parts.items()}
        inputs = next(iter(batches.values())).inputs
        return Batch(inputs, {name: batch.targets for name, batch in batches.items()})

    def model(self, backbone: Any, dropout: float) -> "torch.nn.Module":
        """One linear layer: a head for each part is a slice of it."""
        from staytuned.modelling.heads import PooledHead

        return PooledHead(backbone, sum(part.width for part in self.parts.values()), dropout)

    def _slices(self) -> Iterator[tuple[str, Task, slice]]:
        """Each part with the place of its outputs."""
        start = 0
        for name, part in self.parts.items():
            yield name, part, slice(start, start + part.width)
            start += part.width

    def look_at(self, train: Examples) -> None:
        """For every part."""
        for name, part in self.parts.items():
            part.look_at(train.under(name))

    def loss(self, outputs: "torch.Tensor", targets: Any) -> "torch.Tensor":
        """The sum of the parts' losses."""
        losses = [part.loss(outputs[:, here], targets[name]) for name, part, here in self._slices()]
        return sum(losses[1:], start=losses[0])

    def decode(self, frame: pandas.DataFrame, examples: Examples, outputs: list[numpy.ndarray]) -> list[Any]:
        """Each part's prediction under its name."""
        said = {
            name: part.decode(rows, examples.under(name), [output[here] for output in outputs])
            for (name, part, here), (_, _, rows) in zip(self._slices(), self._of_parts(frame), strict=True)
        }
        return self._by_row(said)

    def _by_row(self, said: dict[str, list[Any]]) -> list[Any]:
        return [dict(zip(said, row, strict=True)) for row in zip(*said.values(), strict=True)]

    def table(self, predictions: list[Any]) -> dict[str, list[Any]]:
        """The parts' columns under their names."""
        return {
            f"{name}.{column}": values
            for name, part in self.parts.items()
            for column, values in part.table([one[name] for one in predictions]).items()
        }

    def say(self, prediction: Any) -> str:
        """The parts' answers, one after the other."""
        return "\t".join(f"{name}: {part.say(prediction[name])}" for name, part in self.parts.items())

    def predict_before(self, base: Path, train: Side, test: Side) -> list[Any]:
        """What each part has for it."""
        sides = [
            [Side(rows, side.examples.under(name), side.pieces) for name, _, rows in self._of_parts(side.frame)]
            for side in (train, test)
        ]
        said = {
            name: part.predict_before(base, own_train, own_test)
            for (name, part), own_train, own_test in zip(self.parts.items(), *sides, strict=True)
        }
        return self._by_row(said)

    def statistics(self, frame: pandas.DataFrame, predictions: list[Any]) -> numpy.ndarray:
        """Those of the parts, side by side."""
        parts = self._of_parts(frame)
        found = [part.statistics(rows, [one[name] for one in predictions]) for name, part, rows in parts]
        self._ends = numpy.cumsum([values.shape[1] for values in found])
        return numpy.concatenate(found, axis=1)

    def measure(self, sums: numpy.ndarray) -> dict[str, numpy.ndarray]:
        """Those of the parts, under their names."""
        return {
            f"{name}.{metric}": values
            for (name, part), own in zip(self.parts.items(), self._own(sums), strict=True)
            for metric, values in part.measure(own).items()
        }

    @property
    def counted(self) -> list[str]:
        """The classes of the parts, under their names."""
        return [f"{name}.{label}" for name, part in self.parts.items() for label in part.counted]

    def counts(self, sums: numpy.ndarray) -> numpy.ndarray:
        """Those of the parts, side by side."""
        parts = zip(self.parts.values(), self._own(sums), strict=True)
        return numpy.concatenate([part.counts(own) for part, own in parts], axis=-1)

    def _own(self, sums: numpy.ndarray) -> list[numpy.ndarray]:
        """Each part's sums."""
        return numpy.split(sums, self._ends[:-1], axis=-1)
