"""Zero-shot, few-shot and full fine-tuning side by side on the test rows: quality, labels, time, cost."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import numpy
import pandas
from transformers.utils import logging

from staytuned import tasks
from staytuned.compare_pages import show, write_picture
from staytuned.data.sides import TEST, TRAIN, VALIDATION, check_split, rows_of, unseen_by
from staytuned.errors import DataError, MissingError, ParamsError
from staytuned.files import read_json, write_json
from staytuned.modelling.device import make_deterministic
from staytuned.modelling.intervals import draw, interval, resampled
from staytuned.models import find_base
from staytuned.params import Params
from staytuned.predictor import Predictor, frame_of
from staytuned.prompting import Predict
from staytuned.prompting.contrastive import by_contrast
from staytuned.prompting.decoder import Decoder, Similar, by_prompt
from staytuned.prompting.descriptions import by_descriptions
from staytuned.prompting.embedder import Embedder
from staytuned.prompting.labelled import Labelled
from staytuned.registry.pin import serving
from staytuned.tasks import Task
from staytuned.workspace import Workspace

TASK = "text-classification"  # the one that labels can be prompted for
UNLABELLED = 200  # rows that calibrate, at most
T = TypeVar("T")


@dataclass(frozen=True)
class Method:
    """One way to label texts."""

    name: str
    labels: int  # rows whose label it needs
    make: Callable[[], Predict]
    is_timed: bool = True  # whether ``make`` is all the work that it takes


def compare(workspace: Workspace) -> dict[str, Any]:
    """Print the comparison, and write ``reports/comparison.json`` and ``.png``; returns what the file holds.

    Raises:
        ParamsError: the task is another than text classification, or a description is of no label.
        MissingError: there are no split rows yet, or the base model or the decoder is nowhere to be found.
        DataError: the champion was trained on every test row.
    """
    params = Params.read(workspace.params)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    task = _task(params)
    train, validation, test = (_rows(workspace, task, side) for side in (TRAIN, VALIDATION, TEST))
    make_deterministic(params.compare.seed, params.train.threads)
    unlabelled = validation["text"].sample(min(UNLABELLED, len(validation)), random_state=params.compare.seed).tolist()
    methods = list(_methods(workspace, params, task, train, unlabelled))
    champion, notes = _champion(workspace, task)
    seen = numpy.zeros(len(test), bool)
    if champion:
        methods.append(_full(champion))
        notes.append(
            "full fine-tuning: labels are those of its training rows, validation rows chose when to stop; how long it "
            "took is not recorded"
        )
        seen = _seen(test, champion)
    if params.compare.decoder is None:
        notes.append("compare.decoder is null: zero-shot and few-shot by prompt are left out")
    report = _judge(task, methods, test[~seen].reset_index(drop=True), params)
    report["kept_from_judging"] = int(seen.sum())
    report["notes"] = notes
    write_json(workspace.reports / "comparison.json", report)
    write_picture(workspace.reports / "comparison.png", report)
    show(report)
    return report


def _task(params: Params) -> Task:
    if params.task.name != TASK:
        raise ParamsError(f"task.name is {params.task.name!r}; `staytuned compare` knows {TASK!r} alone")
    task = tasks.load(params)
    strange = sorted(set(params.compare.descriptions) - set(task.classes))
    if strange:
        raise ParamsError(
            f"compare.descriptions: describes {', '.join(strange)}, which task.labels lacks; known: "
            f"{', '.join(task.classes)}"
        )
    return task


def _rows(workspace: Workspace, task: Task, side: str) -> pandas.DataFrame:
    """The rows of a side, as the last run left them."""
    check_split(workspace)
    frame = rows_of(workspace, side)
    strange = sorted(set(frame["label"]) - set(task.classes))
    if strange:
        raise MissingError(
            f"{workspace.accepted} holds {', '.join(strange)}, which task.labels lacks; `staytuned run` mends that"
        )
    return frame


def _methods(
    workspace: Workspace, params: Params, task: Task, train: pandas.DataFrame, unlabelled: list[str]
) -> Iterator[Method]:
    options, max_tokens = params.compare, params.encode.max_tokens
    folders = [workspace.root / folder for folder in params.model.folders]
    base = find_base(params.model.base, folders)
    embed = Embedder(base, max_tokens)
    rows = Labelled(
        train["text"].tolist(), pandas.Index(task.classes).get_indexer(pandas.Index(train["label"])), task.classes
    )
    sentences = [options.descriptions.get(label, f"This text is about {label}.") for label in task.classes]
    yield Method("zero-shot, embeddings", 0, lambda: by_descriptions(embed, sentences, unlabelled))
    if options.decoder:
        decoder = Decoder(_decoder(options.decoder, folders), options.template, task.classes, max_tokens)
        shown = rows.few(max(options.shots), options.seed)
        yield Method("zero-shot, prompt", 0, lambda: by_prompt(decoder, unlabelled))
        similar = partial(Similar, embed, shown, options.seed)
        yield Method("few-shot, prompt", len(shown.texts), lambda: by_prompt(decoder, unlabelled, similar()))

    def contrasted(few: Labelled) -> Predict:
        return by_contrast(Embedder(base, max_tokens), few, params.train.learning_rate, options.seed)

    for count in options.shots:
        few = rows.few(count, options.seed)
        yield Method(f"contrastive, {count} shots", len(few.texts), partial(contrasted, few))


def _decoder(name: str, folders: list[Path]) -> Path:
    folder = find_base(name, folders)
    made = read_json(folder / "config.json").get("architectures") or ["?"]
    if not made[0].endswith(("ForCausalLM", "LMHeadModel")):
        raise ParamsError(
            f"compare.decoder: {name!r} is a {made[0]}, not a decoder, such as HuggingFaceTB/SmolLM2-135M-Instruct; "
            "name one, or set it to null"
        )
    return folder


def _champion(workspace: Workspace, task: Task) -> tuple[Path | None, list[str]]:
    """The folder of the champion, if there is one for these labels; else why not."""
    found = serving(workspace)
    if found is None:
        return None, ["there is no champion yet: full fine-tuning is left out; `staytuned run` trains one"]
    _, folder = found
    about = read_json(folder / "staytuned.json")["task"]
    if (about["name"], about.get("labels")) != (TASK, task.classes):
        known = ", ".join([about["name"], *about.get("labels", [])])
        return None, [f"the champion is for another task or other labels ({known}): full fine-tuning is left out"]
    return folder, []


def _full(champion: Path) -> Method:
    predictor = Predictor(champion)
    about = read_json(champion / "staytuned.json")
    labels = about.get("learned", about["rows"])
    return Method("full fine-tuning", labels, lambda: lambda texts: predictor.predict(frame_of(texts)), is_timed=False)


def _seen(test: pandas.DataFrame, champion: Path) -> numpy.ndarray:
    """Which test rows the champion was trained on: with another salt, it may have been. No method is judged on them."""
    seen = ~unseen_by(test, [champion])
    if seen.all():
        raise DataError(
            f"the champion was trained on each of the {len(test)} test rows; ingest new rows, or set split.salt back "
            "to what it was"
        )
    return seen


def _judge(task: Task, methods: list[Method], test: pandas.DataFrame, params: Params) -> dict[str, Any]:
    """All methods on the same rows, with the same draws."""
    texts, groups = test["text"].tolist(), test["group"].tolist()
    count, confidence = len(set(groups)), params.evaluate.confidence
    drawn = draw(groups, params.evaluate.bootstrap, params.evaluate.seed)
    found = []
    for method in methods:
        predict, made_in = _timed(method.make)
        said, used = _timed(partial(predict, texts))
        statistics = task.statistics(test, said)
        metrics, draws = task.measure(statistics.sum(axis=0)), task.measure(resampled(statistics, groups, drawn))
        per_1000 = used / len(texts) * 1000
        found.append(
            {
                "method": method.name,
                "labels": method.labels,
                "metrics": {name: float(value) for name, value in metrics.items()},
                "intervals": {name: interval(values, count, confidence) for name, values in draws.items()},
                "seconds_to_make": made_in if method.is_timed else None,
                "seconds_per_1000": per_1000,
                "cost_per_1000": per_1000 / 3600 * params.compare.cost_per_hour,
            }
        )
    return {
        "methods": found,
        "metrics": [metric._asdict() for metric in task.metrics],
        "rows": len(test),
        "groups": count,
        "confidence": confidence,
        "threads": params.train.threads,
        "cost_per_hour": params.compare.cost_per_hour,
    }


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    """What the work gives, and the seconds that it takes."""
    start = perf_counter()
    return work(), perf_counter() - start
