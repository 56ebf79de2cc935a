"""Training of the head alone: the encoder, which is frozen, reads each distinct text once, and what it says is kept.

So further epochs, other searches and the next retraining pay only for texts that are new.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import torch

from staytuned.errors import ParamsError
from staytuned.modelling.device import name_of as device_name
from staytuned.modelling.examples import Examples
from staytuned.modelling.heads import PooledHead, TokenHead, mask_of, padded
from staytuned.modelling.kept import name_of, said_of_texts
from staytuned.modelling.threads import in_threads
from staytuned.modelling.unpadded import first_position, steady_states
from staytuned.pieces import made_by
from staytuned.progress import bar
from staytuned.surroundings import surroundings
from staytuned.tasks import Task

ROOM = 1024  # tokens that the encoder reads at once, no more and no fewer: so no text's states depend on the others
OF_ENCODER = ("input_ids", "token_type_ids")  # what it reads, beside the mask
Inputs = dict[str, torch.Tensor]


class TopOnly(torch.nn.Module):
    """The head of a model, on what its encoder said; takes what the model takes, and learns nothing but the head."""

    def __init__(self, model: TokenHead, said: dict[bytes, numpy.ndarray]) -> None:
        super().__init__()
        self.head, self.dropout = model.head, model.dropout
        self._top, self._said = model.top, said
        self._hidden, self._is_pooled = model.head.in_features, isinstance(model, PooledHead)

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Logits, as the model gives them."""
        said = [self._said[name_of(text)] for text in _texts(inputs)]
        whole = numpy.zeros((len(said), 1 if self._is_pooled else inputs["input_ids"].shape[1], self._hidden), "<f4")
        for row, values in zip(whole, said, strict=True):
            row[: len(values) // self._hidden] = values.reshape(-1, self._hidden)
        read = torch.from_numpy(whole[:, 0] if self._is_pooled else whole).to(inputs["input_ids"].device)
        of_head = {name: values for name, values in inputs.items() if name not in (*OF_ENCODER, "attention_mask")}
        return self._top(read, **of_head)


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
    key = f"{type(model).__name__} {encoder} {torch.get_num_threads()} {device_name(device)} {surroundings()} {made}"
    return TopOnly(model, said_of_texts(folder, key, texts, partial(_ask, model, device)))


def _texts(inputs: Inputs) -> Iterator[numpy.ndarray]:
    """What the encoder reads of each row, without padding, shape (inputs, tokens)."""
    columns = numpy.stack([inputs[name].cpu().numpy() for name in OF_ENCODER if name in inputs], axis=1)
    for row, length in zip(columns, inputs["attention_mask"].sum(dim=1).tolist(), strict=True):
        yield row[:, :length]


def _ask(model: TokenHead, device: torch.device, texts: list[numpy.ndarray]) -> Iterator[numpy.ndarray]:
    """What the head reads of each text, shape (numbers,)."""
    encoder = model.encoder.to(device).eval()
    is_packed = first_position(encoder.config) is not None and device.type == "cpu"

    @torch.no_grad()
    def read(part: tuple[list[numpy.ndarray], int]) -> list[numpy.ndarray]:
        found = []
        for text, states in zip(part[0], _states(encoder, *part, device), strict=False):
            own = states[: text.shape[1]].unsqueeze(0)
            found.append(model.read(own, torch.ones(own.shape[:2]))[0].flatten().numpy())
        return found

    blocks = _blocks(texts, ROOM if is_packed else 0)
    with bar() as display:
        shown = display.add_task("encoder, once for each text", total=len(texts))
        for found in in_threads(read, blocks) if is_packed else map(read, blocks):
            yield from found
            display.advance(shown, len(found))
    encoder.cpu()


def _states(encoder: Any, block: list[numpy.ndarray], left: int, device: torch.device) -> torch.Tensor:
    """The states of texts, and of as many tokens besides as are ``left``; shape (texts and more, tokens, hidden)."""
    longest = max(text.shape[1] for text in block)
    filler = [numpy.zeros((len(block[0]), min(longest, left - at)), int) for at in range(0, left, longest)]
    rows = [*block, *filler]
    inputs = {name: padded([row[place] for row in rows]) for place, name in enumerate(OF_ENCODER[: len(block[0])])}
    mask = mask_of([row[0] for row in rows])
    return steady_states(encoder, mask.to(device), **{name: one.to(device) for name, one in inputs.items()}).cpu()


def _blocks(texts: list[numpy.ndarray], room: int) -> Iterator[tuple[list[numpy.ndarray], int]]:
    """Texts in turn, as many as there is room for, and how many tokens are left; without room, each alone."""
    block, left = list[numpy.ndarray](), room
    for text in texts:
        if block and text.shape[1] > left:
            yield block, left
            block, left = [], room
        block.append(text)
        left -= text.shape[1]
    if block:
        yield block, left


def _hash(encoder: torch.nn.Module) -> str:
    found = hashlib.sha256()
    for name, weight in encoder.state_dict().items():
        found.update(name.encode())
        found.update(weight.numpy())
    return found.hexdigest()
