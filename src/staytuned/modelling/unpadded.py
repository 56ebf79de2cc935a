"""Models of transformers on batches without padding: only attention sees rows, all other layers see real tokens alone.

The tokens of all rows stand one after the other as one long row; attention parts them again (Zeng et al. 2022,
Boosting Distributed Training Performance of the Unpadded BERT Model, section 3).
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, NamedTuple

import torch
from transformers import AttentionInterface

from staytuned.modelling.dropout import kept

NAME, USUAL = "unpadded", "sdpa"  # of the attention, among those of transformers: ours, and torch's
SHORTEST = 0.85  # of the longest row of a group: rows of like length are padded together inside attention
SHORTEST_OF_SHORT = 0.7  # the same up to ``SHORT`` tokens, where few groups matter more than little padding
SHORT = 64
WIDTH = 16  # numbers that a processor takes at a time: softmax over fewer is several times slower

AFTER_PADDING = ("roberta", "xlm-roberta", "camembert")  # positions start after the number of the padding token
FROM_ZERO = ("bert", "electra", "distilbert", "llama", "qwen2", "qwen3")
# What every other model takes is padded: its positions, or its masks, are made in ways of its own.

_inside: Counter[int] = Counter()  # threads in which a model attends in our way, by the id of its config
_turn = Lock()


class Group(NamedTuple):
    """Rows of like length, padded to the longest of them for attention.

    A head of a token is a line here: lines of a batch are token * heads + head, lines of a group
    (row * heads + head) * longest + place.
    """

    lines: slice  # of the batch
    shape: tuple[int, int]  # rows * heads, longest
    take: torch.Tensor  # the line of the batch for each of the group; for padding any
    back: torch.Tensor  # the line of the group for each of the batch
    mask: torch.Tensor | None  # 0 at tokens, -inf at padding, shape (rows * heads, 1, longest); None without padding
    real: torch.Tensor | None  # 1 at tokens, 0 at padding, shape (rows * heads, longest, 1)


class Rows:
    """Where the tokens of a batch are: longest rows first, one row after the other.

    Args:
        mask: 1 at tokens and 0 at padding, which is on the right; shape (rows, tokens).
        heads: Of attention.
        steady: How wide a row is padded depends on its own length alone.
    """

    def __init__(self, mask: torch.Tensor, heads: int, steady: bool = False) -> None:
        self.shape = mask.shape
        lengths, order = mask.sum(dim=1).sort(descending=True, stable=True)
        which, self.positions = mask[order].nonzero(as_tuple=True)
        self.places = order[which] * mask.shape[1] + self.positions
        self.groups = list(_groups(lengths.tolist(), heads, steady))

    def packed(self, values: torch.Tensor) -> torch.Tensor:
        """The values of tokens, shape (1, tokens of the batch, ...), of shape (rows, tokens, ...)."""
        return values.flatten(0, 1).index_select(0, self.places).unsqueeze(0)

    def padded(self, values: torch.Tensor) -> torch.Tensor:
        """The other way round; 0 at padding."""
        whole = values.new_zeros(self.shape.numel(), *values.shape[2:])
        return whole.index_copy(0, self.places, values[0]).view(*self.shape, *values.shape[2:])


class UnpaddedModel(torch.nn.Module):
    """A model that reads its encoder by ``last_states`` alone."""

    encoder: Any


def last_states(encoder: Any, attention_mask: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
    """The last hidden states of an encoder, shape (rows, tokens, hidden); what they are at padding has no meaning.

    Args:
        encoder: A model of transformers.
        attention_mask: 1 at tokens and 0 at padding, which is on the right; shape (rows, tokens).
        inputs: Its other inputs, each of shape (rows, tokens, ...).
    """
    return _states(encoder, attention_mask, inputs, steady=False)


def steady_states(encoder: Any, attention_mask: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
    """The same, somewhat slower; among as many tokens, a row's do not depend on the other rows, to the last bit."""
    return _states(encoder, attention_mask, inputs, steady=True)


def _states(encoder: Any, mask: torch.Tensor, inputs: dict[str, torch.Tensor], steady: bool) -> torch.Tensor:
    first = first_position(encoder.config)
    states: torch.Tensor
    if first is None or mask.is_cuda:  # a GPU is asked for no lengths
        states = encoder(attention_mask=mask, **inputs).last_hidden_state
        return states
    rows = Rows(mask, encoder.config.num_attention_heads, steady)
    packed = {name: rows.packed(values) for name, values in inputs.items()}
    with _attending(encoder.config):
        position_ids = rows.positions.unsqueeze(0) + first
        states = encoder(**packed, position_ids=position_ids, rows=rows).last_hidden_state
    return rows.padded(states)


def first_position(config: Any) -> int | None:
    """The number of a row's first position; None where the model takes batches with padding only."""
    if config._attn_implementation not in (USUAL, NAME):
        return None
    if config.model_type in AFTER_PADDING:
        return int(config.pad_token_id) + 1
    return 0 if config.model_type in FROM_ZERO else None


@contextmanager
def _attending(config: Any) -> Iterator[None]:
    """The model attends in our way for a while, maybe in several threads; what is saved is how it does otherwise."""
    with _turn:
        _inside[id(config)] += 1
        config._attn_implementation = NAME
    try:
        yield
    finally:
        with _turn:
            _inside[id(config)] -= 1
            if not _inside[id(config)]:
                config._attn_implementation = USUAL


def _groups(lengths: list[int], heads: int, steady: bool) -> Iterator[Group]:
    """Rows of these lengths, longest first, in groups."""
    start = tokens = 0
    while start < len(lengths):
        longest = max(lengths[start], WIDTH)
        share = SHORTEST_OF_SHORT if longest <= SHORT else SHORTEST
        least = share * longest if longest > WIDTH else 0
        if steady:
            longest = -(-longest // WIDTH) * WIDTH
            least = longest - WIDTH + 1 if longest > WIDTH else 0
        stop = next((i for i in range(start, len(lengths)) if lengths[i] < least), len(lengths))
        yield _group(torch.tensor(lengths[start:stop]), longest, heads, tokens, steady)
        tokens += sum(lengths[start:stop])
        start = stop


def _group(lengths: torch.Tensor, longest: int, heads: int, first: int, masked: bool) -> Group:
    """The group of rows of these lengths, whose tokens begin at ``first`` of the batch; ``masked`` in any case."""
    count, head = int(lengths.sum()), torch.arange(heads)
    real = torch.arange(longest) < lengths.unsqueeze(1)
    row, place = real.nonzero(as_tuple=True)
    token = torch.full(real.shape, first)
    token[real] = torch.arange(first, first + count)
    take = token.unsqueeze(1) * heads + head.unsqueeze(1)
    back = (row.unsqueeze(1) * heads + head) * longest + place.unsqueeze(1)
    mask = ones = None
    if masked or not bool(real.all()):
        ones = real.float().repeat_interleave(heads, dim=0).unsqueeze(2)
        mask = ones.log().transpose(1, 2)
    lines = slice(first * heads, (first + count) * heads)
    return Group(lines, (len(lengths) * heads, longest), take.flatten(), back.flatten(), mask, ones)


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
    parts = (part.squeeze(0).transpose(0, 1) for part in (query, key, value))
    causal = bool(getattr(module, "is_causal", False))
    said: torch.Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        *parts, rows.groups, scaling, dropout, causal
    )
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
        said, saved = query.new_empty(query.shape), []
        scores_of = [rows * longest**2 for rows, longest in (group.shape for group in groups)]
        keeps = torch.split(kept(torch.Size([sum(scores_of)]), dropout), scores_of) if dropout else None
        for number, group in enumerate(groups):
            q, k, v = (_taken(group, part) for part in (query, key, value))
            if group.mask is None:
                scores = torch.bmm(q, k.transpose(1, 2)).mul_(scaling)
            else:
                scores = torch.baddbmm(group.mask.to(q.dtype), q, k.transpose(1, 2), alpha=scaling)
            if causal:
                scores.masked_fill_(torch.ones(scores.shape[1:], dtype=torch.bool).triu(1), -torch.inf)
            shares = scores.softmax(dim=-1)
            keep = keeps[number].view_as(shares) if keeps else None
            used = shares if keep is None else shares * keep
            _put(group, torch.bmm(used, v), said)
            saved += [q, k, v, shares, keep, used]
        ctx.save_for_backward(*saved)
        ctx.groups, ctx.scaling = groups, scaling
        return said

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of queries, keys and values."""
        found = tuple(slope.new_empty(slope.shape) for _ in range(3))
        saved = iter(ctx.saved_tensors)
        for group in ctx.groups:
            q, k, v, shares, keep, used = (next(saved) for _ in range(6))
            of_said = _taken(group, slope)
            if group.real is not None:
                of_said.mul_(group.real)
            of_shares = torch.bmm(of_said, v.transpose(1, 2))
            if keep is not None:
                of_shares.mul_(keep)
            of_scores = torch._softmax_backward_data(of_shares, shares, -1, shares.dtype).mul_(ctx.scaling)
            slopes = (
                torch.bmm(of_scores, k),
                torch.bmm(of_scores.transpose(1, 2), q),
                torch.bmm(used.transpose(1, 2), of_said),
            )
            for whole, part in zip(found, slopes, strict=True):
                _put(group, part, whole)
        return *found, None, None, None, None


def _taken(group: Group, values: torch.Tensor) -> torch.Tensor:
    """Values of a group, shape (rows * heads, longest, width), of those of a batch, shape (tokens, heads, width)."""
    return values.flatten(0, 1).index_select(0, group.take).view(*group.shape, -1)


def _put(group: Group, values: torch.Tensor, whole: torch.Tensor) -> None:
    """Put the values of a group back among those of its batch; of padding they are dropped."""
    torch.index_select(values.flatten(0, 1), 0, group.back, out=whole.flatten(0, 1)[group.lines])


AttentionInterface.register(NAME, _attention)
