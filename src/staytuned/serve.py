"""Predictions by the champion of the ledger, from its local copy: a registry that is down does not matter."""

import csv
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from staytuned.data.readers import Reader, Row, chunks
from staytuned.entry_points import task_class
from staytuned.errors import DataError, MissingError
from staytuned.files import replacing
from staytuned.params import Params
from staytuned.registry import pin
from staytuned.workspace import Workspace

if TYPE_CHECKING:
    from staytuned.predictor import Predictor

CHUNK = 2_000  # rows in memory at a time


def champion(workspace: Workspace) -> tuple[int, "Predictor"]:
    """The champion's version and the champion.

    Raises:
        MissingError: there is none yet.
    """
    version, folder = pin.served(workspace)

    from staytuned.predictor import Predictor

    return version, Predictor(folder)


def predict_text(workspace: Workspace, text: str, pair: str | None = None) -> str:
    """One line: the answer, how sure it is, the version that gives it.

    Raises:
        DataError: the text is blank, or the task is on pairs and there is no second one, or on one text and there is.
    """
    if not text.strip():
        raise DataError("the text is blank; give one that says something")
    version, model = champion(workspace)
    if "text_pair" in model.task.columns and not pair:
        raise DataError(f"{model.task.options.name} is about two texts; give the second with --pair")
    if pair and "text_pair" not in model.task.columns:
        raise DataError(f"{model.task.options.name} is about one text; leave --pair out")

    from staytuned.predictor import frame_of

    return f"{model.task.say(model.predict(frame_of([text], [pair]))[0])}\tversion {version}"


def predict_file(workspace: Workspace, source: Path, target: Path) -> tuple[int, int]:
    """Write one row for each row of ``source``: its number, its id where it has one, its texts and the prediction.

    A row that could not be read whole, or that the task cannot judge, gets no prediction, and says why in ``problem``.

    Returns:
        How many rows there are, and how many of them got no prediction.
    """
    if target.resolve() == source.resolve():
        raise DataError(f"--out {target} is the file that is read; name another, its columns would be lost")
    if not target.parent.is_dir():
        raise MissingError(f"--out {target}: there is no folder {target.parent}; make it, or name another")
    params = Params.read(workspace.params)
    theirs = params.ingest.columns
    needless = {"label": None, "id": None, "source": None, "group": None}
    columns = theirs.model_copy(update={**needless, "keep": [theirs.id] if theirs.id else []})
    formats = task_class(params.task.name).formats
    reader = Reader(source, columns, params.ingest.encodings, formats, lenient=True)
    rows = reader.rows()
    first = next(rows, None)  # the file is looked at before the model is loaded
    if not first:
        raise DataError(f"{source} has no rows; give a file with rows")
    ids = reader.columns.keep
    version, model = champion(workspace)

    needed = [name for name in ("text", "text_pair") if name in model.task.columns]
    lines = chain.from_iterable(_lines(model, needed, chunk) for chunk in chunks(chain([first], rows), CHUNK))
    until_one = list(_until_answered(lines))
    said = list(until_one[-1].answer)  # the names of what it says; nothing where it has no answer to any row
    count = unanswered = 0
    with replacing(target) as temporary, temporary.open("w", encoding="utf-8", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["row", *ids, *needed, *said, "version", "problem"])
        for count, line in enumerate(chain(until_one, lines), 1):
            unanswered += bool(line.problem)
            own = [line.row[name] for name in ids]
            answer = line.answer.values() or [""] * len(said)
            table.writerow([count, *own, *line.given.values(), *answer, version, line.problem])
    return count, unanswered


class _Line(NamedTuple):
    """A row of a file: what the model was given of it, and its answer or the reason why there is none."""

    row: Row
    given: dict[str, str]
    answer: dict[str, object]
    problem: str


def _lines(model: "Predictor", needed: Sequence[str], chunk: list[Row]) -> Iterator[_Line]:
    """Only rows that can be answered are asked about."""
    from staytuned.predictor import frame_of

    given = [{name: row[name] or "" for name in needed} for row in chunk]
    pairs = [one["text_pair"] for one in given] if "text_pair" in needed else None
    frame = frame_of([one["text"] for one in given], pairs)
    blanks = [next((f"no {name}" for name, text in one.items() if not text.strip()), "") for one in given]
    found = zip(chunk, model.task.unanswerable(frame), blanks, strict=True)
    problems = [row["problem"] or fault or blank for row, fault, blank in found]
    asked = frame[[not problem for problem in problems]].reset_index(drop=True)
    said = model.task.table(model.predict(asked)) if len(asked) else {}
    answers = iter(zip(*said.values(), strict=True))
    for row, texts, problem in zip(chunk, given, problems, strict=True):
        values = () if problem else next(answers)
        shown = [f"{value:.6f}" if isinstance(value, float) else value for value in values]
        yield _Line(row, texts, {} if problem else dict(zip(said, shown, strict=True)), problem)


def _until_answered(lines: Iterator[_Line]) -> Iterator[_Line]:
    """The first lines, up to one with an answer."""
    for line in lines:
        yield line
        if line.answer:
            return
