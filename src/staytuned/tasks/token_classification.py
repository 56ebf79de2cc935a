"""Token classification: named entities, slots, and other spans of a text that have a type."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy
import pandas
import pyarrow
from pydantic import Field, field_validator

from staytuned.data.conll import sentences
from staytuned.modelling.class_metrics import macro_f1, per_class
from staytuned.modelling.examples import NOTHING, Examples, list_array
from staytuned.modelling.words import CHARACTER, WORD, Words, own_pieces, windows, words_of
from staytuned.sections import Name, TaskOptions, distinct
from staytuned.tasks import Batch, Metric, Side, Task
from staytuned.tasks.spans import Span, as_lists, fault, spans_of
from staytuned.tasks.text_classification import softmax

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer


class Entity(NamedTuple):
    """A predicted span; ``score`` is the mean probability of its tags."""

    start: int
    end: int
    type: str
    text: str
    score: float


class Options(TaskOptions):
    """Types of entities; which pieces carry a label and loss: the first one of a word, or all."""

    types: Annotated[list[Name], Field(min_length=1)]
    pieces: Literal["first", "all"]

    @field_validator("types")
    @classmethod
    def _once(cls, value: list[str]) -> list[str]:
        return distinct(value)


class TokenClassification(Task):
    """Tags of words by a linear head on the encoder's states; a prediction is a list of entities.

    A label is a JSON list of [start, end, type], in characters, the end not included. Entities are flat. Tags are
    IOB2. A word is a run of letters and digits, or one other character, or one character of a script that is written
    without blanks; with ``pieces: all`` every piece is tagged for itself. Words that the tokenizer does not part are
    one. A span that cuts a word is learned as the whole word, and judged by its own characters: for languages whose
    entities end within words, as Korean, take ``pieces: all``. A long text is read in windows that overlap by a
    quarter; each word is learned and predicted in the one where it stands farthest from an edge.
    """

    Options = Options
    freezable = True
    formats = {".conll": sentences, ".iob": sentences}
    metrics = (
        Metric("f1", "entity F1"),
        Metric("precision", "precision"),
        Metric("recall", "recall"),
        Metric("macro_f1", "macro-F1 over types"),
    )
    before = "each word's most frequent tag"
    start = {
        "task": {"types": ["person", "location", "organization"], "pieces": "first"},
        "train": {"epochs": 3, "learning_rate": 2.0e-4, "sharpness": 0.0},
        "gate": {"bounds": {"f1": 0.4}},
    }

    @property
    def answers(self) -> Any:
        """The types."""
        return self.options.types

    # Rows

    def labels(self, frame: pandas.DataFrame) -> pandas.Series:
        """Lists of [start, end, type]; also out of lists of {start, end, type}, as predictions are written."""
        return frame["label"].map(as_lists, na_action="ignore")

    def faults(self, frame: pandas.DataFrame) -> list[str | None]:
        """A label that is no list of spans; a span that the text or the params do not know; spans that overlap."""
        return [
            fault(text if isinstance(text, str) else "", label, self.options.types) if isinstance(label, str) else None
            for text, label in zip(frame["text"], frame["label"], strict=True)
        ]

    # Examples

    def adapt(self, tokenizer: "Tokenizer", max_tokens: int) -> None:
        """Whole texts are tokenized; windows are cut from that."""
        super().adapt(tokenizer, max_tokens)
        tokenizer.no_truncation()

    def encode(self, tokenizer: "Tokenizer", frame: pandas.DataFrame) -> pyarrow.Table:
        """Windows: token ids, and of each word predicted there the token (``at``), start, end and tag number."""
        names = ("input_ids", "at", "starts", "ends", "tags")
        places, found = list[int](), {name: list[Any]() for name in names}
        for place, (text, label) in enumerate(zip(frame["text"], frame["label"], strict=True)):
            encoding = tokenizer.encode(text)
            inner, ids = own_pieces(encoding), encoding.ids
            head, pieces, tail = ids[: inner.start], ids[inner], ids[inner.stop :]
            words = words_of(text, encoding.offsets[inner], WORD if self.options.pieces == "first" else CHARACTER)
            tags = self._tags(words, spans_of(label))
            for start, end, own, after in windows(len(pieces), self.max_tokens - len(head) - len(tail)):
                here = slice(*words.at.searchsorted([own, after]))
                places.append(place)
                found["input_ids"].append(head + pieces[start:end] + tail)
                found["at"].append(words.at[here] - start + len(head))
                for name, values in (("starts", words.starts), ("ends", words.ends), ("tags", tags)):
                    found[name].append(values[here])
        columns = {"place": numpy.array(places, int)} | {name: list_array(lists) for name, lists in found.items()}
        return pyarrow.table(columns | {"truncated": numpy.zeros(len(places), bool)})

    def _tags(self, words: Words, spans: list[Span]) -> numpy.ndarray:
        """The number of each word's tag: O, B- of the first type, I- of the first type, B- of the second..."""
        tags, free = numpy.zeros(len(words.starts), int), 0
        for start, end, kind in spans:
            first = max(free, int(words.ends.searchsorted(start, "right")))  # a word that two touch is the first one's
            free = max(first, int(words.starts.searchsorted(end, "left")))
            tags[first:free] = 2 * self.options.types.index(kind) + 2
            tags[first : min(first + 1, free)] -= 1
        return tags

    def batch(self, examples: Examples, places: list[int], random: numpy.random.Generator | None) -> Batch:
        """Token ids and their mask; a tag number for each token, ``NOTHING`` where none is learned."""
        import torch

        from staytuned.modelling.heads import mask_of, padded

        ids = examples.lists("input_ids", places)
        inputs = {"input_ids": padded(ids), "attention_mask": mask_of(ids)}
        targets = numpy.full(inputs["input_ids"].shape, NOTHING)
        at, tags = (examples.lists(name, places) for name in ("at", "tags"))
        for row, here, numbers in zip(targets, at, tags, strict=True):
            row[here] = numbers
        return Batch(inputs, torch.from_numpy(targets))

    # Model

    def model(self, backbone: Any, dropout: float) -> "torch.nn.Module":
        """A linear head on the state of every token."""
        from staytuned.modelling.heads import TokenHead

        return TokenHead(backbone, 2 * len(self.options.types) + 1, dropout)

    def loss(self, outputs: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
        """Cross-entropy, mean over the tokens that are learned from; 0 where there is none."""
        from torch.nn.functional import cross_entropy

        total = cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=NOTHING, reduction="sum")
        return total / (targets != NOTHING).sum().clamp(min=1)

    def terms(self, batch: Batch) -> int:
        """Tokens that are learned from."""
        return int((batch.targets != NOTHING).sum())

    def outputs(self, outputs: "torch.Tensor", batch: Batch) -> list[numpy.ndarray]:
        """Logits of the tags, shape (tokens, tags), of each example."""
        lengths = batch.inputs["attention_mask"].sum(dim=1).tolist()
        logits = super().outputs(outputs, batch)
        return [values[:length] for values, length in zip(logits, lengths, strict=True)]

    # Predictions

    def decode(self, frame: pandas.DataFrame, examples: Examples, outputs: list[numpy.ndarray]) -> list[Any]:
        """The entities of each row, in the order of the text."""
        found = []
        for text, places in zip(frame["text"], examples.by_row, strict=True):
            at, starts, ends = (examples.lists(name, places) for name in ("at", "starts", "ends"))
            logits = numpy.concatenate([outputs[place][here] for place, here in zip(places, at, strict=True)])
            tags = likeliest_tags(logits.astype(numpy.float64))
            scores = softmax(logits.astype(numpy.float64))[numpy.arange(len(tags)), tags]
            bounds = numpy.concatenate(starts), numpy.concatenate(ends)
            found.append(self._entities(text, zip(*bounds, tags, scores, strict=True)))
        return found

    def _entities(self, text: str, tagged: Iterable[tuple[Any, Any, Any, Any]]) -> list[Entity]:
        """What start, end, tag number and its probability of each word say.

        An I- that continues no entity of its type begins one, as in conlleval (Tjong Kim Sang & Buchholz 2000).
        """
        parts, before = list[tuple[str, int, list[int], list[float]]](), ""
        for start, end, tag, score in tagged:
            kind = self.options.types[(tag - 1) // 2] if tag else ""
            if kind and (kind != before or tag % 2):
                parts.append((kind, int(start), [], []))
            if kind:
                parts[-1][2].append(int(end))
                parts[-1][3].append(float(score))
            before = kind
        return [
            Entity(start, ends[-1], kind, text[start : ends[-1]], sum(scores) / len(scores))
            for kind, start, ends, scores in parts
        ]

    def table(self, predictions: list[Any]) -> dict[str, list[Any]]:
        """The entities as a JSON list of start, end, type, text and score."""
        rows = [[entity._asdict() | {"score": round(entity.score, 6)} for entity in row] for row in predictions]
        return {"entities": [json.dumps(row, ensure_ascii=False) for row in rows]}

    def predict_before(self, base: Path, train: Side, test: Side) -> list[Any]:
        """By a dictionary of the words in training; a word that is not in it has no entity."""
        counts = defaultdict[str, Counter[int]](Counter)
        for text, label in zip(train.frame["text"], train.frame["label"], strict=True):
            words = words_of(text)
            for start, end, tag in zip(words.starts, words.ends, self._tags(words, spans_of(label)), strict=True):
                counts[text[start:end]][int(tag)] += 1
        found = []
        for text in test.frame["text"]:
            bounds = list(zip(*words_of(text)[:2], strict=True))
            known = [counts.get(text[start:end], Counter([0])) for start, end in bounds]
            tags = [(tag, times / count.total()) for count in known for tag, times in count.most_common(1)]
            found.append(self._entities(text, [(*bound, *tag) for bound, tag in zip(bounds, tags, strict=True)]))
        return found

    # Judgement

    def statistics(self, frame: pandas.DataFrame, predictions: list[Any]) -> numpy.ndarray:
        """Of each type the entities found with the very span and type, predicted, and actual."""
        counts = numpy.zeros((len(frame), 3, len(self.options.types)))
        for row, label, said in zip(counts, frame["label"], predictions, strict=True):
            true, predicted = set(spans_of(label)), {entity[:3] for entity in said}
            for kinds, spans in zip(row, (true & predicted, predicted, true), strict=True):
                for _, _, kind in spans:
                    kinds[self.options.types.index(kind)] += 1
        return counts.reshape(len(frame), -1)

    def measure(self, sums: numpy.ndarray) -> dict[str, numpy.ndarray]:
        """Precision, recall and F1 over all entities; F1, mean over the types that occur."""
        counts = self.counts(sums)
        precision, recall, f1 = per_class(counts.sum(axis=-1, keepdims=True))[..., 0]
        return {"f1": f1, "precision": precision, "recall": recall, "macro_f1": macro_f1(counts)}

    @property
    def counted(self) -> list[str]:
        """The types."""
        types: list[str] = self.options.types
        return types

    def details(self, frame: pandas.DataFrame, predictions: list[Any]) -> dict[str, Any]:
        """Precision, recall and F1 of each type; how often words of each type, or of none, were taken for another."""
        size = len(self.options.types) + 1
        confusion = numpy.zeros((size, size), int)
        for text, label, said in zip(frame["text"], frame["label"], predictions, strict=True):
            words = words_of(text)
            tags = (self._tags(words, spans) for spans in (spans_of(label), [entity[:3] for entity in said]))
            numpy.add.at(confusion, tuple((numbers + 1) // 2 for numbers in tags), 1)
        return super().details(frame, predictions) | {
            "confusion": {"labels": ["O", *self.options.types], "counts": confusion.tolist(), "of": "words"}
        }


def likeliest_tags(logits: numpy.ndarray) -> numpy.ndarray:
    """The likeliest sequence of tag numbers in which I- follows B- or I- of its type (Viterbi 1967), shape (words,).

    Args:
        logits: Of the tags of a text's words, shape (words, tags).
    """
    before, tag = numpy.indices((logits.shape[1], logits.shape[1]))
    barred = numpy.where((tag > 0) & (tag % 2 == 0) & (before != tag) & (before != tag - 1), -numpy.inf, 0)
    best, steps = numpy.where(numpy.arange(logits.shape[1]) == 0, 0, -numpy.inf), []  # a text begins as after O
    for scores in logits:
        paths = best[:, None] + barred
        steps.append(paths.argmax(axis=0))
        best = paths.max(axis=0) + scores
    tags = [best.argmax()]
    for step in reversed(steps):
        tags.append(step[tags[-1]])
    return numpy.array(tags[-2::-1], int)
