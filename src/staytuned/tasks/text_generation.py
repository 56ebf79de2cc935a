"""Text generation from a text: summaries, translations."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy
import pandas
import pyarrow
from pydantic import field_validator

from staytuned.errors import ParamsError
from staytuned.modelling import text_metrics
from staytuned.modelling.borders import ENDS, special_token
from staytuned.modelling.examples import NOTHING, Examples, list_array
from staytuned.sections import Count, TaskOptions
from staytuned.tasks import Metric, Side
from staytuned.tasks.generative import Generative

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

HOLE = "{text}"
KINDS = {"encoder-decoder": "AutoModelForSeq2SeqLM", "decoder": "AutoModelForCausalLM"}
LEAD = "the first sentence"
SENTENCE_END = re.compile(r"(?<=[.!?])\s|(?<=[。！？])")


class Options(TaskOptions):
    """What the model reads and how long its answer may be; what rules, and what BLEU takes for a word."""

    model: Literal["encoder-decoder", "decoder"]
    prompt: str
    max_target_tokens: Count
    metric: Literal["rouge_l", "chrf"]
    bleu_words: Literal["13a", "char"]

    @field_validator("prompt")
    @classmethod
    def _one_hole(cls, value: str) -> str:
        if value.count(HOLE) != 1:
            raise ValueError(f"is {value!r}; it must hold {HOLE} once, where the text is to stand")
        return value

    @classmethod
    def contradictions(cls, raw: dict[str, Any]) -> list[str]:
        """A decoder's answer stands behind its prompt."""
        task, limit = raw["task"], raw["encode"]["max_tokens"]
        if task["model"] == "decoder" and task["max_target_tokens"] >= limit:
            return [
                f"task.max_target_tokens: is {task['max_target_tokens']}, which leaves no room for a prompt in "
                f"encode.max_tokens, which is {limit}; change one of the two"
            ]
        return []


class TextGeneration(Generative):
    """An encoder-decoder reads the prompt, or a decoder goes on from it; a prediction is a string, made greedily."""

    Options = Options
    kind = KINDS["encoder-decoder"]
    kinds = {kind: f"task.model to {name!r}" for name, kind in KINDS.items()}
    metrics: tuple[Metric, ...] = (
        Metric("rouge_l", "ROUGE-L"),
        Metric("rouge_1", "ROUGE-1"),
        Metric("rouge_2", "ROUGE-2"),
        Metric("chrf", "chrF"),
        Metric("bleu", "BLEU"),
        Metric("length", "length over the reference's"),  # a floor: silence is the usual failure
        Metric("copied", "share of words copied", higher_is_better=False),
    )
    before = LEAD
    start = {
        "task": {
            "model": "decoder",
            "prompt": "Summarise:\n{text}\nSummary:\n",
            "max_target_tokens": 64,
            "metric": "rouge_l",
            "bleu_words": "13a",
        },
        "model": {"base": "HuggingFaceTB/SmolLM2-135M-Instruct"},
        "encode": {"max_tokens": 512},
        "train": {"batch_size": 8, "learning_rate": 5.0e-5, "dropout": 0.0, "sharpness": 0.0},
        "gate": {"bounds": {"rouge_l": 0.15, "length": 0.3}},
    }

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.kind = KINDS[options.model]
        self.is_decoder = options.model == "decoder"
        if options.metric == "chrf":
            self.metrics = tuple(sorted(self.metrics, key=lambda metric: metric.name != "chrf"))
            self.before = "a copy of the input"

    def faults(self, frame: pandas.DataFrame) -> list[str | None]:
        """A target without a word."""
        return [
            f"label is blank: {label!r}" if isinstance(label, str) and not label.strip() else None
            for label in frame["label"]
        ]

    # Examples

    @property
    def _room(self) -> int:
        """Tokens of a prompt: a decoder needs some for its answer."""
        return self.max_tokens - (self.options.max_target_tokens if self.is_decoder else 0)

    def adapt(self, tokenizer: "Tokenizer", max_tokens: int) -> None:
        """Truncation is done here, in the text alone, so that the prompt around it stays whole.

        Raises:
            ParamsError: the prompt leaves no room for a text.
        """
        super().adapt(tokenizer, max_tokens)
        tokenizer.no_truncation()
        alone = len(tokenizer.encode(self.options.prompt.replace(HOLE, "")).ids)
        if alone >= self._room:
            raise ParamsError(
                f"task.prompt alone takes {alone} tokens, and there is room for {self._room} (encode.max_tokens, of a "
                "decoder less task.max_target_tokens); shorten the prompt, or raise encode.max_tokens"
            )

    def encode(self, tokenizer: "Tokenizer", frame: pandas.DataFrame) -> pyarrow.Table:
        """What is read and the labels: of a decoder prompt and target in one, with a label at each target token.

        ``prompt`` is how many tokens of ``input_ids`` are the prompt.
        """
        prompts = [self._prompt(tokenizer, text) for text in frame["text"]]
        targets = [self._target(tokenizer, label) for label in frame["label"]]
        inputs, labels = list[list[int]](), list[list[int]]()
        for (prompt, _), (target, _) in zip(prompts, targets, strict=True):
            inputs.append(prompt + target[:-1] if self.is_decoder else prompt)
            silent = len(prompt) - bool(target) if self.is_decoder else not target
            labels.append([NOTHING] * silent + target)
        columns = {
            "place": numpy.arange(len(frame)),
            "input_ids": list_array(inputs),
            "truncated": numpy.array([a or b for (_, a), (_, b) in zip(prompts, targets, strict=True)], bool),
            "labels": list_array(labels),
            "prompt": numpy.array([len(prompt) for prompt, _ in prompts], numpy.int32),
        }
        return pyarrow.table(columns)

    def _prompt(self, tokenizer: "Tokenizer", text: str) -> tuple[list[int], bool]:
        """Token ids of the prompt around as much of the text as there is room for; whether some was cut."""
        head, _, tail = self.options.prompt.partition(HOLE)
        cut = False
        while True:
            encoding = tokenizer.encode(head + text + tail)
            excess = len(encoding.ids) - self._room
            if excess <= 0:
                return encoding.ids, cut
            until = len(head) + len(text)
            starts = [a for a, b in encoding.offsets if len(head) <= a < b and a < until]
            text, cut = text[: starts[-excess] - len(head)] if excess <= len(starts) else "", True

    def _target(self, tokenizer: "Tokenizer", label: Any) -> tuple[list[int], bool]:
        """Token ids of a target and of its end, which stays where it is cut; whether it was."""
        if not isinstance(label, str):  # to predict
            return [], False
        if self.is_decoder or not tokenizer.encode("").ids:
            ids = [*tokenizer.encode(label, add_special_tokens=False).ids, special_token(tokenizer, ENDS)]
        else:
            ids = tokenizer.encode(label).ids
        most = self.options.max_target_tokens
        return (ids, False) if len(ids) <= most else (ids[: most - 1] + ids[-1:], True)

    # Predictions

    def predict(
        self, model: "torch.nn.Module", tokenizer: "Tokenizer", frame: pandas.DataFrame, examples: Examples
    ) -> list[Any]:
        """The likeliest token, again and again."""
        from staytuned.modelling.language import generate

        ids = examples.lists("input_ids", range(len(examples)))
        prompts = [row[:length] for row, length in zip(ids, examples.column("prompt"), strict=True)]
        end = special_token(tokenizer, ENDS) if self.is_decoder else None
        said = generate(model.encoder, prompts, end, self.options.max_target_tokens)
        return [text.strip() for text in tokenizer.decode_batch(said)]

    def decode(self, frame: pandas.DataFrame, examples: Examples, outputs: list[numpy.ndarray]) -> list[Any]:
        """Not from the losses of targets: ``predict`` generates."""
        raise NotImplementedError("texts are generated by predict()")

    def table(self, predictions: list[Any]) -> dict[str, list[Any]]:
        """The texts."""
        return {"text": predictions}

    def predict_before(self, base: Path, train: Side, test: Side) -> list[Any]:
        """The text's first sentence, or all of it."""
        texts = test.frame["text"].tolist()
        return [SENTENCE_END.split(text.strip())[0] for text in texts] if self.before == LEAD else texts

    # Judgement

    @property
    def validation_metric(self) -> Metric:
        """Nothing is generated in training."""
        return Metric("perplexity", "perplexity of the targets", higher_is_better=False)

    def validation_score(self, frame: pandas.DataFrame, examples: Examples, outputs: list[numpy.ndarray]) -> float:
        """exp of the mean loss of a target token."""
        return float(numpy.exp(numpy.concatenate(outputs).astype(numpy.float64).mean()))

    def statistics(self, frame: pandas.DataFrame, predictions: list[Any]) -> numpy.ndarray:
        """Rows, ROUGE, characters said and of the reference, words copied and said, what BLEU and chrF are made of."""
        references, texts = frame["label"].tolist(), frame["text"].tolist()
        counts = [
            (1, len(said), len(target), *text_metrics.copied(said, text))
            for said, target, text in zip(predictions, references, texts, strict=True)
        ]
        parts = [
            numpy.array(counts, numpy.float64).reshape(-1, 5),
            text_metrics.rouge(predictions, references),
            text_metrics.bleu_statistics(predictions, references, self.options.bleu_words),
            text_metrics.chrf_statistics(predictions, references),
        ]
        return numpy.concatenate(parts, axis=1)

    def measure(self, sums: numpy.ndarray) -> dict[str, numpy.ndarray]:
        """Means of ROUGE; BLEU and chrF of the corpus, 0 to 100; characters, and words of the input, as shares."""
        rows, said, wanted, copied, words = numpy.moveaxis(sums[..., :5], -1, 0)
        means = sums[..., 5:8] / rows[..., None]
        found = {
            "rouge_1": means[..., 0],
            "rouge_2": means[..., 1],
            "rouge_l": means[..., 2],
            "bleu": text_metrics.bleu(sums[..., 8 : 8 + text_metrics.BLEU]),
            "chrf": text_metrics.chrf(sums[..., 8 + text_metrics.BLEU :]),
            "length": said / wanted,
            "copied": copied / numpy.maximum(words, 1),
        }
        return {metric.name: found[metric.name] for metric in self.metrics}
