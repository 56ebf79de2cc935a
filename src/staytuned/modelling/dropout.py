"""Dropout with random numbers of 16 bits, four of a draw: on a processor torch's own takes a draw for each value."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch.nn.functional import dropout

LEVELS = 2**16  # of a random number

# What this thread draws from; None: torch's own generator.
_numbers: ContextVar[torch.Generator | None] = ContextVar("numbers", default=None)


class Dropout(torch.nn.Dropout):
    """Dropout of a share that is rounded to a 65536th."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Zeros instead of some values, and the others larger by as much, in training."""
        if not self.training or self.p == 0 or values.is_cuda:
            return dropout(values, self.p, self.training)
        return values * kept(values.shape, self.p)


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """In this thread, draw from a generator of its own: what other threads draw meanwhile changes nothing."""
    before = _numbers.set(torch.Generator().manual_seed(seed))
    try:
        yield
    finally:
        _numbers.reset(before)


def kept(shape: torch.Size, share: float) -> torch.Tensor:
    """0 for a ``share`` of places, for the others what keeps the mean at 1; drawn from the thread's generator."""
    dropped = round(share * LEVELS)
    draws = torch.empty(-(-shape.numel() // 4), dtype=torch.int64)
    draws.random_(torch.iinfo(torch.int64).min, None, generator=_numbers.get())
    numbers = draws.view(torch.int16)[: shape.numel()].view(shape)
    found = torch.empty(shape)
    torch.ge(numbers, dropped - LEVELS // 2, out=found)  # several times quicker than by truth values
    return found.mul_(LEVELS / (LEVELS - dropped))
