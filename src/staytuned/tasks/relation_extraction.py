"""Relation extraction: which relation holds between two entities that are marked in a text."""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy
import pandas
import pyarrow
from pydantic import ValidationInfo, field_validator

from staytuned.data.readers import Found
from staytuned.errors import DataError, ParamsError
from staytuned.modelling.class_metrics import macro_f1
from staytuned.modelling.examples import Examples, list_array
from staytuned.sections import Name
from staytuned.tasks import Batch, Metric
from staytuned.tasks.text_classification import LabelOptions, TextClassification

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

MARKERS = ["<e1>", "</e1>", "<e2>", "</e2>"]
ORDERS = (MARKERS, MARKERS[2:] + MARKERS[:2])  # the second entity may stand first
MARKER = re.compile("</?e[12]>")
EMPTY = re.compile(r"<(e[12])>\s*</\1>")
DIRECTION = re.compile(r"\((e1,e2|e2,e1)\)$")
SEMEVAL = ["Cause-Effect", "Component-Whole", "Content-Container", "Entity-Destination", "Entity-Origin"]
SEMEVAL += ["Instrument-Agency", "Member-Collection", "Message-Topic", "Product-Producer"]


def semeval_2010_task_8(lines: Iterator[str]) -> Iterator[Found]:
    """Rows of SemEval-2010 Task 8: number, tab and quoted text; relation; comment; blank line."""
    for blank, block in groupby(enumerate(lines, 1), key=lambda line: not line[1].strip()):
        if blank:
            continue
        numbers, found = zip(*block, strict=True)
        first = re.fullmatch(r'(\d+)\t"(.*)"\s*', found[0])
        if first and len(found) in (2, 3):
            yield numbers[-1], {"id": first[1], "text": first[2], "label": found[1].strip()}, None
        else:
            yield numbers[-1], {"text": "".join(found)}, 'is not number, tab and "text"; relation; comment'


class Options(LabelOptions):
    """Relations with their directions, and the one that means that there is none."""

    negative: Name | None

    @field_validator("negative")
    @classmethod
    def _known(cls, value: str | None, info: ValidationInfo) -> str | None:
        labels = info.data.get("labels")
        if value is not None and labels is not None and value not in labels:
            raise ValueError(f"is {value!r}, which task.labels lacks; add it there, or set this to null")
        return value


class RelationExtraction(TextClassification):
    """The states at the two entities' markers under a linear head; a prediction is a row of probabilities.

    A text holds ``<e1>one entity</e1>`` and ``<e2>the other</e2>``. Instead, a label may say where they are, in
    characters from 0: ``{"relation": "Component-Whole(e2,e1)", "e1": [4, 9], "e2": [17, 22]}``.
    """

    Options = Options
    columns = ("text", "label")
    can_be_part = False
    freezable = False  # the vectors of the markers are learned, and the encoder reads them
    formats = {".txt": semeval_2010_task_8}
    metrics = (Metric("macro_f1", "macro-F1 of the relations"), Metric("accuracy", "accuracy"))
    start = {
        "task": {
            "labels": [f"{name}({order})" for name in SEMEVAL for order in ("e1,e2", "e2,e1")] + ["Other"],
            "negative": "Other",
        },
        "train": {"epochs": 3, "learning_rate": 2.0e-4, "sharpness": 0.0},
        "gate": {"bounds": {"macro_f1": 0.5, "accuracy": 0.5}},
    }

    @property
    def relations(self) -> list[str]:
        """What the labels name, whatever the direction, without the negative."""
        named = [DIRECTION.sub("", label) for label in self.classes if label != self.options.negative]
        return list(dict.fromkeys(named))

    def labels(self, frame: pandas.DataFrame) -> pandas.Series:
        """The name of the relation; where the label says where the entities are, they are marked in ``frame``."""
        marked = [_marked(text, label) for text, label in zip(frame["text"], frame["label"], strict=True)]
        frame["text"] = pandas.Series([text for text, _ in marked], index=frame.index, dtype=frame["text"].dtype)
        return pandas.Series([label for _, label in marked], index=frame.index, dtype=frame["label"].dtype)

    def faults(self, frame: pandas.DataFrame) -> list[str | None]:
        """Entities that are not marked as they must be, spans that do not meet the text, an unknown label."""
        unmarked = [
            f"label does not name two spans of the text: {label!r}" if _is_object(label) else _unmarked(text)
            for text, label in zip(frame["text"], frame["label"], strict=True)
        ]
        return [one or other for one, other in zip(unmarked, super().faults(frame), strict=True)]

    def adapt(self, tokenizer: "Tokenizer", max_tokens: int) -> None:
        """The markers become tokens; what does not fit is cut around them, so the tokenizer itself cuts nothing.

        Raises:
            ParamsError: the limit leaves no room for two marked entities.
        """
        super().adapt(tokenizer, max_tokens)
        tokenizer.no_truncation()
        tokenizer.add_special_tokens(MARKERS)
        self._markers = tokenizer.encode("".join(MARKERS), add_special_tokens=False).ids
        around = tokenizer.encode("".join(MARKERS)).ids  # with what the model wants before and after any text
        self._before = around.index(self._markers[0])
        self._after = len(around) - len(MARKERS) - self._before
        least = len(around) + 2
        if max_tokens < least:
            raise ParamsError(f"encode.max_tokens is {max_tokens}; two marked entities take {least}; raise it")

    def encode(self, tokenizer: "Tokenizer", frame: pandas.DataFrame) -> pyarrow.Table:
        """Token ids of the text without its markers, and their four places in the text with them.

        Raises:
            DataError: the entities of a text are not marked; a blank one is taken as it is.
        """
        for fault in map(_unmarked, frame["text"]):
            if fault:
                raise DataError(f"{fault}; mark one entity <e1>so</e1> and the other <e2>so</e2>")
        texts = [text if text.strip() else "".join(MARKERS) for text in frame["text"]]
        wholes = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]
        ids, markers = [], []
        for whole in wholes:
            places = numpy.array([whole.index(marker) for marker in self._markers])
            kept = nearest(len(whole), places, self._before, self._after, self.max_tokens)
            ids.append(numpy.array(whole)[numpy.setdiff1d(kept, places)])
            markers.append(kept.searchsorted(places))
        columns = {
            "place": numpy.arange(len(ids)),
            "input_ids": list_array(ids),
            "truncated": numpy.array([len(whole) > self.max_tokens for whole in wholes], bool),
            "markers": list_array(markers),
            "class": self._numbers(frame),
        }
        return pyarrow.table(columns)

    def batch(self, examples: Examples, places: list[int], random: numpy.random.Generator | None) -> Batch:
        """Token ids with gaps for the markers, their mask, the places of the markers; class numbers."""
        import torch

        from staytuned.modelling.heads import mask_of, padded

        markers = examples.lists("markers", places)
        texts = zip(examples.lists("input_ids", places), markers, strict=True)
        ids = [numpy.insert(text, numpy.sort(gaps) - numpy.arange(len(gaps)), 0) for text, gaps in texts]
        inputs = {"input_ids": padded(ids), "attention_mask": mask_of(ids), "markers": padded(markers)}
        return Batch(inputs, torch.from_numpy(examples.column("class")[places]).long())

    def model(self, backbone: Any, dropout: float) -> "torch.nn.Module":
        """A linear head on the states at the opening markers."""
        from staytuned.modelling.heads import EntityHead

        return EntityHead(backbone, len(self.classes), dropout)

    def statistics(self, frame: pandas.DataFrame, predictions: list[Any]) -> numpy.ndarray:
        """Of each relation hits, predicted and actual; whether label and direction are right; 1."""
        truth, predicted = self._numbers(frame), numpy.stack(predictions).argmax(axis=1)
        one = numpy.array([[DIRECTION.sub("", label) == name for name in self.relations] for label in self.classes])
        right = (truth == predicted)[:, None]
        parts = [one[truth] * right, one[predicted], one[truth], right, numpy.ones_like(right)]
        return numpy.hstack(parts, dtype=float)

    def measure(self, sums: numpy.ndarray) -> dict[str, numpy.ndarray]:
        """Macro-F1 over the relations that occur; accuracy over all labels.

        The official score of SemEval-2010 Task 8 (Hendrickx et al. 2010, section 5): a hit has the right relation in
        the right direction, while predicted and actual are counted in either; the negative has no F1 of its own.
        """
        return {"macro_f1": macro_f1(self.counts(sums)), "accuracy": sums[..., -2] / sums[..., -1]}

    @property
    def counted(self) -> list[str]:
        """The relations, but for the negative."""
        return self.relations


def nearest(length: int, markers: numpy.ndarray, before: int, after: int, room: int) -> numpy.ndarray:
    """Which tokens of a text are kept, as their places in order: all, where there is room.

    First the tokens that the model wants around any text, then those from the first marker to the last, then those
    on either side; each time those next to a marker first.
    """
    places = numpy.arange(length)
    text = (places >= before) & (places < length - after)
    outside = (places < markers.min()) | (places > markers.max())
    distance = numpy.abs(places[:, None] - markers).min(axis=1)
    return numpy.sort(numpy.lexsort((distance, outside, text))[:room])


def _unmarked(text: Any) -> str | None:
    """What is wrong with the markers of a text; of one that is null or blank, nothing."""
    if not isinstance(text, str) or not text.strip():
        return None
    found = MARKER.findall(text)
    missing = [marker for marker in MARKERS if marker not in found]
    if missing:
        return f"text lacks markers: {' '.join(missing)}"
    if len(found) > len(MARKERS):
        return f"text has markers more than once: {' '.join(found)}"
    if found not in ORDERS:
        return f"text has markers nested or in the wrong order: {' '.join(found)}"
    empty = EMPTY.search(text)
    return f"text marks nothing: {empty[0]}" if empty else None


def _is_object(label: Any) -> bool:
    return isinstance(label, str) and label.startswith("{")


def _marked(text: Any, label: Any) -> tuple[Any, Any]:
    """Text and relation, the entities marked where the label says; as they are, where it says nothing that fits."""
    if not isinstance(text, str) or not _is_object(label):
        return text, label
    with suppress(ValueError, RecursionError, TypeError, KeyError):
        marked, said = text, json.loads(label)
        spans = [said["e1"], said["e2"]]
        if isinstance(said["relation"], str) and all(0 <= start < end <= len(text) for start, end in spans):
            # from the last to the first, so that places stay true; where two meet, the one that opens goes first
            ends = enumerate(place for span in spans for place in span)
            for place, _, marker in sorted(((place, i % 2 == 0, MARKERS[i]) for i, place in ends), reverse=True):
                marked = marked[:place] + marker + marked[place:]
            return marked, said["relation"]
    return text, label
