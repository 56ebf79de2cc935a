"""Drift of a file that is only looked at: rows as they come in production, before anyone has labelled them."""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy
import pandas
from rich.console import Console
from rich.table import Table

from staytuned import alerts, tasks
from staytuned.data.batches import Batch
from staytuned.data.contract import Contract
from staytuned.data.readers import Reader, chunks
from staytuned.data.sides import LOT, check_split
from staytuned.data.verdicts import Judge, Part
from staytuned.drift.rows import newest, reference_and_window
from staytuned.entry_points import task_class
from staytuned.errors import DataError, MissingError
from staytuned.files import read_json, replacing_folder, sha256, write_json
from staytuned.params import Params
from staytuned.pieces import Pieces, made_by
from staytuned.registry.pin import served
from staytuned.stages.drift import ITSELF, Asker, alarms, compare, empty_report, in_words, measure_sizes
from staytuned.stages.drift_pages import accuracy_in_words, write_pages
from staytuned.tasks import Task
from staytuned.workspace import Workspace

COLUMNS = ["row", "text", "text_pair", "label", "source", "group", "line"]
OWN = "drift-of"  # lock and pieces: a run may be at work on its own
NEXT = "where they are labelled, `staytuned ingest` takes them in, and a run trains on them and lets the gate judge"


def drift_of(workspace: Workspace, file: Path) -> dict[str, Any]:
    """Hold the newest rows of a file against those that the champion knew; print it, write page and figures, tell.

    Returns:
        The report, as that of the drift stage.

    Raises:
        MissingError: there is no champion yet, or no rows that it was made from; or no such file.
        DataError: the file lacks a column, or no row of it can be looked at.
        BusyError: another process is looking at a file.
    """
    params = Params.read(workspace.params)
    version, champion = served(workspace)
    check_split(workspace)
    with workspace.hold(OWN):
        task = tasks.trained(champion)
        report = {**empty_report(version, task.metrics[0]), "file": file.name}
        rows, left_out = _rows(workspace, params, task, file)
        window = rows[newest(rows["group"], params.drift.window)].reset_index(drop=True)
        if not len(window):
            raise DataError(
                f"each group of {file} has more rows than drift.window ({params.drift.window}); raise that, or set "
                "ingest.columns.group to a column of smaller ones"
            )
        reference, together = _reference(workspace, params, version, champion)
        measure_sizes(report, reference, window)
        looked_at = None
        if report["enough"]:
            both = pandas.concat([together, _in_lots(window)], ignore_index=True)
            asker = Asker(champion, (f"{OWN}-answers", "drift"), _embeddings(workspace))
            looked_at = compare(workspace, params, asker, (reference, window, both), report)
        target = workspace.drift_of(file.stem)
        page = str((target / "report.html").relative_to(workspace.root))
        report["said"] = in_words(report, page, NEXT)
        with replacing_folder(target) as folder:
            write_json(folder / "drift.json", report)
            write_pages(folder, report | {"said": in_words(report, ITSELF, NEXT)}, looked_at)
    _show(report, left_out, page)
    if report["alarm"]:
        alerts.send(params, "drift", f"{file.name}: {report['said']}")
    return report


def _rows(workspace: Workspace, params: Params, task: Task, file: Path) -> tuple[pandas.DataFrame, Counter[str]]:
    """The rows of a file that keep the contract but for the label, and why others do not, counted."""
    contract = Contract(params.validate_.max_characters, [*COLUMNS, "problem"], "text_pair" in task.columns, None)
    made = made_by("drift_of.py", "data/contract.py", "data/data_docs.py", "data/verdicts.py", "tasks", "modelling")
    key = f"{made} {task.options!r} {contract} {params.validate_.chunk_rows}"
    found, left_out = [], Counter[str]()
    with Pieces(workspace.pieces / f"{OWN}-verdicts", key) as pieces:
        judge = Judge(contract, task.unanswerable, params.validate_.chunk_rows, pieces)
        for part, reasons in judge.verdicts(_parts(params, file)):
            left_out.update(kind for why in reasons.values() for kind in why)
            found.append(part.frame.drop(index=list(reasons)))
    rows = pandas.concat(found, ignore_index=True) if found else pandas.DataFrame()
    if not len(rows):
        raise DataError(f"{file} has no row that can be looked at{_counted(left_out, ': ')}; give a file with texts")
    # Ids, and groups of one row, are those of no row of the reference: files may number theirs from the start again.
    alone = pandas.Series([f"row {number}" for number in range(len(rows))])
    return rows.assign(group=rows["group"].fillna(alone), row=numpy.arange(len(rows))), left_out


def _parts(params: Params, file: Path) -> Iterator[Part]:
    """The rows of a file without their labels, at most ``chunk_rows`` at a time."""
    reader, start = _reader(params, file), 0
    for rows in chunks(reader.rows(), params.validate_.chunk_rows):
        if not start:
            read = f"{reader.columns} {reader.encodings}"
            batch = Batch(sha256(file), 0, file.name, "", {}, 0, False)
        frame = pandas.DataFrame(rows, dtype="object").assign(label=None, batch=file.name)
        yield Part(batch, start, frame, f"{batch.batch} {read} {start}")
        start += len(frame)


def _reader(params: Params, file: Path) -> Reader:
    """A reader of a file that need not have all that a batch has: of its columns, those that are there."""
    theirs, formats = params.ingest.columns, task_class(params.task.name).formats
    optional = {name: getattr(theirs, name) for name in ("id", "source", "group")}
    none = dict.fromkeys([*optional, "label"])
    asked = theirs.model_copy(update={**none, "keep": [name for name in optional.values() if name]})
    first = Reader(file, asked, params.ingest.encodings, formats, lenient=True)
    next(first.rows(), None)
    there = {name: name_there for name, name_there in optional.items() if name_there in first.columns.keep}
    columns = theirs.model_copy(update={**none, **there, "keep": []})
    return Reader(file, columns, params.ingest.encodings, formats)


def _reference(
    workspace: Workspace, params: Params, version: int, champion: Path
) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """The newest rows of the champion's batches, and all that are asked about together with one of them."""
    known = read_json(champion / "staytuned.json").get("batches", [])
    reference, _, together, _ = reference_and_window(workspace, known, params.drift)
    if not len(reference):
        raise MissingError(
            f"{workspace.accepted} holds no row of the batches that version {version} was made from; `staytuned run` "
            "takes in what was ingested here"
        )
    return reference, together


def _in_lots(window: pandas.DataFrame) -> pandas.DataFrame:
    """Rows that are asked about apart from those of the workspace, whose lots are counted from 0 up."""
    return window.assign(lot=-1 - numpy.arange(len(window)) // LOT)


def _embeddings(workspace: Workspace) -> Path:
    """A folder of embeddings that nobody else tidies, with those that the stages have kept."""
    folder = workspace.pieces / f"{OWN}-embeddings"
    folder.mkdir(parents=True, exist_ok=True)
    for piece in workspace.embeddings.glob("*.arrow"):
        with suppress(OSError):  # it is there already, or has just gone: what is missing is made again
            (folder / piece.name).hardlink_to(piece)
    return folder


def _show(report: dict[str, Any], left_out: Counter[str], page: str) -> None:
    """The report in a short table, without any text of the rows."""
    table = Table(show_header=False, title=f"drift of {report['file']}", title_justify="left")
    table.add_row("said", report["said"])
    if report["enough"]:
        table.add_row("alarms", "\n".join(alarms(report)) or "none")
        known = report["reference"]["accuracy"]
        table.add_row("accuracy on the reference", "–" if known is None else f"{known:.3f}")
        table.add_row("accuracy on these rows", accuracy_in_words(report))
    if left_out:
        table.add_row("left out", _counted(left_out))
    table.add_row("page", page)
    Console(markup=False).print(table)


def _counted(reasons: Counter[str], before: str = "") -> str:
    """Reasons with how many rows each has, the most frequent first."""
    return before + "; ".join(f"{count} × {kind}" for kind, count in reasons.most_common()) if reasons else ""
