"""Work that falls into parts: several parts at a time, each in one thread of torch's.

Two threads that share an operation meet at its end, some thousand times a second. Beside any other program on the
machine one of them waits for the other most of the time; threads with parts of their own do not. And what comes out of
a part does not depend on how many threads there are, to the last bit.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def in_threads(work: Callable[[Part], Result], parts: Iterable[Part]) -> Iterator[Result]:
    """What ``work`` makes of each part, in their order; as many at a time as torch may take threads."""

    def alone(part: Part) -> Result:
        torch.set_num_threads(1)  # a thread's own matter too
        return work(part)

    count = torch.get_num_threads()
    if count == 1:  # in such a thread too
        yield from map(work, parts)
        return
    torch.set_num_threads(1)
    try:
        yield from _pool(count).map(alone, parts)
    finally:
        torch.set_num_threads(count)


@cache
def _pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count)
