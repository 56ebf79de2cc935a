"""Train: fine-tune the base model on the training side; the validation side says when to stop."""

import dataclasses
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy
import pandas
import torch
from pyarrow.parquet import read_table
from safetensors.torch import load_file
from transformers.utils import logging

from staytuned import tasks
from staytuned.data.sides import TRAIN, TRAINED_ON, VALIDATION, row_hashes, rows_of
from staytuned.files import read_json, write_json, write_text
from staytuned.modelling.device import make_deterministic, name_of, pick_device
from staytuned.modelling.examples import Examples
from staytuned.modelling.heads import backbone
from staytuned.models import base_of, fingerprint
from staytuned.params import Params
from staytuned.progress import bar
from staytuned.tasks import Side, Task
from staytuned.training import ranks
from staytuned.training.checkpoint import Checkpoints, write_tensors
from staytuned.training.continual import (
    champion_to_start_from,
    check_continues,
    continued,
    mean_with,
    new_to,
    with_replay,
)
from staytuned.training.cost import tokens_of
from staytuned.training.loop import fit, steps_in
from staytuned.training.origin import origin_of
from staytuned.training.state import Point
from staytuned.training.top_only import top_only
from staytuned.workspace import Workspace

Shown = tuple[Callable[[Point], None], Callable[[], None], Callable[[int, list[float]], None]]


def run(workspace: Workspace, params: Params) -> None:
    """Write the candidate's folder, and the learning curve and the loss of each step as soon as they are measured.

    A training that was cut off goes on from its last checkpoint.

    Raises:
        DataError: training is to go on from the champion, and no row is new to it; a checkpoint is of another training.
        MissingError: the base model, or a GPU that was asked for, is not there.
        ParamsError: training cannot go on from the champion.
        TrainingError: the loss is not a finite number, or the memory does not suffice.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with ranks.together(params.train.processes, workspace.root, pick_device(params.train.device)):
        _train(workspace, params)


def _train(workspace: Workspace, params: Params) -> None:
    make_deterministic(params.train.seed, params.train.threads)
    task = tasks.load(params)
    train = Examples.read(workspace.encoded / f"{TRAIN}.arrow")
    validation = Side(rows_of(workspace, VALIDATION), Examples.read(workspace.encoded / f"{VALIDATION}.arrow"))
    base = base_of(workspace, params)
    options, before = params.train, champion_to_start_from(workspace)
    fingerprinted = fingerprint(base)
    model = task.model(backbone(task.kind, base, options.dropout, pretrained=True), options.dropout)
    if before:
        check_continues(before, params, task, fingerprinted)
        model.load_state_dict(load_file(before / "model.safetensors"))
        train = with_replay(train, before, options.replay, options.seed)
        options = continued(options)
    if options.lora:
        from staytuned.modelling.lora import with_lora

        model = with_lora(model, options.lora.rank, options.lora.alpha, options.dropout)
    learner = model
    if options.frozen:
        learner = top_only(task, model, [train, validation.examples], workspace.states, pick_device(options.device))
    ranks.part_random_numbers(options.seed)
    checkpoints = Checkpoints(
        workspace.checkpoints, origin_of(workspace, params, fingerprinted, before), options.checkpoints
    )
    with closing(checkpoints), _shown(workspace, steps_in(len(train), options), task) as (seen, step_done, losses_seen):
        weights, best = fit(task, learner, train, validation, options, seen, step_done, checkpoints, losses_seen)
    if not ranks.is_first():
        return
    if options.frozen:
        weights = model.state_dict() | weights
    if before:
        weights = mean_with(load_file(before / "model.safetensors"), weights, options.champion_share)
    _save(workspace.candidate, model, weights, base)
    own = rows_of(workspace, TRAIN)
    learned = row_hashes(pandas.concat([own[own["row"].isin(set(train.names))], validation.frame]))
    rows_learned = len(train.by_row)
    if before:
        about = read_json(before / "staytuned.json")  # an older one does not say it without its replay
        rows_learned = about.get("learned", about["rows"]) + int(new_to(before, train).sum())
        learned = numpy.union1d(learned, numpy.fromfile(before / TRAINED_ON, dtype="<u8"))
    (workspace.candidate / TRAINED_ON).write_bytes(learned.tobytes())
    write_json(
        workspace.candidate / "staytuned.json",
        {
            "class": f"{type(task).__module__}:{type(task).__qualname__}",
            "task": params.section("task"),
            "max_tokens": params.encode.max_tokens,
            "base": {"name": params.model.base, "sha256": fingerprinted},
            "encoding": read_json(workspace.reports / "encoding.json")["base"]["sha256"],
            "train": params.section("train"),
            "rows": len(train.by_row),
            "learned": rows_learned,
            "tokens": tokens_of(train, options),
            "device": name_of(pick_device(options.device)),
            "start": read_json(before / "start.json") if before else None,
            "batches": sorted(read_table(workspace.accepted, columns=["batch"])["batch"].unique().to_pylist()),
            "best": dataclasses.asdict(best),
        },
    )
    checkpoints.remove()


@contextmanager
def _shown(workspace: Workspace, steps: int, task: Task) -> Iterator[Shown]:
    """What is called with each point, after each step and with losses, in the process that writes: files and a bar."""
    if not ranks.is_first():
        yield lambda point: None, lambda: None, lambda first, losses: None
        return
    write_text(workspace.step_losses, "step,step_loss\n")
    header = ",".join(field.name for field in dataclasses.fields(Point))
    write_text(workspace.curve, f"{header}\n")  # last: it is watched
    title = task.validation_metric.title
    with bar() as display:
        shown = display.add_task("training", total=steps)

        def seen(point: Point) -> None:
            _add_lines(workspace.curve, [dataclasses.astuple(point)])
            display.update(shown, description=f"training, validation {title} {point.validation_score:.3f}")

        def losses_seen(first: int, losses: list[float]) -> None:
            _add_lines(workspace.step_losses, enumerate(losses, first))

        yield seen, lambda: display.advance(shown), losses_seen


def _add_lines(table: Path, rows: Iterable[tuple[float, ...]]) -> None:
    with table.open("a", encoding="utf-8") as handle:
        handle.writelines(",".join(f"{value:.6g}" for value in row) + "\n" for row in rows)


def _save(folder: Path, model: Any, weights: dict[str, torch.Tensor], base: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model.encoder.config.save_pretrained(folder)
    write_tensors(folder / "model.safetensors", weights, {"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
