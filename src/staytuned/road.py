"""What the commands do to a workspace: ingest, readmit, sync, run. Each is whole or leaves things as they were."""

import asyncio
import shutil
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from staytuned import alerts, pipeline
from staytuned.data import batches, example
from staytuned.data.readers import Reader
from staytuned.entry_points import task_class
from staytuned.errors import (
    DataError,
    GateError,
    MissingError,
    RegistryError,
    StaytunedError,
    disk_full,
    is_disk_full,
)
from staytuned.files import read_json
from staytuned.pages import prefect_settings, prefect_starting
from staytuned.params import Params
from staytuned.progress import busy
from staytuned.registry import pin
from staytuned.registry.ledger import WITHDRAWAL, Ledger, check_reason
from staytuned.registry.release import Release, finished
from staytuned.registry.versions import Registry
from staytuned.summary import not_due, summary
from staytuned.workspace import Workspace

if TYPE_CHECKING:
    from staytuned.data.batches import Batch
    from staytuned.drift.triggers import Answer

MEND = (
    "ingest more rows, train longer (train.epochs, or a smaller train.batch_size; a few dozen steps are too few), or "
    "change what the section gate of params.yaml asks for; then `staytuned run` again"
)


def run(workspace: Workspace, only_if_needed: bool = False) -> None:
    """From rows to a decision; does nothing, and says so, when nothing is left to do.

    With ``only_if_needed``, nothing is trained until a trigger asks for it.

    Raises:
        GateError: the gate blocked the candidate, now or before.
        StaytunedError: whatever stopped the road; the former champion goes on answering.
    """
    params = Params.read(workspace.params)
    with alerts.on_failure(params):
        pipeline.pin_code(workspace)
        already = _nothing_to_do(workspace, params)
        outcome = already or _outcome(workspace, params, only_if_needed)
    if already:
        _pass_gate(
            already, ["the gate blocked the candidate, and nothing has changed since:", *already.decision.reasons]
        )
        print(_said_already(already))
    elif isinstance(outcome, Release):
        summary(workspace, params, outcome)
        _pass_gate(outcome, ["the gate blocked the candidate, for the reasons above; the champion, if any, stays"])
    elif outcome:
        not_due(workspace, outcome)


def _outcome(workspace: Workspace, params: Params, only_if_needed: bool) -> "Release | Answer | None":
    """What the flow comes to; None where no trigger asks for it, which is said."""
    _check_base(workspace, params)
    first_batch(workspace, params)
    if only_if_needed:
        from staytuned import situation

        answer = situation.settled(workspace, params)
        if answer and not answer.retrain:
            print("nothing to do:", *answer.reasons, *answer.waiting, sep="\n  ")
            return None
    return _flow(workspace, params, only_if_needed)


def _pass_gate(release: Release, said: list[str]) -> None:
    if release.decision.outcome == "BLOCK":
        raise GateError("\n  ".join([*said, MEND]))


def _nothing_to_do(workspace: Workspace, params: Params) -> Release | None:
    already = finished(workspace, params)
    if already:
        pin.check_alias(workspace, params)
    return already


def _said_already(release: Release) -> str:
    kept = "nothing was registered"
    if release.version:
        kept = f"version {release.version} is {release.alias or 'no longer champion: see `staytuned history`'}"
    return f"nothing to do: no row, parameter or line of code has changed since {release.decision.outcome}; {kept}"


def _check_base(workspace: Workspace, params: Params) -> None:
    """The base model is there, and fits the task: said before any work."""
    from staytuned.stages import encode

    encode.fitted(workspace, params)


def first_batch(workspace: Workspace, params: Params) -> None:
    """Where there has been no batch yet, take in the example's rows.

    Raises:
        DataError: the params name no example, or what there was is withdrawn.
    """
    if batches.manifest(workspace):
        return
    source = params.ingest.example
    withdrawn = Ledger.of(workspace, params).last(WITHDRAWAL)
    if withdrawn or source is None:
        why = f"the last batch, {withdrawn.facts['batch']}, was withdrawn" if withdrawn else "there is no batch yet"
        raise DataError(f"{why}; add one with `staytuned ingest FILE`")
    with busy(f"fetching the example data ({example.PACKAGE}, {source})"):
        path = example.fetch(source, workspace.root / "data" / "incoming")
    ingest(workspace, path)


def _flow(workspace: Workspace, params: Params, only_if_needed: bool) -> "Release | Answer":
    """Run the workspace's flow, loaded by its entry point as Prefect does."""
    prefect_settings(workspace)
    with busy("starting Prefect"):
        from prefect.settings import PREFECT_API_URL, temporary_settings

        known = PREFECT_API_URL.value()
        with nullcontext(known) if known else prefect_starting(workspace) as url:
            import httpx
            from prefect.client.orchestration import get_client
            from prefect.flows import load_flow_from_entrypoint

            flow: Any = load_flow_from_entrypoint(workspace.flow)
            with suppress(StaytunedError), workspace.hold():
                Registry(workspace, params)  # a new one takes two seconds; if it fails, the flow will tell

    async def answer() -> None:
        async with get_client() as client:
            await client.hello()

    with temporary_settings({PREFECT_API_URL: url}):
        try:
            asyncio.run(answer())
            outcome: Release | Answer = flow(workspace=str(workspace.root), only_if_needed=only_if_needed)
        except httpx.HTTPError as error:
            if not known and is_disk_full(workspace.var):
                raise disk_full(workspace.var) from error
            raise RegistryError(
                f"the Prefect server at {url} does not answer: {error!r}; start it, or unset PREFECT_API_URL to do "
                "without; `staytuned run` goes on from here"
            ) from error
    return outcome


def ingest(workspace: Workspace, path: Path) -> tuple["Batch", bool]:
    """Make a batch of a file, pin the champion that its rows will be judged beside, point DVC at both."""
    params = Params.read(workspace.params)
    reader = Reader(path, params.ingest.columns, params.ingest.encodings, task_class(params.task.name).formats)
    return _arrive(workspace, reader)


def readmit(workspace: Workspace, path: Path) -> tuple["Batch", bool]:
    """Take in rows that were corrected in a copy of the quarantine.

    Raises:
        DataError: a row carries a key that is not in the quarantine, or none was corrected.
    """
    keep = Params.read(workspace.params).ingest.columns.keep
    if not workspace.quarantine.exists():
        raise MissingError(f"there is no {workspace.quarantine}; `staytuned run` makes it")
    faulty = {str(row["readmits"]): row for row in batches.Corrected(workspace.quarantine, keep).rows()}
    reader = batches.Corrected(path, keep, faulty)
    changed = list(reader.rows())
    strange = sorted({str(row["readmits"]) for row in changed} - faulty.keys())
    if strange:
        raise DataError(
            f"{path} has the keys {strange[:5]}, which are not in {workspace.quarantine}; leave the "
            "column `key` as it is there"
        )
    if not changed:
        raise DataError(f"no row of {path} differs from what {workspace.quarantine} has; correct some first")
    return _arrive(workspace, reader)


def _arrive(workspace: Workspace, reader: Reader) -> tuple["Batch", bool]:
    params = Params.read(workspace.params)
    with workspace.hold(), busy(f"ingesting {reader.path.name}"):
        batch, new = batches.add(workspace, reader, readmits=isinstance(reader, batches.Corrected))
        pipeline.pin_code(workspace)
        if new or not finished(workspace, params):  # it may have been cut off here when the rows were new
            pin.refresh(workspace, params, arrived=True)
            pipeline.track(workspace, workspace.batches, workspace.pin)
    if new:
        decoded = "".join(f", {count} lines decoded as {name}" for name, count in batch.decoded.items())
        problems = f", {batch.problems} that could not be read whole" if batch.problems else ""
        print(f"ingested {batch.rows} rows of {batch.file} as batch {batch.batch[:16]}{decoded}{problems}")
    else:
        print(f"batch {batch.batch[:16]} holds these {batch.rows} rows since {batch.arrived}; nothing was added")
    return batch, new


def withdraw(workspace: Workspace, name: str, why: str) -> None:
    """Take a batch out. DVC keeps its rows, so that a version that learned from them can be built again.

    Raises:
        DataError: the reason is blank.
        MissingError: there is no such batch.
    """
    check_reason(why)
    params = Params.read(workspace.params)
    with workspace.hold():
        batch = batches.of_name(workspace, name)
        _take_out(workspace, params, batch, why)
    left = batches.manifest(workspace)
    then = "`staytuned run` trains without them" if left else "no batch is left: `staytuned ingest FILE` adds one"
    print(f"withdrew batch {name}, {batch.rows:,} rows of {batch.file}; {then}")
    serving = workspace.pin / "champion" / "staytuned.json"
    if serving.exists() and name in read_json(serving)["batches"]:
        print("the champion has learned from them and goes on answering; `staytuned rollback` if it should not")


def set_aside(workspace: Workspace, params: Params) -> bool:
    """Withdraw what stopped ``validate``, where nobody is there to ask: new batches with too many bad rows; whether
    there were any. The caller holds the workspace.

    A batch whose rows an earlier run accepted is none: if it is over the budget now, the params are what was changed.
    """
    file = workspace.reports / "validation.json"
    if not (workspace.accepted.exists() and file.exists()):  # DVC takes the second away before each validation
        return False
    import pyarrow.parquet

    known = set(pyarrow.parquet.read_table(workspace.accepted, columns=["batch"])["batch"].unique().to_pylist())
    present = {batch.batch[:16]: batch for batch in batches.manifest(workspace)}
    found = [
        about
        for about in read_json(file)["batches"]
        if about["over_budget"] and about["batch"] in present.keys() - known
    ]
    for about in found:
        why = f"{about['bad']} bad rows of {about['rows']}: {'; '.join(about['said'])}"
        _take_out(workspace, params, present[about["batch"]], f"set aside: {why}")
        text = (
            f"batch {about['batch']} ({about['file']}) was set aside, more than validate.quarantine_budget: {why}\n"
            "The champion goes on answering, and the run goes on with the others: nothing is left to readmit or "
            "withdraw. Correct the file, or, if it is right, change the section task of params.yaml; then bring it in "
            "again"
        )
        alerts.send(params, "refused file", text)
    return bool(found)


def _take_out(workspace: Workspace, params: Params, batch: "Batch", why: str) -> None:
    """With its reason in the ledger; the workspace is held."""
    ledger = Ledger.of(workspace, params)
    ledger.append(WITHDRAWAL, batch=batch.batch[:16], file=batch.file, rows=batch.rows, why=[why])
    batches.take_out(workspace, batch)
    shutil.rmtree(workspace.verdicts, ignore_errors=True)  # a page may tell of its rows beside others'
    pin.refresh(workspace, params, arrived=True)
    pipeline.track(workspace, workspace.batches, workspace.pin)


def sync(workspace: Workspace) -> None:
    """Set the alias to what the ledger says, and pin the champion of today."""
    with workspace.hold():
        for line in pin.sync(workspace, Params.read(workspace.params)) or ["nothing to do"]:
            print(line)
