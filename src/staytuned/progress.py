"""Progress on standard error: a bar for what can be counted, a spinner for what cannot."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
console = Console(stderr=True)


def bar() -> Progress:
    """A progress display; use it as a context manager and add tasks to it."""
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def track(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield ``items`` behind a bar that is named ``what`` and ends at ``total``."""
    with bar() as display:
        yield from display.track(items, total=total, description=what)


def busy(what: str) -> AbstractContextManager[object]:
    """A spinner, for work whose length is not known."""
    return console.status(f"  {what}")
