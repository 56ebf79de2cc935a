"""Language modelling: texts without labels, to make a base model at home in a domain."""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy
import pandas
import pyarrow

from staytuned.data.readers import Found
from staytuned.modelling.borders import MASKS, STARTS, special_token
from staytuned.modelling.examples import NOTHING, Examples, list_array
from staytuned.sections import TaskOptions
from staytuned.tasks import Batch, Metric, Side
from staytuned.tasks.generative import Generative

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MASKED = 0.15  # share of the tokens that are to be found again (Devlin et al. 2019, section 3.1)


def paragraphs(lines: Iterator[str]) -> Iterator[Found]:
    """Rows of a text file: paragraphs, with blank lines between them."""
    here: list[str] = []
    number = 0
    for number, line in enumerate(lines, 1):
        if line.strip():
            here.append(line.rstrip("\r\n"))
        elif here:
            yield number - 1, {"text": "\n".join(here)}, None
            here = []
    if here:
        yield number, {"text": "\n".join(here)}, None


class Options(TaskOptions):
    """What is predicted: each next token, or tokens that were masked."""

    objective: Literal["causal", "masked"]


class LanguageModelling(Generative):
    """A prediction is what the model makes of a text: loss in nats, target tokens, bytes of UTF-8.

    A row is cut into blocks that hold each of its tokens once, and no block holds two rows.
    """

    Options = Options
    columns = ("text",)
    labelled = False
    formats = {".txt": paragraphs}
    kind = "AutoModelForCausalLM"
    kinds = {
        "AutoModelForCausalLM": "task.objective to 'causal'",
        "AutoModelForMaskedLM": "task.objective to 'masked'",
    }
    metrics: tuple[Metric, ...] = (
        Metric("bits_per_byte", "bits per byte", higher_is_better=False),
        Metric("perplexity", "perplexity", higher_is_better=False),
    )
    before = "the base model as it is"
    start = {
        "task": {"objective": "causal"},
        "model": {"base": "HuggingFaceTB/SmolLM2-135M-Instruct"},
        "ingest": {"columns": {"label": None}},
        "encode": {"max_tokens": 256},
        "train": {"batch_size": 8, "learning_rate": 1.0e-4, "dropout": 0.0, "sharpness": 0.0},
        "gate": {"bounds": {"bits_per_byte": 1.5}},
    }

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.is_masked = options.objective == "masked"
        if self.is_masked:
            self.kind = "AutoModelForMaskedLM"
            self.metrics = self.metrics[1:]  # of the masked tokens; of all bytes nothing is known
            self.counts_tokens = True

    @property
    def answers(self) -> Any:
        """Perplexities of the two objectives are no more alike than two labels."""
        return self.options.objective

    def faults(self, frame: pandas.DataFrame) -> list[str | None]:
        """None: any text will do."""
        return [None] * len(frame)

    def adapt(self, tokenizer: "Tokenizer", max_tokens: int) -> None:
        """Blocks of a causal model are cut here, those of a masked one by the tokenizer."""
        super().adapt(tokenizer, max_tokens)
        if not self.is_masked:
            tokenizer.no_truncation()

    def encode(self, tokenizer: "Tokenizer", frame: pandas.DataFrame) -> pyarrow.Table:
        """Blocks of at most ``max_tokens``, with the labels of a causal model, or with what a masked one may mask."""
        return (self._windows if self.is_masked else self._blocks)(tokenizer, frame["text"].tolist())

    def _blocks(self, tokenizer: "Tokenizer", texts: list[str]) -> pyarrow.Table:
        """The label of each token is the next; the first is predicted from a token that stands between texts."""
        start = special_token(tokenizer, STARTS)
        places, inputs, labels = [], list[list[int]](), list[list[int]]()
        for place, encoding in enumerate(tokenizer.encode_batch_fast(texts, add_special_tokens=False)):
            ids = encoding.ids
            read = [start, *ids[:-1]]
            for first in range(0, len(read), self.max_tokens):
                places.append(place)
                inputs.append(read[first : first + self.max_tokens])
                labels.append(ids[first : first + self.max_tokens] or [NOTHING])
        return _table(places, inputs, labels=list_array(labels))

    def _windows(self, tokenizer: "Tokenizer", texts: list[str]) -> pyarrow.Table:
        places, inputs, special = [], list[list[int]](), list[list[int]]()
        for place, encoding in enumerate(tokenizer.encode_batch_fast(texts)):
            for window in (encoding, *encoding.overflowing):
                places.append(place)
                inputs.append(window.ids)
                special.append(window.special_tokens_mask)
        count = len(places)
        return _table(
            places,
            inputs,
            special=list_array(special),
            # the same in every row: training does not see the tokenizer
            mask=numpy.full(count, special_token(tokenizer, MASKS), numpy.int32),
            vocabulary=numpy.full(count, tokenizer.get_vocab_size(), numpy.int32),
        )

    def batch(self, examples: Examples, places: list[int], random: numpy.random.Generator | None) -> Batch:
        """The same; what a masked model is to find is drawn, by the text itself where the model is judged."""
        if not self.is_masked:
            return super().batch(examples, places, random)
        ids, special = examples.lists("input_ids", places), examples.lists("special", places)
        mask, vocabulary = examples.column("mask")[places], examples.column("vocabulary")[places]
        drawn = [masked(*one, random) for one in zip(ids, special, mask, vocabulary, strict=True)]
        return self.batch_of([read for read, _ in drawn], [labels for _, labels in drawn])

    def decode(self, frame: pandas.DataFrame, examples: Examples, outputs: list[numpy.ndarray]) -> list[Any]:
        """Loss, target tokens and bytes of each text, float64 of shape (3,)."""
        found = []
        for text, places in zip(frame["text"], examples.by_row, strict=True):
            losses = numpy.concatenate([outputs[place] for place in places]).astype(numpy.float64)
            found.append(numpy.array([losses.sum(), len(losses), len(text.encode())], numpy.float64))
        return found

    def table(self, predictions: list[Any]) -> dict[str, list[Any]]:
        """The metrics of each text."""
        return {name: values.tolist() for name, values in self.measure(numpy.stack(predictions)).items()}

    def predict_before(self, base: Path, train: Side, test: Side) -> list[Any]:
        """By the base model."""
        from staytuned.modelling.language import base_model

        outputs = self.outputs_of(base_model(self.kind, base), test.examples)
        return self.decode(test.frame, test.examples, outputs)

    def statistics(self, frame: pandas.DataFrame, predictions: list[Any]) -> numpy.ndarray:
        """Loss, target tokens, bytes."""
        return numpy.stack(predictions)

    def measure(self, sums: numpy.ndarray) -> dict[str, numpy.ndarray]:
        """Bits that a byte of text takes, whatever the tokenizer; exp of the mean loss of a target token.

        A text without tokens takes none, and its perplexity is 1. Of a masked model only the second is given, over
        the masked tokens.
        """
        loss, tokens, size = numpy.moveaxis(sums, -1, 0)
        found = {
            "bits_per_byte": loss / math.log(2) / numpy.maximum(size, 1),
            "perplexity": numpy.exp(loss / numpy.maximum(tokens, 1)),
        }
        return {metric.name: found[metric.name] for metric in self.metrics}


def _table(places: list[int], inputs: list[list[int]], **columns: Any) -> pyarrow.Table:
    own = {"place": numpy.array(places, numpy.int64), "input_ids": list_array(inputs)}
    return pyarrow.table(own | {"truncated": numpy.zeros(len(places), bool)} | columns)


def masked(
    ids: numpy.ndarray, special: numpy.ndarray, mask: int, vocabulary: int, random: numpy.random.Generator | None
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Hide some of a text's tokens (Devlin et al. 2019, section 3.1): 80 % masked, 10 % another, 10 % as they are.

    Args:
        ids: Token ids.
        special: 1 where a token is the tokenizer's own, which is never hidden.
        mask: Id of the mask token.
        vocabulary: Other tokens are drawn below this.
        random: None: the same draw for the same ids, whatever the order of the rows.

    Returns:
        The ids to read, and the labels; at least one token is hidden, where there is one.
    """
    if random is None:
        random = numpy.random.default_rng(list(hashlib.blake2b(ids.tobytes(), digest_size=8).digest()))
    own = numpy.flatnonzero(special == 0)
    hidden = own[random.random(len(own)) < MASKED]
    if len(own) and not len(hidden):
        hidden = random.choice(own, 1)
    labels = numpy.full(len(ids), NOTHING, numpy.int64)
    labels[hidden] = ids[hidden]
    read, fate = ids.astype(numpy.int64), random.random(len(hidden))
    read[hidden[fate < 0.8]] = mask
    other = hidden[fate >= 0.9]
    read[other] = random.integers(vocabulary, size=len(other))
    return read, labels
