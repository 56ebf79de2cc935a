"""Drift: the rows that came since the champion was trained, against those that it knew."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pandas

from staytuned import tasks
from staytuned.data.sides import unseen_by
from staytuned.drift.accuracy import estimated_accuracy
from staytuned.drift.answers import Said, said
from staytuned.drift.calibration import judge, partings
from staytuned.drift.embedding import embedded
from staytuned.drift.rows import LEAST, reference_and_window
from staytuned.drift.views import Answers, Compared, checks_of, texts_of
from staytuned.files import read_json, write_json
from staytuned.modelling.intervals import draw, interval, resampled
from staytuned.models import base_of
from staytuned.params import Params
from staytuned.sections import Drift
from staytuned.stages.drift_pages import write_pages
from staytuned.tasks import Metric, Task
from staytuned.workspace import Workspace

PAGE = "reports/drift/report.html"
ITSELF = "This page"
NEXT = "a training learns from the new rows, and the gate judges"


class Asker(NamedTuple):
    """Which champion is asked, and where the answers are kept."""

    champion: Path  # folder of the model
    pieces: tuple[str, str]  # names of folders of its answers: one's own, and another's that are taken over
    embeddings: Path  # folder of those by the base model


def run(workspace: Workspace, params: Params) -> None:
    """Write ``reports/drift``; it says so where there is no champion yet, or too little to compare."""
    pin = workspace.pin / "pin.json"
    champion = read_json(pin)["champion"] if pin.is_file() else None
    report = empty_report(champion and champion["version"], tasks.load(params).metrics[0])
    rows = None
    if champion:
        known = read_json(workspace.pin / "champion" / "staytuned.json").get("batches", [])  # older ones do not say
        reference, window, together, new = reference_and_window(workspace, known, params.drift)
        measure_sizes(report, reference, window)
        report["too_large"] = 0 if len(window) else new
        if report["enough"]:
            asker = Asker(workspace.pin / "champion", ("drift", "evaluate"), workspace.embeddings)
            rows = compare(workspace, params, asker, (reference, window, together), report)
    report["said"] = in_words(report, PAGE, NEXT)
    write_json(workspace.drift / "drift.json", report)
    write_pages(workspace.drift, report | {"said": in_words(report, ITSELF, NEXT)}, rows)


def empty_report(champion: int | None, metric: Metric) -> dict[str, Any]:
    """The report before anything was looked at."""
    return {
        "champion": champion,
        "enough": False,
        "alarm": False,
        "too_large": 0,  # new rows, where none is looked at since each group of them has more than a window
        "metric": metric._asdict(),
        "reference": {"rows": 0, "groups": 0, "metric": None, "accuracy": None},
        "window": dict.fromkeys(("metric", "change", "accuracy")) | {"rows": 0, "groups": 0, "asked": 0, "batches": []},
        "checks": {},
        "skipped": {},
        "estimated_accuracy": None,
    }


def measure_sizes(report: dict[str, Any], reference: pandas.DataFrame, window: pandas.DataFrame) -> None:
    """How much there is to compare, and whether it is enough, into the report."""
    for name, frame in (("reference", reference), ("window", window)):
        report[name] |= {"rows": len(frame), "groups": int(frame["group"].nunique())}
    report["window"]["batches"] = list(dict.fromkeys(window["batch"]))
    report["enough"] = all(report[name]["groups"] >= least for name, least in LEAST.items())


def compare(
    workspace: Workspace,
    params: Params,
    asker: Asker,
    frames: tuple[pandas.DataFrame, pandas.DataFrame, pandas.DataFrame],
    report: dict[str, Any],
) -> Compared:
    """Compare reference and window; fills in the report and returns the rows as looked at.

    Args:
        workspace: With the base model and the piece store.
        params: Of the workspace.
        asker: On whose behalf.
        frames: Reference and window, and all rows that are asked about together with theirs.
        report: To be filled in.
    """
    import torch
    from transformers.utils import logging

    from staytuned.scoring import kept_in

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(params.train.threads)
    reference, window, together = frames
    base = base_of(workspace, params)
    texts = texts_of(pandas.concat([reference, window], ignore_index=True))
    with kept_in(workspace.pieces, *asker.pieces) as pieces:
        return look(
            params,
            tasks.trained(asker.champion),
            reference,
            window,
            (unseen_groups(reference, asker.champion), unseen_groups(window, asker.champion)),
            embedded(texts, base, params.encode.max_tokens, asker.embeddings),
            lambda frame: said(asker.champion, frame, together, pieces),
            report,
        )


def look(
    params: Params,
    task: Task,
    reference: pandas.DataFrame,
    window: pandas.DataFrame,
    are_unseen: tuple[numpy.ndarray, numpy.ndarray],
    vectors: numpy.ndarray,
    say: Callable[[pandas.DataFrame], Said],
    report: dict[str, Any],
) -> Compared:
    """The same, whatever the champion is kept in.

    Args:
        params: Of the workspace.
        task: The champion's.
        reference: Rows that it knew.
        window: Rows that came since.
        are_unseen: Which rows of reference and window are of groups that it was not trained on: it knows the others.
        vectors: Embeddings of the rows of both.
        say: What the champion says of a frame.
        report: To be filled in.
    """
    frame = pandas.concat([reference, window], ignore_index=True)
    unseen, new = (
        rows.reset_index(drop=True)[mask] for rows, mask in zip((reference, window), are_unseen, strict=True)
    )
    of_reference, of_window = (
        say(rows) if rows["group"].nunique() >= LEAST[name] else None
        for name, rows in (("reference", unseen), ("window", new))
    )
    report["window"]["asked"] = len(new) if of_window else 0
    if of_window:
        measure(params, task, (unseen, of_reference) if of_reference else None, (new, of_window), report)
    rows = Compared(
        frame=frame,
        in_window=numpy.arange(len(frame)) >= len(reference),
        vectors=vectors,
        labelled=bool(task.classes) and bool(window["label"].notna().any()),
        answers=both(of_reference, of_window, unseen.index.append(new.index + len(reference))),
    )
    check(rows, params.drift, report)
    report["skipped"] = skipped(task, {"reference": unseen, "window": new}, rows)
    return rows


def unseen_groups(frame: pandas.DataFrame, champion: Path) -> numpy.ndarray:
    """Which rows are of groups that the champion was not trained or stopped on, with any row."""
    seen = pandas.Series(~unseen_by(frame, [champion]), frame.index)
    unseen: numpy.ndarray = ~seen.groupby(frame["group"]).transform("any").to_numpy()
    return unseen


def check(rows: Compared, options: Drift, report: dict[str, Any]) -> None:
    """All checks, and the alarm of all together, into the report.

    Groups that the champion has not predicted change places among themselves, so that all checks see the same windows.
    """
    groups = rows.groups
    sizes = numpy.bincount(groups)
    window = numpy.bincount(groups, rows.in_window) > 0
    apart = numpy.zeros(len(sizes), bool)
    if rows.answers:
        apart = numpy.bincount(groups[rows.answers.places], minlength=len(sizes)) == 0
    checks = checks_of(rows)
    found, report["alarm"] = judge(checks, partings(sizes, window, apart, options.draws, options.seed), options.level)
    for name, verdict in found.items():
        report["checks"][name] = {"title": checks[name].title, **vars(verdict)}


Asked = tuple[pandas.DataFrame, Said]


def measure(params: Params, task: Task, reference: Asked | None, window: Asked, report: dict[str, Any]) -> None:
    """The champion's first metric and accuracy, as far as there are labels; its accuracy as its confidence has it.

    How much more either is than on the reference is an interval, by draws of the groups of both.
    """
    options, level = params.drift, params.evaluate.confidence
    metric, draws, counts = task.metrics[0].name, list[numpy.ndarray](), list[int]()
    for place, (name, asked) in enumerate((("reference", reference), ("window", window))):
        if asked and asked[1].judged.any():
            rows, answer = asked
            groups = rows["group"][answer.judged].tolist()
            sums = resampled(answer.statistics, groups, draw(groups, options.draws, options.seed + place))
            report[name]["metric"] = float(task.measure(answer.statistics.sum(axis=0))[metric])
            draws.append(task.measure(sums)[metric])
            counts.append(len(set(groups)))
    if len(draws) == 2 and min(counts) >= LEAST["window"]:
        report["window"]["change"] = interval(draws[1] - draws[0], min(counts), level)
    rows, new = window
    if new.judged.any() and len(new.answers):
        report["window"]["accuracy"] = float(right_in(window).mean())
    if reference and len(new.answers):
        known, old = reference
        right = right_in(reference)
        value, between = estimated_accuracy(
            (old.confidence[old.judged], right, known["group"][old.judged].tolist()),
            (new.confidence, rows["group"].tolist()),
            options.draws,
            level,
            options.seed,
        )
        report["reference"]["accuracy"] = float(right.mean())
        report["estimated_accuracy"] = {"value": value, "change": between}


def right_in(asked: Asked) -> numpy.ndarray:
    """Which of the rows that can be judged were answered as they are labelled."""
    rows, answer = asked
    right: numpy.ndarray = (answer.answers == rows["label"].to_numpy())[answer.judged]
    return right


def skipped(task: Task, unseen: dict[str, pandas.DataFrame], rows: Compared) -> dict[str, str]:
    """The checks that were not made, and why."""
    found = {}
    if not rows.labelled:
        open_set = "a row of this task has no single label of a closed set"
        found["labels"] = "the new rows have no labels" if task.classes else open_set
    if not rows.answers:
        found_of = {name: here["group"].nunique() for name, here in unseen.items()}
        few = [
            f"of the {name} only {groups} groups were not trained on, of the {LEAST[name]} that it takes"
            for name, groups in found_of.items()
            if groups < LEAST[name]
        ]
        why = few[0] if few else "this task gives a row no single answer with a probability"
        found |= {"answers": why, "confidence": why}
    return found


def both(reference: Said | None, window: Said | None, places: pandas.Index) -> Answers | None:
    """The answers in both, if there are any; ``places`` of the rows among all that are compared."""
    if reference is None or window is None or not len(window.answers):
        return None
    names = numpy.concatenate([reference.answers, window.answers])
    return Answers(places.to_numpy(), names, numpy.concatenate([reference.confidence, window.confidence]))


def alarms(report: dict[str, Any]) -> list[str]:
    """The checks that gave an alarm, in words."""
    return [check["title"] for check in report["checks"].values() if check["alarm"]]


def in_words(report: dict[str, Any], page: str, cure: str) -> str:
    """What the report comes to, and what to do: look at ``page``, and ``cure``."""
    if report["champion"] is None:
        return "There was no champion when this was asked, so there was nothing that rows could drift away from."
    reference, window = report["reference"], report["window"]
    if report["too_large"]:
        return (
            f"Nothing was looked at: each group of the {report['too_large']} rows that came since version "
            f"{report['champion']} was trained has more rows than drift.window; raise that, or set "
            "ingest.columns.group to a column of smaller ones."
        )
    if not window["rows"]:
        return f"No row has come since version {report['champion']} was trained."
    if not report["enough"]:
        return (
            f"Not enough to say: {window['rows']} new rows in {window['groups']} groups, against {reference['rows']} "
            f"in {reference['groups']}; it takes {LEAST['window']} groups against {LEAST['reference']}."
        )
    if report["alarm"]:
        return (
            f"Drift: the {window['rows']} newest rows are not like those that version {report['champion']} was made "
            f"from: {', '.join(alarms(report))}. {page} shows which words and rows; {cure}."
        )
    return f"No drift: the {window['rows']} newest rows are like those that version {report['champion']} was made from."
