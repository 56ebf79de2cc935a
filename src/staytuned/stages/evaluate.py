"""Evaluate: base, candidate, champion and best version on the same test rows, in the same run."""

from pathlib import Path
from typing import Any

import numpy
import pyarrow.parquet
from transformers.utils import logging

from staytuned import tasks
from staytuned.classifier import Classifier
from staytuned.data.sides import TEST, TRAIN, row_hashes
from staytuned.errors import DataError
from staytuned.files import read_json, write_json
from staytuned.models import find_base
from staytuned.params import Params
from staytuned.progress import busy
from staytuned.stages.evaluate_pages import write_pages
from staytuned.tasks.intervals import draw, interval, score
from staytuned.training.baseline import baseline_logits
from staytuned.training.loop import make_deterministic
from staytuned.training.rows import Rows
from staytuned.workspace import Workspace

COMPARED = ("base", "champion", "best")  # with the candidate
METRICS = ("accuracy", "macro_f1")


def run(workspace: Workspace, params: Params) -> None:
    """Write ``reports/evaluation`` and the short ``reports/metrics.json``.

    Raises:
        DataError: every test row was trained on by one of the models.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    make_deterministic(params.train.seed, params.train.threads)
    classes = len(params.task.labels)
    test = Rows(workspace.encoded / f"{TEST}.arrow", classes)
    train = Rows(workspace.encoded / f"{TRAIN}.arrow", classes)
    base = find_base(params.model.base, [workspace.root / folder for folder in params.model.folders])
    folders = {"candidate": workspace.candidate, **pinned(workspace)}
    sources, groups, texts = test_rows(workspace)
    unseen = _unseen(test.names, list(folders.values()))
    if not unseen.any():
        raise DataError(
            f"each of the {len(test)} test rows was trained on by {', '.join(folders)}; ingest new rows, or set "
            "split.salt back to what it was"
        )
    logits = {"base": baseline_logits(base, train, test)}
    with busy("scoring the test rows"):
        for name, folder in folders.items():
            logits[name] = Classifier(folder).logits(texts)
    report = compare(
        {name: values[unseen] for name, values in logits.items()},
        test.labels[unseen],
        [groups[i] for i in numpy.flatnonzero(unseen)],
        [sources[i] for i in numpy.flatnonzero(unseen)],
        params,
    )
    report["test"]["kept_from_judging"] = int((~unseen).sum())
    for name, about in _pin(workspace).items():
        if about and name in report["models"]:
            report["models"][name]["version"] = about["version"]
    write_json(workspace.evaluation / "evaluation.json", report)
    write_pages(workspace, report)
    candidate = report["models"]["candidate"]
    short = {name: candidate[name] for name in (*METRICS, "calibration_error")}
    write_json(workspace.reports / "metrics.json", {name: round(value, 6) for name, value in short.items()})


def pinned(workspace: Workspace) -> dict[str, Path]:
    """Folders of the champion and, where it is another version, of the best."""
    pin = _pin(workspace)
    champion, best = pin.get("champion"), pin.get("best")
    found = {}
    if champion:
        found["champion"] = workspace.pin / "champion"
    if best and champion and best["version"] != champion["version"]:
        found["best"] = workspace.pin / "best"
    return found


def compare(
    logits: dict[str, numpy.ndarray],
    truth: numpy.ndarray,
    groups: list[str],
    sources: list[str],
    params: Params,
) -> dict[str, Any]:
    """Metrics of each model, with intervals and a slice per source, and the candidate's paired differences.

    Args:
        logits: By model, shape (rows, classes); ``candidate`` is one of them.
        truth: Class numbers, shape (rows,).
        groups: Group of each row: what the bootstrap draws.
        sources: Source of each row.
        params: All of params.yaml.
    """
    task, options = tasks.load(params), params.evaluate
    drawn = draw(groups, options.bootstrap, options.seed)
    models: dict[str, Any] = {}
    draws = {}
    for name, values in logits.items():
        draws[name] = score(truth, values.argmax(axis=1), groups, drawn, values.shape[1])
        models[name] = task.metrics(truth, values)
        models[name]["intervals"] = {
            metric: interval(getattr(draws[name], metric), options.confidence) for metric in METRICS
        }
        models[name]["slices"] = _slices(task, truth, values, sources)
    comparisons = {
        other: {
            metric: {
                "difference": models["candidate"][metric] - models[other][metric],
                "interval": interval(
                    getattr(draws["candidate"], metric) - getattr(draws[other], metric), options.confidence
                ),
            }
            for metric in METRICS
        }
        for other in COMPARED
        if other in models
    }
    test = {"rows": len(truth), "groups": len(set(groups)), "confidence": options.confidence}
    return {"test": test, "models": models, "comparisons": comparisons}


def _slices(task: Any, truth: numpy.ndarray, logits: numpy.ndarray, sources: list[str]) -> dict[str, Any]:
    found = {}
    for source in sorted(set(sources)):
        here = numpy.array([one == source for one in sources])
        metrics = task.metrics(truth[here], logits[here])
        found[source] = {"rows": int(here.sum()), **{name: metrics[name] for name in METRICS}}
    return found


def _pin(workspace: Workspace) -> dict[str, Any]:
    file = workspace.pin / "pin.json"
    pin: dict[str, Any] = read_json(file) if file.is_file() else {}
    return pin


def test_rows(workspace: Workspace) -> tuple[list[str], list[str], list[str]]:
    """Sources, groups and texts of the test side, in the order in which it was encoded."""
    rows = pyarrow.parquet.read_table(workspace.accepted, columns=["source", "text"])
    split = pyarrow.parquet.read_table(workspace.split, columns=["side", "group"])
    here = pyarrow.compute.equal(split["side"], TEST)
    rows, split = rows.filter(here), split.filter(here)
    return rows["source"].to_pylist(), split["group"].to_pylist(), rows["text"].to_pylist()


def _unseen(names: list[str], folders: list[Path]) -> numpy.ndarray:
    """Which rows none of the models was trained on: with another salt, an old model may have seen them."""
    hashes = numpy.array([row_hashes([name])[0] for name in names], dtype="<u8")
    seen = [numpy.fromfile(folder / "trained_on.u64", dtype="<u8") for folder in folders]
    return ~numpy.isin(hashes, numpy.concatenate(seen))
