"""Models of transformers on batches without padding: only attention sees rows, all other layers see real tokens alone.

The tokens of all rows stand one after the other as one long row; attention parts them again (Zeng et al. 2022,
Boosting Distributed Training Performance of the Unpadded BERT Model, section 3).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from transformers import AttentionInterface

from staytuned.modelling.dropout import kept

NAME = "unpadded"  # of the attention, among those of transformers
SHORTEST = 0.75  # of the longest row of a group: rows of like length are padded together inside attention

AFTER_PADDING = ("roberta", "xlm-roberta", "camembert")  # positions start after the number of the padding token
FROM_ZERO = ("bert", "electra", "distilbert", "llama", "qwen2", "qwen3")
# What every other model takes is padded: its positions, or its masks, are made in ways of its own.


class Group(NamedTuple):
    """Rows of like length, whose tokens stand one after the other."""

    tokens: slice  # of the batch
    rows: int
    longest: int
    real: torch.Tensor | None  # places of the tokens in rows * longest; None where all rows are equally long
    allowed: torch.Tensor | None  # 0 at tokens and -inf elsewhere, shape (rows, 1, 1, longest)


class Rows:
    """Where the tokens of a batch are: longest rows first, one row after the other.

    Args:
        mask: 1 at tokens and 0 at padding, which is on the right; shape (rows, tokens).
    """

    def __init__(self, mask: torch.Tensor) -> None:
        self.shape = mask.shape
        lengths, order = mask.sum(dim=1).sort(descending=True, stable=True)
        which, self.positions = mask[order].nonzero(as_tuple=True)
        self.places = order[which] * mask.shape[1] + self.positions
        self.groups = list(_groups(lengths.tolist()))

    def packed(self, values: torch.Tensor) -> torch.Tensor:
        """The values of tokens, shape (1, tokens of the batch, ...), of shape (rows, tokens, ...)."""
        return values.flatten(0, 1).index_select(0, self.places).unsqueeze(0)

    def padded(self, values: torch.Tensor) -> torch.Tensor:
        """The other way round; 0 at padding."""
        whole = values.new_zeros(self.shape.numel(), *values.shape[2:])
        return whole.index_copy(0, self.places, values[0]).unflatten(0, self.shape)


def last_states(encoder: Any, attention_mask: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
    """The last hidden states of an encoder, shape (rows, tokens, hidden); what they are at padding has no meaning.

    Args:
        encoder: A model of transformers.
        attention_mask: 1 at tokens and 0 at padding, which is on the right; shape (rows, tokens).
        inputs: Its other inputs, each of shape (rows, tokens, ...).
    """
    first = first_position(encoder.config)
    states: torch.Tensor
    if first is None or attention_mask.is_cuda:  # there the lengths of rows are not known without waiting
        states = encoder(attention_mask=attention_mask, **inputs).last_hidden_state
        return states
    rows = Rows(attention_mask)
    packed = {name: rows.packed(values) for name, values in inputs.items()}
    with _attending(encoder.config):
        position_ids = rows.positions.unsqueeze(0) + first
        states = encoder(**packed, position_ids=position_ids, rows=rows).last_hidden_state
    return rows.padded(states)


def first_position(config: Any) -> int | None:
    """The number of a row's first position; None where the model takes batches with padding only."""
    if config._attn_implementation != "sdpa":
        return None
    if config.model_type in AFTER_PADDING:
        return int(config.pad_token_id) + 1
    return 0 if config.model_type in FROM_ZERO else None


@contextmanager
def _attending(config: Any) -> Iterator[None]:
    """The model attends in our way for a while; how it does otherwise stays as it is, and is what is saved."""
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def _groups(lengths: list[int]) -> Iterator[Group]:
    """Rows of these lengths, longest first, in groups."""
    start = tokens = 0
    while start < len(lengths):
        longest = lengths[start]
        stop = next((i for i in range(start, len(lengths)) if lengths[i] < SHORTEST * longest), len(lengths))
        here = lengths[start:stop]
        real = allowed = None
        if here[-1] < longest:
            mask = torch.arange(longest) < torch.tensor(here).unsqueeze(1)
            real = mask.flatten().nonzero().squeeze(1)
            allowed = torch.zeros(mask.shape).masked_fill_(~mask, -torch.inf)[:, None, None]
        yield Group(slice(tokens, tokens + sum(here)), len(here), longest, real, allowed)
        start, tokens = stop, tokens + sum(here)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float,
    rows: Rows,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of each row to itself, shape (1, tokens, heads, width), as transformers calls it.

    Queries, keys and values have the shape (1, heads, tokens, width).
    """
    shared = query.shape[1] // key.shape[1]
    if shared > 1:  # heads that share keys and values
        key, value = (part.repeat_interleave(shared, dim=1) for part in (key, value))
    parts = (part[0].transpose(0, 1) for part in (query, key, value))
    causal = bool(getattr(module, "is_causal", False))
    said: torch.Tensor = _Attention.apply(*parts, rows.groups, scaling, dropout, causal)
    return said.unsqueeze(0), None


class _Attention(torch.autograd.Function):
    """Attention of each row to itself; queries, keys and values of shape (tokens, heads, width).

    As one node with few and small intermediate tensors; the gradients are those of softmax(q k' s) v.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        groups: list[Group],
        scaling: float,
        dropout: float,
        causal: bool,
    ) -> torch.Tensor:
        """What the tokens gather, of the shape of the queries."""
        said, saved = torch.empty_like(query), []
        for group in groups:
            q, k, v = (_in_rows(group, part) for part in (query, key, value))
            scores = torch.bmm(q, k.transpose(1, 2)).mul_(scaling)
            if group.allowed is not None:
                scores.view(group.rows, -1, group.longest, group.longest).add_(group.allowed)
            if causal:
                scores.masked_fill_(torch.ones(scores.shape[1:], dtype=torch.bool).triu(1), -torch.inf)
            shares = scores.softmax(dim=-1)
            keep = kept(shares.shape, dropout) if dropout else None
            said[group.tokens] = _in_tokens(group, torch.bmm(shares if keep is None else shares * keep, v))
            saved += [q, k, v, shares, keep]
        ctx.save_for_backward(*saved)
        ctx.groups, ctx.scaling = groups, scaling
        return said

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of queries, keys and values."""
        found = tuple(torch.empty_like(slope) for _ in range(3))
        saved = iter(ctx.saved_tensors)
        for group in ctx.groups:
            q, k, v, shares, keep = (next(saved) for _ in range(5))
            of_said = _in_rows(group, slope)
            of_shares = torch.bmm(of_said, v.transpose(1, 2))
            used = shares
            if keep is not None:
                of_shares.mul_(keep)
                used = shares * keep
            of_scores = torch._softmax_backward_data(of_shares, shares, -1, shares.dtype).mul_(ctx.scaling)
            slopes = (
                torch.bmm(of_scores, k),
                torch.bmm(of_scores.transpose(1, 2), q),
                torch.bmm(used.transpose(1, 2), of_said),
            )
            for whole, part in zip(found, slopes, strict=True):
                whole[group.tokens] = _in_tokens(group, part)
        return *found, None, None, None, None


def _in_rows(group: Group, values: torch.Tensor) -> torch.Tensor:
    """Values of a group's tokens, shape (rows * heads, longest, width), 0 at padding."""
    values = values[group.tokens]
    if group.real is not None:
        whole = values.new_zeros(group.rows * group.longest, *values.shape[1:])
        values = whole.index_copy_(0, group.real, values)
    return values.unflatten(0, (group.rows, group.longest)).transpose(1, 2).flatten(0, 1)


def _in_tokens(group: Group, values: torch.Tensor) -> torch.Tensor:
    """The other way round, shape (tokens of the group, heads, width)."""
    values = values.unflatten(0, (group.rows, -1)).transpose(1, 2).flatten(0, 1)
    return values if group.real is None else values.index_select(0, group.real)


AttentionInterface.register(NAME, _attention)
