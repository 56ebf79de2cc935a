"""Predictions by the champion of the ledger, from its local copy: a registry that is down does not matter."""

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from staytuned.data.readers import Reader, Row
from staytuned.errors import MissingError
from staytuned.files import replacing
from staytuned.params import Columns, Params
from staytuned.registry.ledger import PROMOTION, Ledger
from staytuned.registry.pin import local_copy
from staytuned.workspace import Workspace

if TYPE_CHECKING:
    from staytuned.classifier import Classifier

CHUNK = 2_000  # rows in memory at a time


def champion(workspace: Workspace) -> tuple[int, "Classifier"]:
    """The champion's version and the champion.

    Raises:
        MissingError: there is none yet.
    """
    last = Ledger(workspace.ledger).last(PROMOTION)
    if last is None:
        raise MissingError("there is no champion yet; `staytuned run` trains one and promotes it if the gate agrees")
    folder = local_copy(workspace, last.facts["version"])

    from staytuned.classifier import Classifier

    return last.facts["version"], Classifier(folder)


def predict_text(workspace: Workspace, text: str) -> str:
    """One line: the label, its probability, the version that says so."""
    version, model = champion(workspace)
    labels, probabilities = model.predict([text])
    return f"{labels[0]}\t{probabilities[0].max():.3f}\tversion {version}"


def predict_file(workspace: Workspace, source: Path, target: Path) -> int:
    """Write one row for each row of ``source``: text, label, probabilities; returns how many.

    A row that has no text to judge gets no label, and says why in ``problem``.
    """
    params = Params.read(workspace.params)
    columns = Columns(text=params.ingest.columns.text, label=None, id=None, source=None, group=None, keep=[])
    rows = Reader(source, columns, params.ingest.encodings).rows()
    first = list(itertools.islice(rows, CHUNK))  # the file is looked at before the model is loaded
    version, model = champion(workspace)
    count = 0
    with replacing(target) as temporary, temporary.open("w", encoding="utf-8", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["row", "text", "label", *model.labels, "version", "problem"])
        for chunk in _chunks(first, rows):
            texts = [row["text"] or "" for row in chunk]
            labels, probabilities = model.predict(texts)
            for row, text, label, values in zip(chunk, texts, labels, probabilities, strict=True):
                count += 1
                problem = row["problem"] or ("" if text.strip() else "no text")
                said = [label, *(f"{value:.6f}" for value in values)] if text.strip() else [""] * (len(values) + 1)
                table.writerow([count, text, *said, version, problem])
    return count


def _chunks(first: list[Row], rest: Iterator[Row]) -> Iterator[list[Row]]:
    while first:
        yield first
        first = list(itertools.islice(rest, CHUNK))
