"""Work that falls into parts: several parts at a time, each in one thread of torch's.

Two threads that share an operation meet at its end, some thousand times a second. Beside any other program on the
machine one of them waits for the other most of the time; threads with parts of their own do not. And what comes out of
a part does not depend on how many threads there are, to the last bit.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TypeVar

import torch

FEW = 2**18  # numbers, which one thread reads in some 0.1 ms

Part = TypeVar("Part")
Result = TypeVar("Result")

_count: ContextVar[int | None] = ContextVar("count", default=None)  # of threads, while operations are not shared


def count() -> int:
    """How many parts are worked on at a time."""
    return _count.get() or torch.get_num_threads()


@contextmanager
def apart() -> Iterator[None]:
    """This thread shares no operation with others; ``in_threads`` takes as many of them as before."""
    before, number = torch.get_num_threads(), _count.set(count())
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _count.reset(number)


def in_threads(work: Callable[[Part], Result], parts: Iterable[Part]) -> Iterator[Result]:
    """What ``work`` makes of each part, in their order; as many at a time as torch may take threads."""

    def alone(part: Part) -> Result:
        torch.set_num_threads(1)  # a thread's own matter too
        return work(part)

    if count() == 1:  # in such a thread too
        yield from map(work, parts)
        return
    with apart():
        yield from _pool(count()).map(alone, parts)


def by_lists(work: Callable[[list[int]], Result], tensors: Sequence[torch.Tensor]) -> list[Result]:
    """What ``work`` makes of the places of tensors: in a list for each thread, of about as many numbers each.

    In one list where threads cannot work on them, or would take longer to begin than to work.
    """
    if not are_in_memory(tensors) or sum(tensor.numel() for tensor in tensors) <= FEW:
        return [work(list(range(len(tensors))))]
    lists, sizes = [list[int]() for _ in range(count())], [0] * count()
    for place in sorted(range(len(tensors)), key=lambda place: -tensors[place].numel()):
        least = sizes.index(min(sizes))
        lists[least].append(place)
        sizes[least] += tensors[place].numel()
    return list(in_threads(work, [places for places in lists if places]))


def are_in_memory(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether threads may work on them: none is on a GPU, or a share of what several processes hold."""
    return all(tensor.device.type == "cpu" and not hasattr(tensor, "to_local") for tensor in tensors)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)
