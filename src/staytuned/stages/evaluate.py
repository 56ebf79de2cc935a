"""Evaluate: base, candidate, champion and best version on the same test rows, in the same run."""

import itertools
from pathlib import Path
from typing import Any

import numpy
import pandas
from transformers.utils import logging

from staytuned import behaviour, tasks
from staytuned.data.sides import TEST, TRAIN, rows_of, that_judge, unseen_by, with_lots
from staytuned.errors import DataError
from staytuned.files import read_json, write_json
from staytuned.modelling.class_metrics import per_class
from staytuned.modelling.device import make_deterministic
from staytuned.modelling.examples import Examples
from staytuned.modelling.intervals import draw, interval, resampled
from staytuned.models import base_of
from staytuned.params import Params
from staytuned.predictor import Predictor, frame_of
from staytuned.progress import busy
from staytuned.scoring import kept_in, predictions
from staytuned.sections import Evaluate
from staytuned.stages.evaluate_pages import write_pages
from staytuned.tasks import Side, Task
from staytuned.tasks.comparable import check_answers, check_tokens
from staytuned.workspace import Workspace

RIVALS = ("champion", "best")  # of the candidate
COMPARED = ("base", *RIVALS)
EXAMPLES, ANSWERED = 32, 2  # rows that go with a registered model
ENOUGH = 30  # test rows of a batch, for a figure of its own


def run(workspace: Workspace, params: Params) -> None:
    """Write ``reports/evaluation`` and the short ``reports/metrics.json``.

    Raises:
        DataError: every test row was trained on by one of the models.
        ParamsError: one of them gives other answers than ``task`` asks for, or counts other tokens.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    make_deterministic(params.train.seed, params.train.threads)
    task = tasks.load(params)
    test, train = (
        Side(rows_of(workspace, side), Examples.read(workspace.encoded / f"{side}.arrow"), workspace.embeddings)
        for side in (TEST, TRAIN)
    )
    in_lots = with_lots(test.frame, TEST)
    judges = that_judge(in_lots, params.evaluate.max_rows_per_source)
    test, asked = _part(test, judges), in_lots[judges].reset_index(drop=True)
    base = base_of(workspace, params)
    folders = {"candidate": workspace.candidate, **pinned(workspace)}
    for folder in folders.values():
        check_answers(task, folder)
    if task.counts_tokens:
        check_tokens(folders.values())
    # An old model may have seen them: under another salt, or as texts that came anew.
    fair = unseen_by(test.frame, folders.values())
    if not fair.any():
        raise DataError(
            f"each of the {len(fair)} test rows was trained on by {', '.join(folders)}; ingest new rows, or set "
            "split.salt back to what it was"
        )
    said = {"base": task.predict_before(base, train, test)}
    with busy("scoring the test rows"), kept_in(workspace.pieces, "evaluate", "drift") as pieces:
        for name, folder in folders.items():
            said[name] = predictions(folder, asked, pieces)
    judged = {name: list(itertools.compress(predictions, fair)) for name, predictions in said.items()}
    report = compare(task, judged, test.frame[fair].reset_index(drop=True), params.evaluate)
    report["test"]["kept_from_judging"] = int((~fair).sum())
    report["test"]["not_drawn"] = int((~judges).sum())
    report["megabytes"] = (workspace.candidate / "model.safetensors").stat().st_size / 1e6
    candidate = Predictor(workspace.candidate)
    report["behaviour"] = _behaviour(workspace, params, candidate, test.frame)
    for name, about in _pin(workspace).items():
        if about and name in report["models"]:
            report["models"][name]["version"] = about["version"]
    write_json(workspace.evaluation / "evaluation.json", report)
    write_pages(workspace, report)
    write_json(workspace.evaluation / "examples.json", examples(candidate, test.frame))
    short = report["models"]["candidate"]["metrics"]
    write_json(workspace.reports / "metrics.json", {name: round(value, 6) for name, value in short.items()})


def _part(side: Side, chosen: numpy.ndarray) -> Side:
    """Some rows of a side."""
    examples = side.examples.of_rows(numpy.flatnonzero(chosen).tolist())
    return Side(side.frame[chosen].reset_index(drop=True), examples, side.pieces)


def examples(candidate: Predictor, frame: pandas.DataFrame) -> dict[str, Any]:
    """Some rows with the candidate's outputs, flat, by which a copy of it is known; of the first, its answers too."""
    rows = frame.head(EXAMPLES)
    asked = rows[["text", "text_pair", "label"]].astype("object")
    answered = rows.head(ANSWERED)
    outputs = numpy.concatenate([values.ravel() for values in candidate.outputs(rows)])
    return {
        "rows": asked.where(asked.notna(), None).to_dict("records"),
        "outputs": outputs.tolist(),
        "columns": [name for name in candidate.task.columns if name != "label"],
        "answers": candidate.task.table(candidate.predict(answered)),
    }


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


def compare(task: Task, said: dict[str, list[Any]], frame: pandas.DataFrame, options: Evaluate) -> dict[str, Any]:
    """Metrics of each model, with intervals and a slice per source, and the candidate's paired differences.

    Args:
        task: What is judged by which metrics.
        said: Predictions by model, one a row; ``candidate`` is one of the models.
        frame: The rows, whose groups the bootstrap draws.
        options: The evaluation section of params.yaml.
    """
    groups = frame["group"].tolist()
    drawn, count = draw(groups, options.bootstrap, options.seed), len(set(groups))
    of_rows = {name: task.statistics(frame, predictions) for name, predictions in said.items()}
    sums = {name: resampled(statistics, groups, drawn) for name, statistics in of_rows.items()}
    draws = {name: task.measure(values) for name, values in sums.items()}
    models = dict[str, Any]()
    for name, statistics in of_rows.items():
        between = {metric: interval(values, count, options.confidence) for metric, values in draws[name].items()}
        models[name] = {
            "metrics": _floats(task.measure(statistics.sum(axis=0))),
            "intervals": between,
            "slices": slices(task, statistics, frame["source"]),
            "batches": slices(task, statistics, frame["batch"], ENOUGH),
            "details": task.details(frame, said[name]),
        }
    comparisons = {
        other: {
            metric.name: _difference(
                models["candidate"]["metrics"][metric.name],
                models[other]["metrics"][metric.name],
                draws["candidate"][metric.name] - draws[other][metric.name],
                count,
                options,
            )
            for metric in task.metrics
        }
        for other in COMPARED
        if other in models
    }
    return {
        "metrics": [metric._asdict() for metric in task.metrics],
        "before": task.before,
        "test": {"rows": len(frame), "groups": count, "confidence": options.confidence},
        "models": models,
        "comparisons": comparisons,
        "sources": _by_source(task, of_rows, frame, options),
        "classes": _by_class(task, of_rows, sums, frame["group"], options),
    }


def _difference(candidate: float, other: float, draws: numpy.ndarray, groups: int, options: Evaluate) -> dict[str, Any]:
    """How much larger a figure of the candidate is than another model's, with the interval of that difference."""
    return {"difference": float(candidate - other), "interval": interval(draws, groups, options.confidence)}


def _by_source(
    task: Task, of_rows: dict[str, numpy.ndarray], frame: pandas.DataFrame, options: Evaluate
) -> dict[str, Any]:
    """Of each source: its rows, and the candidate's paired difference to champion and best by the first metric."""
    metric, found = task.metrics[0].name, dict[str, Any]()
    for source in sorted(set(frame["source"])):
        here = (frame["source"] == source).to_numpy()
        groups = frame["group"][here].tolist()
        drawn, count = draw(groups, options.bootstrap, options.seed), len(set(groups))
        values, draws = dict[str, float](), dict[str, numpy.ndarray]()
        for name, statistics in of_rows.items():
            values[name] = float(task.measure(statistics[here].sum(axis=0))[metric])
            draws[name] = task.measure(resampled(statistics[here], groups, drawn))[metric]
        found[source] = {"rows": int(here.sum()), "groups": count} | {
            name: _difference(values["candidate"], values[name], draws["candidate"] - draws[name], count, options)
            for name in RIVALS
            if name in of_rows
        }
    return found


def _by_class(
    task: Task,
    of_rows: dict[str, numpy.ndarray],
    sums: dict[str, numpy.ndarray],
    groups: pandas.Series,
    options: Evaluate,
) -> dict[str, Any]:
    """Of each class: how often it occurs and in how many groups; and the candidate's paired difference by its F1.

    The interval is of the draws in which it occurs. Of a class that occurs nowhere there is no difference.
    """
    occurs = task.counts(of_rows["candidate"])[:, 2]
    drawn = task.counts(sums["candidate"])[:, 2] > 0
    rivals = [name for name in RIVALS if name in of_rows]
    f1 = {name: per_class(task.counts(of_rows[name].sum(axis=0)))[2] for name in ("candidate", *rivals)}
    f1_drawn = {name: per_class(task.counts(sums[name]))[2] for name in f1}
    found = dict[str, Any]()
    for place, label in enumerate(task.counted):
        support, count = int(occurs[:, place].sum()), int(groups[occurs[:, place] > 0].nunique())
        found[label] = {"support": support, "groups": count}
        for name in rivals if support else []:
            draws = (f1_drawn["candidate"] - f1_drawn[name])[drawn[:, place], place]
            found[label][name] = _difference(f1["candidate"][place], f1[name][place], draws, count, options)
    return found


def _behaviour(workspace: Workspace, params: Params, candidate: Predictor, frame: pandas.DataFrame) -> dict[str, Any]:
    """What the behavioural checks of the workspace find in the candidate."""
    task = candidate.task
    checks = behaviour.read(workspace.behaviour, task)
    if not checks:
        return {}

    def answers(texts: list[str]) -> list[str]:
        return [str(answer) for answer in next(iter(task.table(candidate.predict(frame_of(texts))).values()))]

    with busy("checking behaviour"):
        return behaviour.examine(checks, frame, answers, params.evaluate.seed)


def slices(task: Task, statistics: numpy.ndarray, names: pandas.Series, least: int = 1) -> dict[str, Any]:
    """Rows and metrics of each slice of at least so many rows, in the order in which they first occur.

    Args:
        task: What is measured.
        statistics: Of a model, shape (rows, statistics).
        names: The slice that each row is in.
        least: Rows that a slice must have.
    """
    found = dict[str, Any]()
    for name in names.unique():
        here = (names == name).to_numpy()
        if here.sum() >= least:
            metrics = _floats(task.measure(statistics[here].sum(axis=0)))
            found[name] = {"rows": int(here.sum()), "metrics": metrics}
    return found


def _floats(metrics: dict[str, numpy.ndarray]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


def _pin(workspace: Workspace) -> dict[str, Any]:
    file = workspace.pin / "pin.json"
    pin: dict[str, Any] = read_json(file) if file.is_file() else {}
    return pin
