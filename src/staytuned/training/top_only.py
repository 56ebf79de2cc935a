"""Training of the head alone: the encoder, which is frozen, reads each distinct text once, and what it says is kept.

So further epochs, other searches and the next retraining pay only for texts that are new.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy
import torch
import xxhash

from staytuned.errors import ParamsError
from staytuned.modelling.device import name_of as device_name
from staytuned.modelling.examples import Examples
from staytuned.modelling.heads import PooledHead, TokenHead
from staytuned.modelling.kept import name_of, said_of_texts
from staytuned.modelling.steady import INPUTS, read_steadily
from staytuned.pieces import made_by
from staytuned.surroundings import surroundings
from staytuned.tasks import Task

Inputs = dict[str, torch.Tensor]


class TopOnly(torch.nn.Module):
    """The head of a model, on what its encoder said; takes what the model takes, and learns nothing but the head.

    Args:
        model: Whose head it is.
        said: What the head reads of each text, shape (numbers,), by the text's bytes.
    """

    def __init__(self, model: TokenHead, said: dict[bytes, numpy.ndarray]) -> None:
        super().__init__()
        self.head, self.dropout = model.head, model.dropout
        self._top, self._said = model.top, said
        self._hidden, self._is_pooled = model.head.in_features, isinstance(model, PooledHead)

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Logits, as the model gives them."""
        said = [self._said[text.tobytes()] for text in _texts(inputs)]
        longest = inputs["input_ids"].shape[1]
        whole = numpy.concatenate(said).reshape(len(said), -1) if self._is_pooled else self._padded(said, longest)
        read = torch.from_numpy(whole).to(inputs["input_ids"].device)
        of_head = {name: values for name, values in inputs.items() if name not in (*INPUTS, "attention_mask")}
        return self._top(read, **of_head)

    def _padded(self, said: list[numpy.ndarray], longest: int) -> numpy.ndarray:
        """States of tokens, shape (texts, longest, hidden)."""
        whole = numpy.zeros((len(said), longest, self._hidden), "<f4")
        for row, values in zip(whole, said, strict=True):
            row[: len(values) // self._hidden] = values.reshape(-1, self._hidden)
        return whole


def top_only(
    task: Task, model: torch.nn.Module, parts: Sequence[Examples], folder: Path, device: torch.device
) -> TopOnly:
    """What learns in the model's place; the model's head learns with it.

    Args:
        task: Makes the batches.
        model: Whose encoder is frozen, on the processor; its dropout is off.
        parts: All examples that it will be asked about.
        folder: Of pieces; it keeps what the encoder says: for each text the mean of its states where the head reads
            that, else a state for each token.
        device: That the encoder runs on.

    Raises:
        ParamsError: the head is of a kind of its own.
    """
    if not isinstance(model, TokenHead):
        raise ParamsError(
            f"train.frozen is set, but {type(model).__name__}, the model of {type(task).__name__}, is no TokenHead; "
            "set train.frozen to null"
        )
    batches = (task.batch(part, places, None) for part in parts for places in part.batches_by_length())
    texts = {name_of(text): text for batch in batches for text in _texts(batch.inputs)}
    made = made_by("modelling", "training/top_only.py")
    config = {name: value for name, value in model.encoder.config.to_dict().items() if "drop" not in name}  # it is off
    encoder = f"{_hash(model.encoder)} {config}"
    key = f"{type(model).__name__} {encoder} {device_name(device)} {surroundings()} {made}"
    said = said_of_texts(folder, key, texts, partial(_ask, model, device))
    return TopOnly(model, {text.tobytes(): said[name] for name, text in texts.items()})


def _texts(inputs: Inputs) -> Iterator[numpy.ndarray]:
    """What the encoder reads of each row, without padding, shape (inputs, tokens)."""
    columns = numpy.stack([inputs[name].cpu().numpy() for name in INPUTS if name in inputs], axis=1)
    for row, length in zip(columns, inputs["attention_mask"].sum(dim=1).tolist(), strict=True):
        yield row[:, :length]


def _ask(model: TokenHead, device: torch.device, texts: list[numpy.ndarray]) -> Iterator[numpy.ndarray]:
    """What the head reads of each text, shape (numbers,)."""
    encoder = model.encoder.to(device).eval()

    def read(states: torch.Tensor) -> torch.Tensor:
        return model.read(states, torch.ones(states.shape[:2])).flatten()

    yield from read_steadily(encoder, texts, read, "encoder, once for each text")
    encoder.cpu()


def _hash(encoder: torch.nn.Module) -> str:
    found = xxhash.xxh3_128()
    for name, weight in encoder.state_dict().items():
        found.update(name.encode())
        found.update(weight.numpy())
    return found.hexdigest()
