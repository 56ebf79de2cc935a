"""Models out of transformers, and the heads that are put on encoders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
import transformers


def backbone(kind: str, folder: Path, dropout: float, pretrained: bool) -> Any:
    """A model of transformers out of its folder.

    Args:
        kind: One of its classes, such as ``AutoModel`` or ``AutoModelForCausalLM``.
        folder: With config.json and, where ``pretrained``, weights as safetensors.
        dropout: Wherever the model has dropout.
        pretrained: With its weights, in float32; else with random ones, to be loaded over.
    """
    maker = getattr(transformers, kind)
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    for name in list(config.to_dict()):
        if name.endswith(("dropout", "dropout_prob", "dropout_rate")):
            setattr(config, name, dropout)
    if not pretrained:
        return maker.from_config(config)
    return maker.from_pretrained(
        folder, config=config, local_files_only=True, use_safetensors=True, dtype=torch.float32
    )


class PooledHead(torch.nn.Module):
    """An encoder, the mean of its last hidden states over the tokens of a text, and a linear head.

    The mean is what sentence encoders were trained to put their meaning into (Reimers & Gurevych 2019, section 3).
    """

    def __init__(self, encoder: Any, width: int, dropout: float) -> None:
        super().__init__()
        self.encoder = without_pooler(encoder)
        self.dropout = torch.nn.Dropout(dropout)
        self.head = fresh_linear(encoder.config.hidden_size, width)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        """Logits, shape (rows, width), of token ids and their mask, both of shape (rows, tokens)."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **inputs).last_hidden_state
        logits: torch.Tensor = self.head(self.dropout(mean_of_tokens(states, attention_mask)))
        return logits


class TokenHead(torch.nn.Module):
    """An encoder and a linear head on every token."""

    def __init__(self, encoder: Any, width: int, dropout: float) -> None:
        super().__init__()
        self.encoder = without_pooler(encoder)
        self.dropout = torch.nn.Dropout(dropout)
        self.head = fresh_linear(encoder.config.hidden_size, width)

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Logits, shape (rows, tokens, width)."""
        logits: torch.Tensor = self.head(self.dropout(self.encoder(**inputs).last_hidden_state))
        return logits


def without_pooler(encoder: Any) -> Any:
    """The encoder without the layer on its first token, which no head here uses."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    return encoder


def fresh_linear(inputs: int, outputs: int) -> torch.nn.Linear:
    """A linear layer that starts near nothing."""
    layer = torch.nn.Linear(inputs, outputs)
    torch.nn.init.normal_(layer.weight, std=0.02)
    torch.nn.init.zeros_(layer.bias)
    return layer


def mean_of_tokens(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the tokens that are not padding, shape (rows, hidden), of states of shape (rows, tokens, hidden)."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


def padded(rows: Sequence[Sequence[int] | numpy.ndarray], filler: int = 0) -> torch.Tensor:
    """Lists of numbers as one tensor, shape (rows, longest row), filled up on the right."""
    numbers = numpy.full((len(rows), max(map(len, rows))), filler, numpy.int64)
    for place, row in enumerate(rows):
        numbers[place, : len(row)] = row
    return torch.from_numpy(numbers)


def mask_of(rows: Sequence[Sequence[int] | numpy.ndarray]) -> torch.Tensor:
    """1 where ``padded`` holds a number of a row, 0 where it is filled up; of the same shape."""
    lengths = torch.tensor([len(row) for row in rows])
    return (torch.arange(int(lengths.max())) < lengths.unsqueeze(1)).long()
