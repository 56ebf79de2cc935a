"""Zero-shot and few-shot by prompt: a text has the label that a decoder finds likeliest to follow it."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy
import torch

from staytuned.errors import ParamsError
from staytuned.modelling.heads import backbone, mask_of, padded
from staytuned.progress import track
from staytuned.prompting import Predict
from staytuned.prompting.calibration import label_bias
from staytuned.prompting.embedder import Embedder, tokenizer_of
from staytuned.prompting.labelled import Labelled
from staytuned.tasks.text_classification import softmax

PER_LABEL = 2  # examples of each label in a prompt
Example = tuple[str, str]  # text, label
Choose = Callable[[list[str]], list[list[Example]]]  # the examples to show with each text


class Decoder:
    """A decoder out of its folder, asked for one of several labels.

    Args:
        folder: Of the base model.
        template: Text with ``{examples}`` and, after it, ``{text}``; ``{labels}`` stands for all labels. What follows
            ``{examples}`` is also the form of an example, whose label and an empty line come after it.
        labels: In their order.
        max_tokens: Where each text, that of an example too, is cut.
    """

    def __init__(self, folder: Path, template: str, labels: list[str], max_tokens: int) -> None:
        self.labels, self.max_tokens = labels, max_tokens
        self._before, self._form = template.split("{examples}")
        self._tokenizer = tokenizer_of(folder)
        self._tokenizer.no_truncation()
        self._answers = [self._tokenizer.encode(f" {label}", add_special_tokens=False).ids for label in labels]
        self._model = backbone("AutoModelForCausalLM", folder, 0.0, pretrained=True).eval()

    def prompt(self, text: str, examples: list[Example]) -> str:
        """The template, filled."""
        shown = "".join(f"{self._filled(self._form, one)} {label}\n\n" for one, label in examples)
        return self._filled(self._before, text) + shown + self._filled(self._form, text)

    def _filled(self, part: str, text: str) -> str:
        values = {"labels": ", ".join(self.labels), "text": self._cut(text)}
        return re.sub(r"\{(labels|text)\}", lambda found: values[found[1]], part)

    def _cut(self, text: str) -> str:
        ends = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return text if len(ends) <= self.max_tokens else text[: ends[self.max_tokens - 1][1]]

    def scores(self, texts: list[str], examples: list[list[Example]]) -> numpy.ndarray:
        """Log-probability of each label after the prompt of each text, shape (texts, labels).

        Raises:
            ParamsError: a prompt is longer than the decoder can read.
        """
        filled = [self.prompt(text, shown) for text, shown in zip(texts, examples, strict=True)]
        prompts = [self._tokenizer.encode(prompt).ids for prompt in filled]
        self._check(max(map(len, prompts)) + max(map(len, self._answers)))
        return numpy.stack([self._score(ids) for ids in track(prompts, len(prompts), "prompting")])

    @torch.inference_mode()
    def _score(self, prompt: list[int]) -> numpy.ndarray:
        """The prompt is read once; all labels then go on from there, side by side."""
        read = self._model(input_ids=torch.tensor([prompt]), use_cache=True, logits_to_keep=1)
        logits, answers = read.logits.expand(len(self.labels), -1, -1), padded(self._answers)
        if answers.shape[1] > 1:
            read.past_key_values.batch_repeat_interleave(len(self.labels))
            later = self._model(input_ids=answers[:, :-1], past_key_values=read.past_key_values).logits
            logits = torch.cat([logits, later], dim=1)
        chances = logits.double().log_softmax(dim=2).gather(2, answers.unsqueeze(2)).squeeze(2)
        found: numpy.ndarray = (chances * mask_of(self._answers)).sum(dim=1).numpy()
        return found

    def _check(self, tokens: int) -> None:
        most = self._model.config.max_position_embeddings
        if tokens > most:
            raise ParamsError(
                f"compare.decoder: reads at most {most} tokens, but a prompt with a label has {tokens}; "
                "lower encode.max_tokens, where texts are cut, shorten compare.template, or name another decoder"
            )


class Similar:
    """Chooses as examples, out of labelled rows, of each label those whose embeddings are most like the text's.

    Liu et al. 2022, What Makes Good In-Context Examples for GPT-3?, section 2; here balanced over the labels.
    """

    def __init__(self, embed: Embedder, rows: Labelled, seed: int) -> None:
        self._embed, self._rows = embed, rows
        self._vectors = embed(rows.texts)
        self._places = [numpy.flatnonzero(rows.numbers == number) for number in numpy.unique(rows.numbers)]
        self._count = min(PER_LABEL, *map(len, self._places))
        self._order = numpy.random.default_rng(seed).permutation(self._count * len(self._places))

    def __call__(self, texts: list[str]) -> list[list[Example]]:
        """The examples of each text: as many of each label, in an order of labels that is the same for all texts."""
        return [self._nearest(likeness) for likeness in self._embed(texts) @ self._vectors.T]

    def _nearest(self, likeness: numpy.ndarray) -> list[Example]:
        ranked = [places[numpy.argsort(-likeness[places], kind="stable")] for places in self._places]
        chosen = numpy.concatenate([places[: self._count] for places in ranked])
        rows = self._rows
        return [(rows.texts[place], rows.classes[rows.numbers[place]]) for place in chosen[self._order]]


def by_prompt(decoder: Decoder, unlabelled: list[str], choose: Choose = lambda texts: [[] for _ in texts]) -> Predict:
    """Labels by the probability of their words after a prompt, with examples in it or without (Brown et al. 2020).

    Args:
        decoder: Says how likely labels are.
        unlabelled: Texts that say which labels the decoder prefers.
        choose: The examples to show with each text; by default none.
    """
    bias = label_bias(decoder.scores(unlabelled, choose(unlabelled)))
    return lambda texts: list(softmax(decoder.scores(texts, choose(texts)) + bias))
