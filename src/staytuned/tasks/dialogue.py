"""Dialogue: the replies of an assistant, in chats of several turns."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy
import pandas
import pyarrow

from staytuned.modelling import chat, text_metrics
from staytuned.modelling.borders import ENDS, special_token
from staytuned.modelling.chat import Template, Turn
from staytuned.modelling.examples import NOTHING, Examples, list_array
from staytuned.sections import Count, TaskOptions
from staytuned.tasks import Metric, Side
from staytuned.tasks.generative import Generative

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer


class Options(TaskOptions):
    """How long a reply may be."""

    max_reply_tokens: Count

    @classmethod
    def contradictions(cls, raw: dict[str, Any]) -> list[str]:
        """A reply stands behind the turns before it."""
        most, limit = raw["task"]["max_reply_tokens"], raw["encode"]["max_tokens"]
        if most >= limit:
            return [
                f"task.max_reply_tokens: is {most}, which leaves no room for a turn in encode.max_tokens, which is "
                f"{limit}; change one of the two"
            ]
        return []


class Said(NamedTuple):
    """The reply to the turns before the chat's last reply, and the loss in nats of all replies that the chat has."""

    reply: str
    loss: float
    tokens: int


class Dialogue(Generative):
    """A decoder learns every reply of a chat, from the turns before it, in the words of its chat template."""

    Options = Options
    columns = ("text",)
    labelled = False
    counts_tokens = True
    kind = "AutoModelForCausalLM"
    metrics = (
        Metric("perplexity", "perplexity of the replies", higher_is_better=False),
        Metric("exact_match", "exact match"),
        Metric("distinct_2", "distinct bigrams in a reply"),
    )
    before = "the base model as it is"
    start = {
        "task": {"max_reply_tokens": 64},
        "model": {"base": "HuggingFaceTB/SmolLM2-135M-Instruct"},
        "ingest": {"columns": {"text": "messages", "label": None}},
        "encode": {"max_tokens": 512},
        "train": {"batch_size": 8, "learning_rate": 5.0e-5, "dropout": 0.0, "sharpness": 0.0},
        "gate": {"bounds": {"perplexity": 30.0, "distinct_2": 0.5}},
    }

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.template: Template | None = None
        self.specials: set[int] = set()
        self.end = 0

    # Rows

    def faults(self, frame: pandas.DataFrame) -> list[str | None]:
        """What is no chat: turns in JSON, each with role and content, that take turns and end with a reply."""
        return [chat.fault(text) if isinstance(text, str) and text.strip() else None for text in frame["text"]]

    def unanswerable(self, frame: pandas.DataFrame) -> list[str | None]:
        """What is no chat; one that waits for a reply is, and so is a text, as what a user says."""

        def fault(text: Any) -> str | None:
            turns = chat.listed(text) if isinstance(text, str) else None
            if turns is None:
                return None
            reply = [] if turns[-1].get("role") == chat.REPLY else [{"role": chat.REPLY, "content": "any"}]
            return chat.fault(json.dumps([*turns, *reply]))

        return [fault(text) for text in frame["text"]]

    # Examples

    def read(self, folder: Path) -> None:
        """The chat template."""
        self.template = Template.read(folder)

    def adapt(self, tokenizer: "Tokenizer", max_tokens: int) -> None:
        """A tokenizer without a chat template gets a plain one; what ends a reply is found by the template."""
        super().adapt(tokenizer, max_tokens)
        tokenizer.no_truncation()
        added = tokenizer.get_added_tokens_decoder()
        self.specials = {number for number, token in added.items() if token.special}
        if self.template is None:
            self.template = Template(chat.PLAIN, {"eos_token": added[special_token(tokenizer, ENDS)].content})
        probe = self.template.pieces([{"role": "user", "content": "a"}, {"role": chat.REPLY, "content": "b"}])
        ids = tokenizer.encode(probe[-1][0], add_special_tokens=False).ids
        ends = [number for number in ids if number in self.specials]
        self.end = ends[-1] if ends else special_token(tokenizer, ENDS)

    def encode(self, tokenizer: "Tokenizer", frame: pandas.DataFrame) -> pyarrow.Table:
        """Each token's label is the next where that is of a reply; ``prompt`` leads to the reply to be generated."""
        inputs, labels, prompts, truncated = list[list[int]](), list[list[int]](), list[list[int]](), list[bool]()
        for text in frame["text"]:
            turns = chat.turns_of(text)
            open_turns = turns[:-1] if turns[-1]["role"] == chat.REPLY and len(turns) > 1 else turns
            ids, learned, cut = self._fitted(tokenizer, turns, self.max_tokens)
            wanted = [token if is_reply else NOTHING for token, is_reply in zip(ids, learned, strict=True)]
            inputs.append(ids[:-1])
            labels.append(wanted[1:])
            prompts.append(self._fitted(tokenizer, open_turns, self.max_tokens - self.options.max_reply_tokens)[0])
            truncated.append(cut)
        columns = {
            "place": numpy.arange(len(frame)),
            "input_ids": list_array(inputs),
            "truncated": numpy.array(truncated, bool),
            "labels": list_array(labels),
            "prompt": list_array(prompts),
        }
        return pyarrow.table(columns)

    def _fitted(self, tokenizer: "Tokenizer", turns: list[Turn], room: int) -> tuple[list[int], list[bool], bool]:
        """Token ids of a chat, whether each is of a reply, and whether some of it had to go.

        The oldest turns go first, up to the next turn of a user; a system turn stays. What is still too long loses
        its beginning.
        """
        first = int(turns[0]["role"] == "system")
        starts = [place for place, turn in enumerate(turns) if turn["role"] == "user" and place > first]
        for start in [first, *starts]:
            ids, learned = self._tokens(tokenizer, turns[:first] + turns[start:])
            if len(ids) <= room:
                return ids, learned, start > first
        return ids[-room:], learned[-room:], True

    def _tokens(self, tokenizer: "Tokenizer", turns: list[Turn]) -> tuple[list[int], list[bool]]:
        """Piece by piece, so that a prompt has the same tokens as it had when its reply was learned."""
        assert self.template is not None
        found, learned = list[int](), list[bool]()
        for text, is_reply in self.template.pieces(turns):
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            said = 0
            if is_reply:  # up to the token that ends it; what follows, such as a line end, is the template's
                last = [place for place, number in enumerate(ids) if number in self.specials]
                ids = ids if last else [*ids, self.end]
                said = last[-1] + 1 if last else len(ids)
            found += ids
            learned += [True] * said + [False] * (len(ids) - said)
        return found, learned

    # Predictions

    def predict(
        self, model: "torch.nn.Module", tokenizer: "Tokenizer", frame: pandas.DataFrame, examples: Examples
    ) -> list[Any]:
        """The likeliest reply, token by token; and how well the replies that are there were foreseen."""
        from staytuned.modelling.language import generate

        prompts = examples.lists("prompt", range(len(examples)))
        replies = tokenizer.decode_batch(generate(model.encoder, prompts, self.end, self.options.max_reply_tokens))
        said = self.decode(frame, examples, self.outputs_of(model, examples))
        return [one._replace(reply=reply.strip()) for one, reply in zip(said, replies, strict=True)]

    def decode(self, frame: pandas.DataFrame, examples: Examples, outputs: list[numpy.ndarray]) -> list[Any]:
        """Losses; replies are generated by ``predict``."""
        return [Said("", float(losses.astype(numpy.float64).sum()), len(losses)) for losses in outputs]

    def from_json(self, prediction: Any) -> Any:
        """A ``Said``."""
        return Said(*prediction)

    def table(self, predictions: list[Any]) -> dict[str, list[Any]]:
        """The reply, and the perplexity of those that were there."""
        perplexities = [float(numpy.exp(said.loss / max(said.tokens, 1))) for said in predictions]
        return {"reply": [said.reply for said in predictions], "perplexity": perplexities}

    def say(self, prediction: Any) -> str:
        """The reply."""
        return str(prediction.reply)

    def predict_before(self, base: Path, train: Side, test: Side) -> list[Any]:
        """By the base model."""
        from tokenizers import Tokenizer

        from staytuned.modelling.language import base_model

        tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
        self.read(base)
        self.adapt(tokenizer, self.max_tokens)
        return self.predict(base_model(self.kind, base), tokenizer, test.frame, test.examples)

    # Judgement

    def statistics(self, frame: pandas.DataFrame, predictions: list[Any]) -> numpy.ndarray:
        """Loss and tokens of replies; bigrams that differ, and all; whether the reply is the chat's own; rows."""
        rows = []
        for text, said in zip(frame["text"], predictions, strict=True):
            is_same = said.reply.split() == chat.turns_of(text)[-1]["content"].split()
            rows.append((said.loss, said.tokens, *text_metrics.distinct_bigrams(said.reply), is_same, 1))
        return numpy.array(rows, numpy.float64).reshape(-1, 6)

    def measure(self, sums: numpy.ndarray) -> dict[str, numpy.ndarray]:
        """exp of the mean loss of a token of a reply; replies that are the chat's own, spaces aside; distinct-2.

        The last (Li et al. 2016) is counted within a reply: over all of them it would fall as they grow in number.
        """
        loss, tokens, different, pairs, same, rows = numpy.moveaxis(sums, -1, 0)
        return {
            "perplexity": numpy.exp(loss / numpy.maximum(tokens, 1)),
            "exact_match": same / rows,
            "distinct_2": different / numpy.maximum(pairs, 1),
        }
