"""Validate: rows that keep the contract go on, the others are quarantined with their reasons."""

import csv
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy
import pandas
import pyarrow
import pyarrow.parquet

from staytuned import tasks
from staytuned.data.batches import Batch, check_manifest, manifest, path_of
from staytuned.data.contract import Checkpoint, Contract
from staytuned.data.data_docs import close_pages
from staytuned.errors import BudgetError, DataError
from staytuned.files import PARQUET, replacing, write_json
from staytuned.params import Params
from staytuned.progress import track
from staytuned.workspace import Workspace

HASH = numpy.uint64
SHOWN = 3  # new classes that are named


@dataclass
class Tally:
    """What became of one batch."""

    batch: Batch
    accepted: int = 0
    quarantined: list[str] = field(default_factory=list)  # keys
    reasons: Counter[str] = field(default_factory=Counter)
    values: dict[str, list[str]] = field(
        default_factory=dict
    )  # by reason, the first few names that are not in a known set

    def add(self, key: str, why: dict[str, str]) -> None:
        """Count a row that is quarantined for these reasons."""
        self.quarantined.append(key)
        self.reasons.update(why.keys())
        for kind, reason in why.items():
            known, value = self.values.setdefault(kind, []), reason.removeprefix(f"{kind}: ")
            if " is none of " in kind and value not in known and len(known) < SHOWN:  # others may be the user's text
                known.append(value)

    def said(self) -> list[str]:
        """Each reason in words, with its count; a new class is named."""
        return [
            f"{count} × {kind}" + (f": {', '.join(self.values[kind])}" if self.values[kind] else "")
            for kind, count in self.reasons.items()
        ]


@dataclass
class Part:
    """Consecutive rows of a batch."""

    batch: Batch
    start: int  # place of the first in the batch
    frame: pandas.DataFrame


class Ids:
    """Hashes of row ids, sorted: 8 bytes a row, whatever the length of the ids."""

    def __init__(self) -> None:
        self.hashes = numpy.empty(0, HASH)

    def add(self, hashes: numpy.ndarray) -> None:
        """Remember these."""
        new = numpy.unique(hashes)
        self.hashes = numpy.insert(self.hashes, self.hashes.searchsorted(new), new)

    def holds(self, hashes: numpy.ndarray) -> numpy.ndarray:
        """Which of these were remembered."""
        return self.hashes.searchsorted(hashes, "left") < self.hashes.searchsorted(hashes, "right")


def run(workspace: Workspace, params: Params) -> None:
    """Sort the rows of all batches into ``accepted`` and ``quarantine``; accepted + quarantined = rows in.

    Raises:
        BudgetError: a batch has too many bad rows. The quarantine and the pages are written, so that they can be
            looked at; the accepted rows are not.
        DataError: there is no batch, or batches and manifest disagree.
    """
    check_manifest(workspace)
    batches = manifest(workspace)
    if not batches:
        raise DataError("there is no batch yet; add one with `staytuned ingest FILE`")
    task = tasks.load(params)
    keep = params.ingest.columns.keep
    columns = ["row", "text", "text_pair", "label", "source", "group", "batch", *keep]
    told = ["row", "text", "text_pair", "label", "source", "group", "line", *keep]
    contract = Contract(params.validate_.max_characters, [*told, "problem"], "text_pair" in task.columns, task.labelled)
    schema = pyarrow.schema([(name, pyarrow.string()) for name in columns])
    shutil.rmtree(workspace.data_docs, ignore_errors=True)
    checkpoint = Checkpoint(contract, workspace.data_docs)
    everyone, accepted_ids, ids_here, readmitted = Ids(), Ids(), Ids(), set[str]()
    tallies = {batch.batch[:16]: Tally(batch) for batch in batches}
    with (
        replacing(workspace.accepted) as accepted_file,
        replacing(workspace.quarantine) as quarantine_file,
        quarantine_file.open("w", encoding="utf-8", newline="") as quarantine_handle,
    ):
        quarantine = csv.writer(quarantine_handle)
        quarantine.writerow(["key", *told, "reasons"])
        with pyarrow.parquet.ParquetWriter(accepted_file, schema, **PARQUET) as accepted:
            for parts in _chunks(workspace, batches, params):
                frame = pandas.concat([part.frame for part in parts], ignore_index=True)
                keys = [(part.batch.batch[:16], part.start + i) for part in parts for i in range(len(part.frame))]
                frame["batch"] = [batch for batch, _ in keys]
                frame["label"] = task.labels(frame)
                frame["fault"] = pandas.Series(task.faults(frame), index=frame.index, dtype="object")
                hashes = pandas.util.hash_array(frame["row"].fillna("").to_numpy(object), categorize=False)
                first = parts[0]
                if first.start == 0:
                    ids_here = Ids()
                # a corrected row may take the id of the row that it corrects
                before = accepted_ids if first.batch.readmits else everyone
                frame["duplicate"] = _duplicates(frame["row"], hashes, before, ids_here)
                clipped = frame.assign(text=frame["text"].str.slice(0, params.validate_.max_characters + 1))
                reasons = checkpoint.reasons(f"{first.batch.batch[:12]}-{first.start}", clipped)
                bad = numpy.isin(numpy.arange(len(frame)), list(reasons))
                everyone.add(hashes)
                accepted_ids.add(hashes[~bad])
                if first.batch.readmits:
                    ids_here.add(hashes)
                readmitted.update(frame.loc[~bad, "readmits"].dropna())
                rows = frame[~bad]
                accepted.write_table(pyarrow.Table.from_pandas(rows[columns], schema, preserve_index=False))
                for batch, count in Counter(rows["batch"]).items():
                    tallies[batch].accepted += count
                for place, why in sorted(reasons.items()):
                    batch, number = keys[place]
                    tallies[batch].add(f"{batch}:{number}", why)
                    values = frame.loc[place, told].fillna("")
                    quarantine.writerow([f"{batch}:{number}", *values, "; ".join(why.values())])
        quarantine_handle.flush()
        report = _report(list(tallies.values()), readmitted)
        write_json(workspace.reports / "validation.json", report)
        close_pages(workspace.data_docs, checkpoint.done, {batch.batch[:16]: batch.file for batch in batches})
        over_budget = _over_budget(report, params.validate_.quarantine_budget)
        if over_budget:
            quarantine_file.replace(workspace.quarantine)
            raise BudgetError(
                f"{over_budget}\ncorrect them in a copy of {workspace.quarantine}, then `staytuned readmit COPY`; "
                "or raise the budget"
            )


def _chunks(workspace: Workspace, batches: list[Batch], params: Params) -> Iterator[list[Part]]:
    """At most ``chunk_rows`` rows at a time: small batches together, for a checkpoint takes a second however few its
    rows are. Corrected rows come alone: they are judged by what became of the rows before them.
    """
    size = params.validate_.chunk_rows
    together: list[Part] = []
    for part in track(
        _parts(workspace, batches, params), sum(-(-batch.rows // size) for batch in batches), "validating"
    ):
        rows = sum(len(one.frame) for one in (*together, part))
        if together and (rows > size or part.batch.readmits or together[0].batch.readmits):
            yield together
            together = []
        together.append(part)
    yield together


def _parts(workspace: Workspace, batches: list[Batch], params: Params) -> Iterator[Part]:
    for batch in batches:
        file = pyarrow.parquet.ParquetFile(path_of(workspace, batch.batch))
        missing = set(params.ingest.columns.keep) - set(file.schema_arrow.names)
        if missing:
            raise DataError(
                f"batch {batch.batch[:16]} ({batch.file}) was ingested without {sorted(missing)}, which "
                "ingest.columns.keep names now; drop them there, or ingest the file again elsewhere"
            )
        start = 0
        for rows in file.iter_batches(batch_size=params.validate_.chunk_rows):
            yield Part(batch, start, rows.to_pandas())
            start += len(rows)


def _duplicates(rows: pandas.Series, hashes: numpy.ndarray, before: Ids, here: Ids) -> pandas.Series:
    """The id of each row whose id was there before, or stands above it in its own batch."""
    repeated = pandas.Series(hashes).duplicated().to_numpy() | before.holds(hashes) | here.holds(hashes)
    return rows.where(pandas.Series(repeated, index=rows.index))


def _report(tallies: list[Tally], readmitted: set[str]) -> dict[str, Any]:
    batches: list[dict[str, Any]] = [
        {
            "batch": tally.batch.batch[:16],
            "rows": tally.batch.rows,
            "accepted": tally.accepted,
            "quarantined": len(tally.quarantined),
            "readmitted": len(readmitted.intersection(tally.quarantined)),
            "decoded": tally.batch.decoded,
            "reasons": dict(tally.reasons),
            "said": tally.said(),
        }
        for tally in tallies
    ]
    for batch in batches:
        if batch["accepted"] + batch["quarantined"] != batch["rows"]:
            raise AssertionError(f"rows were lost: {json.dumps(batch)}")
    totals = {name: sum(batch[name] for batch in batches) for name in ("rows", "accepted", "quarantined", "readmitted")}
    return {**totals, "batches": batches}


def _over_budget(report: dict[str, Any], budget: float) -> str | None:
    for batch in report["batches"]:
        bad = batch["quarantined"] - batch["readmitted"]
        if bad > budget * batch["rows"]:
            return (
                f"batch {batch['batch']} has {bad} bad rows of {batch['rows']}, more than the "
                f"{budget:.0%} of validate.quarantine_budget: {'; '.join(batch['said'])}"
            )
    return None
