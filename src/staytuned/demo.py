"""The demo: the example's sources arrive one after the other, and the champion stays good, or is seen not to."""

import json
import os
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from staytuned import road, start, tasks
from staytuned.data.arrivals import arrivals
from staytuned.data.batches import manifest
from staytuned.data.sides import TEST, rows_of, with_lots
from staytuned.demo_pages import show, write_pages
from staytuned.errors import GateError
from staytuned.files import read_json, write_json
from staytuned.modelling.device import make_deterministic
from staytuned.pages import prefect_settings, start_prefect
from staytuned.params import Params
from staytuned.registry.ledger import DECISION, PROMOTION, Ledger
from staytuned.registry.pin import local_copy
from staytuned.scoring import kept_in, predictions
from staytuned.workspace import Workspace

ROWS = 600  # of an arrival: twelve of them, and what they set off, take less than 20 minutes on two cores
CHANGES = {  # of the example's params
    "ingest": {"example": None},
    # arrivals are small: a larger share must judge, and plain steps learn more of few rows
    "split": {"validation": 0.08, "test": 0.25},
    "train": {"start": "champion", "epochs": 3, "patience": 1, "learning_rate": 2.0e-4, "sharpness": 0.0},
    "gate": {"margin": 0.04, "min_test_rows": 50, "sources": {"margin": 0.08}},  # what some hundred rows can show
    "drift": {"draws": 300},
    "triggers": {"new_rows": 600},
    "registry": {"model": "demo"},
}


def demo(folder: Path) -> dict[str, Any]:
    """Play the twelve arrivals through the real road in a workspace of their own, and draw what came of it.

    One that was cut off goes on where it was.

    Returns:
        A line for each arrival, as in ``reports/demo/demo.json``.
    """
    workspace = _workspace(folder)
    files = arrivals(workspace.root / "data" / "arrivals", ROWS)
    prefect_settings(workspace)
    os.environ.setdefault("PREFECT_API_URL", start_prefect(workspace))
    lines = []
    for number, file in enumerate(files, 1):
        done = workspace.var / "demo" / f"{file.stem}.json"
        if not done.exists():
            print(f"\narrival {number} of {len(files)}: {file.name}")
            write_json(done, _arrive(workspace, file))
        lines.append(read_json(done))
    metrics = [metric._asdict() for metric in tasks.load(Params.read(workspace.params)).metrics]
    report = {"metrics": metrics, "arrivals": lines}
    write_json(workspace.reports / "demo" / "demo.json", report)
    write_pages(workspace.reports / "demo", report)
    show(report)
    return report


def _workspace(folder: Path) -> Workspace:
    if not (folder / "params.yaml").exists():
        workspace = start.make(folder)
        start.change(workspace.params, CHANGES)
        start.keep_checks_for_any_label(workspace)  # a first model of some hundred rows cannot do what the others ask
    return Workspace(folder.resolve())


def _arrive(workspace: Workspace, file: Path) -> dict[str, Any]:
    """Ingest a file, let the triggers and the gate do their work, and judge what serves then.

    Where an arrival was cut off, its entries are those since it first began; its seconds are those of the last attempt.
    """
    since, begun = datetime.now(UTC), time.perf_counter()
    ledger = Ledger.of(workspace, Params.read(workspace.params))
    first_entry = workspace.var / "demo" / f"{file.stem}-first-entry.json"
    if not first_entry.exists():
        write_json(first_entry, len(ledger.entries()))
    road.ingest(workspace, file)
    try:
        road.run(workspace, only_if_needed=True)
    except GateError:
        if ledger.last(PROMOTION) is None:
            raise  # there is nothing to show without a champion; otherwise it stays, and the next arrival comes
    seconds = time.perf_counter() - begun
    new = ledger.entries()[read_json(first_entry) :]
    decided = next((entry for entry in new if entry.kind == DECISION), None)
    champion = ledger.last(PROMOTION)
    assert champion is not None
    version = champion.facts["version"]
    scores = _scores(workspace, {1, version})
    return {
        "arrival": file.name,
        "rows": manifest(workspace)[-1].rows,
        "seconds": seconds,
        "training_seconds": _seconds_of_training(since),
        "outcome": decided.facts["outcome"] if decided else None,
        "tokens": decided.facts["tokens"] if decided else 0,
        "entries": [{"kind": entry.kind, "facts": entry.facts} for entry in new],
        "version": version,
        "champion": scores[version],
        "first": scores[1],
    }


def _seconds_of_training(since: datetime) -> float:
    """Wall time of the train stage, as the Prefect server has it."""
    wanted = {"task_runs": {"name": {"any_": ["train"]}, "start_time": {"after_": since.isoformat()}}}
    request = urllib.request.Request(
        f"{os.environ['PREFECT_API_URL']}/task_runs/filter",
        json.dumps(wanted).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return float(sum(run["total_run_time"] for run in json.load(answer)))


def _scores(workspace: Workspace, versions: set[int]) -> dict[int, dict[str, float]]:
    """Metrics of versions on all test rows so far; what evaluate asked them is kept, and not asked again."""
    train, test = Params.read(workspace.params).train, rows_of(workspace, TEST)
    make_deterministic(train.seed, train.threads)
    in_lots = with_lots(test, TEST)
    folders = {version: local_copy(workspace, version) for version in sorted(versions)}
    with kept_in(workspace.pieces, "demo", "evaluate") as pieces:
        said = {version: predictions(folder, in_lots, pieces) for version, folder in folders.items()}
    return {version: tasks.trained(folder).score(test, said[version]) for version, folder in folders.items()}
