"""Memory that does not suffice: what to lower."""

from collections.abc import Iterator
from contextlib import contextmanager

from staytuned.errors import TrainingError

SIGNS = ("out of memory", "not enough memory", "can't allocate memory")  # in what torch raises, which has no one class


@contextmanager
def memory_for(rows: int, tokens: int, divisible: bool) -> Iterator[None]:
    """Do what needs memory for so many rows of so many tokens at once.

    Args:
        rows: That are learned from at once.
        tokens: Of the longest.
        divisible: Whether they may be learned from in smaller parts.

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
            f"the memory does not suffice to learn from {rows} rows of up to {tokens} tokens at once "
            f"({str(error).splitlines()[0]}); {smaller if divisible and rows > 1 else ''}lower train.batch_size or "
            "encode.max_tokens, set train.lora, or take a smaller model.base"
        ) from error
