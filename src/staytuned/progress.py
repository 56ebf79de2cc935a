"""Progress on standard error: a bar for what can be counted, a spinner for what cannot; lines where nobody watches."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

T = TypeVar("T")
LONG = 2  # seconds of work that a log is told of
EVERY = 10  # seconds between two lines in a log
console = Console(stderr=True)


class _Lines(Progress):
    """For a log, which cannot show a bar that grows: a line now and then of how far it is."""

    told = 0.0  # when, by the monotonic clock

    def update(self, task_id: TaskID, **fields: Any) -> None:
        super().update(task_id, **fields)
        self._tell(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._tell(task_id)

    def _tell(self, task_id: TaskID) -> None:
        now, task = time.monotonic(), self._tasks[task_id]
        if now - max(self.told, task.start_time or now) < EVERY:
            return
        self.told = now
        whole = "" if task.total is None else f" of {task.total:g}"
        console.print(f"  {task.description}: {task.completed:g}{whole}")


def bar() -> Progress:
    """A progress display; use it as a context manager and add tasks to it."""
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    return (Progress if console.is_terminal else _Lines)(*columns, console=console)


def track(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield ``items`` behind a bar that is named ``what`` and ends at ``total``."""
    if not total:
        return
    with bar() as display:
        yield from display.track(items, total=total, description=what)


@contextmanager
def busy(what: str) -> Iterator[None]:
    """A spinner, for work whose length is not known."""
    if console.is_terminal:
        with console.status(f"  {what}"):
            yield
        return
    late = Timer(LONG, console.print, [f"  {what}"])
    late.daemon = True
    late.start()
    try:
        yield
    finally:
        late.cancel()
