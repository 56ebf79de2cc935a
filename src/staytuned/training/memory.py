"""Memory: kept from one step to the next, and what to lower where it does not suffice."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

from staytuned.errors import TrainingError

# As GNU's malloc.h numbers them: one pool for all threads, for pieces up to 32 MiB, of which nothing goes back.
KEPT = {-8: 1, -3: 32 << 20, -1: 1 << 30}
SIGNS = ("out of memory", "not enough memory", "can't allocate memory")  # in what torch raises, which has no one class


def keep_memory() -> None:
    """Let the C library keep what a step gives back, for the next one.

    GNU's gives it back to the system, which clears each page before it is used again: some ten thousand of a step of 32
    titles. Another C library is left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    for option, value in KEPT.items():
        if mallopt:
            mallopt(option, value)


@contextmanager
def memory_for(rows: int, tokens: int, divisible: bool) -> Iterator[None]:
    """Do what needs memory for so many rows of so many tokens at once.

    Args:
        rows: That are learned from, or asked about, at once.
        tokens: Of the longest.
        divisible: Whether smaller parts would do.

    Raises:
        TrainingError: it does not suffice; says what to lower.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(sign in str(error) for sign in SIGNS):
            raise
        smaller = f"set train.micro_batch to {max(1, rows // 2)}, which leaves the gradient as it is; or "
        raise TrainingError(
            f"the memory does not suffice for {rows} rows of up to {tokens} tokens at once "
            f"({str(error).splitlines()[0]}); {smaller if divisible and rows > 1 else ''}lower train.batch_size or "
            "encode.max_tokens, set train.lora, or take a smaller model.base"
        ) from error
