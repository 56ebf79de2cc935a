"""Linear layers with a backward pass of their own, on a processor in float32.

The gradient of a layer's inputs is oneDNN's where that is a fifth quicker than MKL, which torch takes: on processors
that are not Intel's. The gradient of its weights is added up over the parts of a batch as they come (``Gathered``).
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Condition, local
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

_here = local()  # ``part``: what this thread works on


class Linear(torch.nn.Linear):
    """A linear layer of torch, with a backward pass of its own where that is quicker."""

    def forward(self, values: Tensor) -> Tensor:
        """The same as torch's."""
        part: Part | None = getattr(_here, "part", None)
        own = part is not None or are_quicker()
        if not own or values.is_cuda or values.dtype != torch.float32 or not torch.is_grad_enabled():
            return super().forward(values)
        if part:
            part.uses[self.weight] += 1
        said: Tensor = _Product.apply(values, self.weight, self.bias, part)  # type: ignore[no-untyped-call]
        return said


class Piece(NamedTuple):
    """What a part of a batch adds to the gradients of a layer."""

    weight: Tensor
    bias: Tensor | None  # None: it has none, or does not learn
    slope: Tensor  # of the loss by what the layer said, shape (tokens, outputs)
    values: Tensor  # what it read, shape (tokens, inputs)


@dataclass(frozen=True)
class Part:
    """A part of a batch, in a thread of its own."""

    whole: "Gathered"
    number: int
    uses: Counter[Tensor] = field(default_factory=Counter)  # of a layer's weights; more than once is torch's matter


class Gathered:
    """Gradients of linear layers' weights, added up over parts of a batch that are learned from at the same time.

    A part leaves at a layer what it has to add. Once all parts have, that is added up, one product on the other while
    they are in the cache, by the next thread that is ahead of the others. In which order never depends on the thread.

    Args:
        parts: How many there are; each is begun at once.
    """

    def __init__(self, parts: int) -> None:
        self._parts = self._under_way = parts
        self._left: dict[Tensor, dict[int, Piece]] = defaultdict(dict)  # by weights, by the number of a part
        self._ready = deque[list[Piece]]()
        self._turn = Condition()

    @contextmanager
    def part(self, number: int) -> Iterator[None]:
        """This thread learns from a part; then it adds up what others leave, until all are through."""
        _here.part = Part(self, number)
        try:
            yield
        finally:
            _here.part = None
            with self._turn:
                self._under_way -= 1
                if not self._under_way:  # what is left some parts had no use for
                    self._ready += map(_in_order, self._left.values())
                self._turn.notify_all()
        while ready := self._next(wait=True):
            _add_up(ready)

    def leave(self, number: int, piece: Piece) -> None:
        """Leave what a part has to add; who is not the last to come to a layer adds up what was left at another."""
        with self._turn:
            found = self._left[piece.weight]
            found[number] = piece
            if len(found) == self._parts:
                self._ready.append(_in_order(self._left.pop(piece.weight)))
                self._turn.notify()
                return
        if ready := self._next(wait=False):
            _add_up(ready)

    def _next(self, wait: bool) -> list[Piece] | None:
        with self._turn:
            while wait and not self._ready and self._under_way:
                self._turn.wait()
            return self._ready.popleft() if self._ready else None


def _in_order(pieces: dict[int, Piece]) -> list[Piece]:
    return [pieces[number] for number in sorted(pieces)]


@torch.no_grad()
def _add_up(pieces: list[Piece]) -> None:
    """Add the pieces of a layer to the gradients of its weights."""
    for weight, bias, slope, values in pieces:
        if weight.grad is None:
            weight.grad = slope.t().mm(values)
        else:
            weight.grad.addmm_(slope.t(), values)
        if bias is not None:
            bias.grad = slope.sum(0) if bias.grad is None else bias.grad.add_(slope.sum(0))


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor | None, part: Part | None) -> Tensor:
        """Shape (..., outputs), of values of shape (..., inputs)."""
        ctx.save_for_backward(values, weight, bias)
        ctx.part = part
        return linear(values, weight, bias)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of values, weight and bias, those that are asked for; of the last two none if they are gathered."""
        values, weight, bias = ctx.saved_tensors
        slope, read = slope.reshape(-1, len(weight)), values.reshape(-1, weight.shape[1])
        needed, part = ctx.needs_input_grad, ctx.part
        found: list[Tensor | None] = [None] * 4
        if needed[0]:
            found[0] = _of_inputs(slope, weight).view_as(values)
        if part and needed[1] and part.uses[weight] == 1:
            part.whole.leave(part.number, Piece(weight, bias if needed[2] else None, slope, read))
            return tuple(found)
        if needed[1]:
            found[1] = slope.t().mm(read)
        if needed[2]:
            found[2] = slope.sum(0)
        return tuple(found)


def _of_inputs(slope: Tensor, weight: Tensor) -> Tensor:
    """The gradient of a layer's inputs."""
    if not are_quicker():
        return slope.mm(weight)
    found: Tensor = torch.ops.mkldnn._linear_pointwise(slope, weight.t(), None, "none", [], "")
    return found


@cache
def are_quicker(facts: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether oneDNN's gradients are, on this processor."""
    has_one: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has_one and facts.exists() and "GenuineIntel" not in facts.read_text()
