"""Extractive question answering: the answer is a span of the context, or there is none."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy
import pandas
import pyarrow
from pydantic import Field

from staytuned.modelling.examples import Examples, list_array
from staytuned.sections import Count, TaskOptions
from staytuned.tasks import Batch, Metric, Side, Task
from staytuned.tasks.answer_spans import first_and_last, lengths_allowed, offsets_of, whole
from staytuned.tasks.squad import answers_in, fault, normalised, read_squad, scores, trimmed

if TYPE_CHECKING:
    import torch
    from tokenizers import Encoding, Tokenizer

FEWEST = 16  # tokens that a question with its context needs
WITHOUT = 2  # windows without the answer that a question is learned with, drawn anew each time
ROWS = 64  # tokenized at a time: a long context takes some megabytes
IDS = ("ids", "type_ids")
LISTS = ("input_ids", "type_ids", "starts", "ends", "windows", "firsts", "lasts")
SENTENCE = re.compile(r"\S.*?(?:[.!?؟](?=\s)|[。！？]|$)", re.MULTILINE)


class Options(TaskOptions):
    """How contexts are cut into windows, how long an answer may be, and whether there may be none."""

    stride: Annotated[int, Field(ge=0)]  # tokens of the context that neighbouring windows share
    max_answer_tokens: Count
    unanswerable: bool = True  # some questions have no answer, as in SQuAD 2.0; false: all have one, as in 1.1

    @classmethod
    def contradictions(cls, raw: dict[str, Any]) -> list[str]:
        """A window needs room; questions on one document stay together."""
        stride, tokens = raw["task"]["stride"], raw["encode"]["max_tokens"]
        found = []
        if tokens < FEWEST:
            found.append(f"encode.max_tokens: is {tokens}; a question with its context needs {FEWEST} or more")
        if stride * 4 >= tokens:
            found.append(
                f"task.stride: is {stride}, not under a quarter of encode.max_tokens, which is {tokens}; "
                "change one of the two"
            )
        if raw["ingest"]["columns"]["group"] is None:
            found.append(
                "ingest.columns.group: is null, so that questions on one context could be on two sides; "
                "name the column of the document, or of the context"
            )
        return found


class Answer(NamedTuple):
    """``context[start:end]``, empty where there is no answer."""

    text: str
    start: int
    end: int
    score: float  # log-odds of the best span against no answer


class QuestionAnswering(Task):
    """Start and end logits on the tokens of a context's windows; position 0 stands for no answer.

    Devlin et al. 2019, sections 4.2 and 4.3. An example holds all windows of a row, one after the other: training
    takes those with the answer and a few without, judging takes all.

    ``text`` is the question, ``text_pair`` the context, ``label`` a list of answers {text, start}, [] for none.
    """

    Options = Options
    columns = ("text", "text_pair", "label")
    freezable = True
    formats = {".json": read_squad}
    metrics = (Metric("f1", "F1"), Metric("exact_match", "exact match"))
    before = "the sentence with most words of the question"
    start = {
        "task": {"stride": 48, "max_answer_tokens": 30, "unanswerable": True},
        "ingest": {"columns": {"text": "question", "text_pair": "context", "label": "answers", "group": "title"}},
        "encode": {"max_tokens": 256},
        "train": {"epochs": 3, "batch_size": 16, "learning_rate": 2.0e-4, "sharpness": 0.0},
        "gate": {"bounds": {"f1": 0.4, "exact_match": 0.25}},
    }

    def labels(self, frame: pandas.DataFrame) -> pandas.Series:
        """Answers as {text, start} without the white space around them, which data sets count in or leave out."""
        kept = [trimmed(*row) for row in zip(frame["label"], frame["text_pair"], strict=True)]
        return pandas.Series(kept, index=frame.index, dtype="str")

    def faults(self, frame: pandas.DataFrame) -> list[str | None]:
        """A label that is no list of answers; an answer that is not where it is said to be; none where all have one."""
        may_lack = self.options.unanswerable
        return [fault(*row, may_lack) for row in zip(frame["label"], frame["text_pair"], strict=True)]

    def encode(self, tokenizer: "Tokenizer", frame: pandas.DataFrame) -> pyarrow.Table:
        """All windows of each row, in lists.

        Over tokens: ``input_ids``; ``type_ids``; ``starts`` and ``ends``, the characters of the context that a token
        stands for, 0 where it is not of the context. Over windows: ``windows``, the tokens of each; ``firsts`` and
        ``lasts``, the tokens of the answer in it, 0 where it is not there. ``truncated``: the question is cut, or no
        window holds an answer whole.
        """
        rows, truncated = [], []
        labels, contexts = frame["label"], frame["text_pair"].fillna("")
        for (encoding, cut), label, context in zip(self._encodings(tokenizer, frame), labels, contexts, strict=True):
            windows = [encoding, *encoding.overflowing]
            offsets = [offsets_of(window) for window in windows]
            answers = [(start, start + len(text)) for text, start in answers_in(label) or []]
            spans = [first_and_last(context, tokens, answers) for tokens in offsets]
            ids, types = ([number for window in windows for number in getattr(window, name)] for name in IDS)
            starts, ends = numpy.concatenate(offsets).T
            rows.append((ids, types, starts, ends, [len(tokens) for tokens in offsets], *zip(*spans, strict=True)))
            truncated.append(cut or (bool(answers) and not any(first for first, _ in spans)))
        columns = {name: list_array([row[place] for row in rows]) for place, name in enumerate(LISTS)}
        places = numpy.arange(len(frame))
        return pyarrow.table({"place": places, "truncated": pyarrow.array(truncated, pyarrow.bool_())} | columns)

    def _encodings(self, tokenizer: "Tokenizer", frame: pandas.DataFrame) -> Iterator[tuple["Encoding", bool]]:
        """Each row as its first window, which has the others in ``overflowing``, and whether the question is cut.

        A question takes half of the room at most.
        """
        room = self.max_tokens - tokenizer.num_special_tokens_to_add(True)
        for begin in range(0, len(frame), ROWS):
            rows = frame.iloc[begin : begin + ROWS]
            tokenizer.enable_truncation(room // 2)
            alone = tokenizer.encode_batch(rows["text"].tolist(), add_special_tokens=False)
            ends = [one.offsets[-1][1] if one.overflowing else None for one in alone]
            questions = [text[:end] for text, end in zip(rows["text"], ends, strict=True)]
            tokenizer.enable_truncation(self.max_tokens, stride=self.options.stride, strategy="only_second")
            pairs = tokenizer.encode_batch(list(zip(questions, rows["text_pair"].fillna(""), strict=True)))
            yield from zip(pairs, [end is not None for end in ends], strict=True)

    def batch(self, examples: Examples, places: list[int], random: numpy.random.Generator | None) -> Batch:
        """Windows: token ids, their mask, where a span may touch; start, end and number of the example of each."""
        import torch

        from staytuned.modelling.heads import mask_of, padded

        ids, types, ends, targets = [], [], [], []
        columns = [examples.lists(name, places) for name in LISTS if name != "starts"]
        for number, (*tokens, lengths, firsts, lasts) in enumerate(zip(*columns, strict=True)):
            windows = list(zip(*(_parts(values, lengths) for values in tokens), firsts, lasts, strict=True))
            for place in _to_learn(firsts, random) if random else range(len(windows)):
                some_ids, some_types, some_ends, first, last = windows[place]
                ids.append(some_ids)
                types.append(some_types)
                ends.append(some_ends)
                targets.append((first, last, number))
        allowed = padded(ends) > 0
        allowed[:, 0] = True
        inputs = {"input_ids": padded(ids), "attention_mask": mask_of(ids), "token_type_ids": padded(types)}
        return Batch(inputs | {"allowed": allowed}, torch.tensor(numpy.array(targets)).long())

    def model(self, backbone: Any, dropout: float) -> "torch.nn.Module":
        """Two numbers on each token."""
        from staytuned.modelling.heads import SpanHead

        return SpanHead(backbone, dropout)

    def loss(self, outputs: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
        """Mean of the cross-entropies of the first and the last token."""
        from torch.nn.functional import cross_entropy

        return (cross_entropy(outputs[..., 0], targets[:, 0]) + cross_entropy(outputs[..., 1], targets[:, 1])) / 2

    def outputs(self, outputs: "torch.Tensor", batch: Batch) -> list[numpy.ndarray]:
        """Start and end logits of each example's windows, one after the other, shape (tokens, 2)."""
        mask = batch.inputs["attention_mask"].cpu().numpy()
        values = outputs.float().cpu().numpy()[mask > 0]
        tokens = numpy.bincount(batch.targets[:, 2].cpu().numpy(), weights=mask.sum(axis=1)).astype(int)
        return _parts(values, tokens)

    def decode(self, frame: pandas.DataFrame, examples: Examples, outputs: list[numpy.ndarray]) -> list[Any]:
        """The likeliest span of each row over all its windows, an ``Answer``."""
        names = ("windows", "starts", "ends")
        columns = [examples.lists(name, range(len(examples))) for name in names]
        return [self._best(*row) for row in zip(frame["text_pair"].fillna(""), outputs, *columns, strict=True)]

    def _best(
        self, context: str, logits: numpy.ndarray, windows: numpy.ndarray, starts: numpy.ndarray, ends: numpy.ndarray
    ) -> Answer:
        """The span with the highest log-odds against position 0 of its own window; none where none is likelier.

        A window's logits are fixed up to a constant only, so that those of two windows compare by this difference.
        """
        best = Answer("", 0, 0, -numpy.inf)
        parts = (_parts(values, windows) for values in (logits.astype(numpy.float64), starts, ends))
        for some, begins, finishes in zip(*parts, strict=True):
            tokens = numpy.flatnonzero(finishes)
            if not len(tokens):
                continue
            scores = some[tokens, 0][:, None] + some[tokens, 1] - some[0].sum()
            scores[~lengths_allowed(len(tokens), self.options.max_answer_tokens)] = -numpy.inf
            first, last = numpy.unravel_index(scores.argmax(), scores.shape)
            score = float(scores[first, last])
            if score > best.score:
                start, end = whole(context, int(begins[tokens[first]]), int(finishes[tokens[last]]))
                best = Answer(context[start:end], start, end, score)
        return Answer("", 0, 0, best.score) if self.options.unanswerable and best.score <= 0 else best

    def table(self, predictions: list[Any]) -> dict[str, list[Any]]:
        """The answer, empty for none; where it stands in the context, in characters; its log-odds against none."""
        return {
            "answer": [answer.text for answer in predictions],
            "start": [answer.start for answer in predictions],
            "end": [answer.end for answer in predictions],
            "score": [answer.score for answer in predictions],
        }

    def say(self, prediction: Any) -> str:
        """The answer and its score."""
        return f"{prediction.text or '(no answer)'}\t{prediction.score:.3f}"

    def predict_before(self, base: Path, train: Side, test: Side) -> list[Any]:
        """By counting words."""
        return [_sentence(*row) for row in zip(test.frame["text"], test.frame["text_pair"], strict=True)]

    def statistics(self, frame: pandas.DataFrame, predictions: list[Any]) -> numpy.ndarray:
        """F1, exact match, and 1, of each row: the best over its answers."""
        rows = []
        for label, answer in zip(frame["label"], predictions, strict=True):
            rows.append((*scores(answer.text, [text for text, _ in answers_in(label) or []]), 1.0))
        return numpy.array(rows)

    def measure(self, sums: numpy.ndarray) -> dict[str, numpy.ndarray]:
        """Means over the rows, as shares; SQuAD's script prints them as percentages."""
        return {"f1": sums[..., 0] / sums[..., 2], "exact_match": sums[..., 1] / sums[..., 2]}

    def details(self, frame: pandas.DataFrame, predictions: list[Any]) -> dict[str, Any]:
        """The same for the questions with an answer and for those without."""
        statistics = self.statistics(frame, predictions)
        none = frame["label"].map(lambda label: not answers_in(label)).to_numpy()
        kinds = {"with an answer": statistics[~none], "without": statistics[none]}
        return {
            "per_class": {
                kind: {name: float(value) for name, value in self.measure(rows.sum(axis=0)).items()}
                | {"support": len(rows)}
                for kind, rows in kinds.items()
                if len(rows)
            }
        }


def _parts(values: numpy.ndarray, lengths: numpy.ndarray) -> list[numpy.ndarray]:
    """Cut into consecutive parts of these lengths."""
    return numpy.split(values, numpy.cumsum(lengths)[:-1])


def _to_learn(firsts: numpy.ndarray, random: numpy.random.Generator) -> list[int]:
    """Windows with the answer, and up to ``WITHOUT`` others: most windows of a long context say nothing new."""
    others = numpy.flatnonzero(firsts == 0)
    drawn = random.choice(others, min(len(others), WITHOUT), replace=False)
    return sorted([*numpy.flatnonzero(firsts).tolist(), *drawn.tolist()])


def _sentence(question: str, context: str) -> Answer:
    """The sentence that shares most words with the question, the first of them."""
    words = set(normalised(question).split())
    found = list(SENTENCE.finditer(context))
    best = max(found, key=lambda match: len(words.intersection(normalised(match[0]).split())), default=None)
    return Answer(best[0], best.start(), best.end(), 0.0) if best else Answer("", 0, 0, 0.0)
