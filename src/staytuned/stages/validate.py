"""Validate: rows that keep the contract go on, the others are quarantined with their reasons."""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow
import pyarrow.parquet

from staytuned import tasks
from staytuned.data.batches import Batch, check_manifest, manifest, path_of
from staytuned.data.contract import REPEAT, Contract
from staytuned.data.data_docs import write_pages
from staytuned.data.verdicts import Judge, Part
from staytuned.errors import BudgetError, DataError
from staytuned.files import PARQUET, replacing, sha256, write_json
from staytuned.params import Params
from staytuned.pieces import Pieces, made_by
from staytuned.progress import bar
from staytuned.tasks import Task
from staytuned.workspace import Workspace

SHOWN = 3  # new classes that are named


@dataclass
class Tally:
    """What became of one batch."""

    batch: Batch
    accepted: int = 0
    quarantined: list[str] = field(default_factory=list)  # keys
    bad: list[str] = field(default_factory=list)  # keys of those that do not repeat a row that was judged before
    reasons: Counter[str] = field(default_factory=Counter)
    values: dict[str, list[str]] = field(
        default_factory=dict
    )  # by reason, the first few names that are not in a known set

    def add(self, key: str, why: dict[str, str]) -> None:
        """Count a row that is quarantined for these reasons."""
        self.quarantined.append(key)
        if REPEAT not in why:
            self.bad.append(key)
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
    keep, options = params.ingest.columns.keep, params.validate_
    columns = ["row", "text", "text_pair", "label", "source", "group", "batch", *keep]
    told = ["row", "text", "text_pair", "label", "source", "group", "line", *keep]
    unlabelled = task.unlabelled if task.labelled else None
    contract = Contract(options.max_characters, [*told, "problem"], "text_pair" in task.columns, unlabelled)
    schema = pyarrow.schema([(name, pyarrow.string()) for name in columns])
    made = made_by(
        "stages/validate.py", "data/contract.py", "data/data_docs.py", "data/verdicts.py", "tasks", "modelling"
    )
    readmitted, tallies = set[str](), {batch.batch[:16]: Tally(batch) for batch in batches}
    with (
        Pieces(workspace.verdicts, f"{made} {params.section('task')} {contract} {options.chunk_rows}") as pieces,
        replacing(workspace.accepted) as accepted_file,
        replacing(workspace.quarantine) as quarantine_file,
        quarantine_file.open("w", encoding="utf-8", newline="") as quarantine_handle,
    ):
        judge = Judge(contract, task.faults, options.chunk_rows, pieces)
        quarantine = csv.writer(quarantine_handle)
        quarantine.writerow(["key", *told, "reasons"])
        with pyarrow.parquet.ParquetWriter(accepted_file, schema, **PARQUET) as accepted:
            for part, reasons in judge.verdicts(_parts(workspace, batches, params, task)):
                frame, tally = part.frame, tallies[part.batch.batch[:16]]
                rows = frame.drop(index=list(reasons))
                readmitted.update(rows["readmits"].dropna())
                tally.accepted += len(rows)
                if len(rows):
                    accepted.write_table(pyarrow.Table.from_pandas(rows[columns], schema, preserve_index=False))
                for place, why in sorted(reasons.items()):
                    key = f"{part.batch.batch[:16]}:{part.start + place}"
                    tally.add(key, why)
                    quarantine.writerow([key, *frame.loc[place, told].fillna(""), "; ".join(why.values())])
        quarantine_handle.flush()
        report = _report(list(tallies.values()), readmitted, options.quarantine_budget)
        write_json(workspace.reports / "validation.json", report)
        write_pages(workspace.data_docs, judge.done, {batch.batch[:16]: batch.file for batch in batches})
        stopped = _stopped(report, options.quarantine_budget)
        if stopped:
            quarantine_file.replace(workspace.quarantine)
            raise BudgetError(
                f"{stopped}\ncorrect them in a copy of {workspace.quarantine}, then `staytuned readmit COPY`; "
                "or `staytuned withdraw BATCH --why TEXT`, with the batch's name as above (where rows came before with "
                "another label that was wrong, the earlier batch's); "
                "or, if they are right, change the section task of params.yaml, or raise the budget"
            )


def _parts(workspace: Workspace, batches: list[Batch], params: Params, task: Task) -> Iterator[Part]:
    """All rows, at most ``chunk_rows`` at a time."""
    size, before = params.validate_.chunk_rows, ""
    with bar() as display:
        shown = display.add_task("validating", total=sum(batch.rows for batch in batches))
        for batch in batches:
            path = path_of(workspace, batch.batch)
            before = hashlib.sha256(f"{before} {batch.batch} {batch.readmits} {sha256(path)}".encode()).hexdigest()
            file = pyarrow.parquet.ParquetFile(path)
            missing = set(params.ingest.columns.keep) - set(file.schema_arrow.names)
            if missing:
                raise DataError(
                    f"batch {batch.batch[:16]} ({batch.file}) was ingested without {sorted(missing)}, which "
                    "ingest.columns.keep names now; drop them there, or ingest the file again elsewhere"
                )
            start = 0
            for rows in file.iter_batches(batch_size=size):
                frame = rows.to_pandas()
                frame["batch"] = batch.batch[:16]
                frame["label"] = task.labels(frame)
                yield Part(batch, start, frame, f"{before} {start}")
                start += len(frame)
                display.update(shown, advance=len(frame))


def _report(tallies: list[Tally], readmitted: set[str], budget: float) -> dict[str, Any]:
    """What became of the rows. Over the budget is a batch with too many bad rows: a source may be broken; rows
    corrected by hand are few.
    """
    batches: list[dict[str, Any]] = [
        {
            "batch": tally.batch.batch[:16],
            "file": tally.batch.file,
            "rows": tally.batch.rows,
            "accepted": tally.accepted,
            "quarantined": len(tally.quarantined),
            "bad": len(set(tally.bad) - readmitted),
            "corrects": tally.batch.readmits,
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
        batch["over_budget"] = batch["bad"] > budget * batch["rows"] and not batch["corrects"]
    totals = {name: sum(batch[name] for batch in batches) for name in ("rows", "accepted", "quarantined", "readmitted")}
    return {**totals, "batches": batches}


def _stopped(report: dict[str, Any], budget: float) -> str:
    """What to say of the batches that are over the budget."""
    return "\n".join(
        f"batch {batch['batch']} ({batch['file']}) has {batch['bad']} bad rows of {batch['rows']}, more than the "
        f"{budget:.0%} of validate.quarantine_budget: {'; '.join(batch['said'])}"
        for batch in report["batches"]
        if batch["over_budget"]
    )
