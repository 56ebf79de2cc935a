"""Predictions by the champion of the ledger, from its local copy: a registry that is down does not matter."""

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from staytuned.data.readers import Reader, Row
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
        DataError: the text is blank, or the task is on pairs and there is no second one.
    """
    if not text.strip():
        raise DataError("the text is blank; give one that says something")
    version, model = champion(workspace)
    if "text_pair" in model.task.columns and not pair:
        raise DataError(f"{model.task.options.name} is about two texts; give the second with --pair")

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
    first = list(itertools.islice(rows, CHUNK))  # the file is looked at before the model is loaded
    if not first:
        raise DataError(f"{source} has no rows; give a file with rows")
    ids = reader.columns.keep
    version, model = champion(workspace)

    from staytuned.predictor import frame_of

    needed = [name for name in ("text", "text_pair") if name in model.task.columns]
    count = unanswered = 0
    with replacing(target) as temporary, temporary.open("w", encoding="utf-8", newline="") as handle:
        table = csv.writer(handle)
        for chunk in _chunks(first, rows):
            texts = [[row[name] or "" for name in needed] for row in chunk]
            frame = frame_of([one[0] for one in texts], [one[-1] for one in texts])
            faults = model.task.faults(frame)
            frame.loc[[fault is not None for fault in faults], ["text", "text_pair"]] = ""
            said = model.task.table(model.predict(frame))
            if not count:
                table.writerow(["row", *ids, *needed, *said, "version", "problem"])
            answers = zip(*said.values(), strict=True)
            for row, given, fault, values in zip(chunk, texts, faults, answers, strict=True):
                count += 1
                blank = [name for name, text in zip(needed, given, strict=True) if not text.strip()]
                whole = fault is None and not blank and not row["problem"]
                unanswered += not whole
                shown = [f"{value:.6f}" if isinstance(value, float) else value for value in values]
                problem = row["problem"] or fault or (f"no {blank[0]}" if blank else "")
                answer = shown if whole else [""] * len(shown)
                table.writerow([count, *(row[name] for name in ids), *given, *answer, version, problem])
    return count, unanswered


def _chunks(first: list[Row], rest: Iterator[Row]) -> Iterator[list[Row]]:
    while first:
        yield first
        first = list(itertools.islice(rest, CHUNK))
