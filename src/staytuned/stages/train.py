"""Train: fine-tune the base model on the training side; the validation side says when to stop."""

import dataclasses
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel
from transformers.utils import logging

from staytuned import tasks
from staytuned.classifier import PooledClassifier
from staytuned.data.sides import TRAIN, VALIDATION, row_hashes
from staytuned.errors import StorageError, disk_full, is_full
from staytuned.files import read_json, replacing, write_json, write_text
from staytuned.models import find_base, fingerprint
from staytuned.params import Params
from staytuned.progress import bar
from staytuned.training.loop import Point, fit, make_deterministic, steps_in
from staytuned.training.rows import Rows
from staytuned.workspace import Workspace


def run(workspace: Workspace, params: Params) -> None:
    """Write the candidate's folder and the learning curve, a line as soon as it is measured.

    Raises:
        MissingError: the base model, or a GPU that was asked for, is not there.
        TrainingError: the loss is not a finite number.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    make_deterministic(params.train.seed, params.train.threads)
    classes = len(params.task.labels)
    train = Rows(workspace.encoded / f"{TRAIN}.arrow", classes)
    task = tasks.load(params)
    validation = Rows(workspace.encoded / f"{VALIDATION}.arrow", classes)
    base = find_base(params.model.base, [workspace.root / folder for folder in params.model.folders])
    model = with_head(base, params)
    curve = workspace.curve
    write_text(curve, ",".join(field.name for field in dataclasses.fields(Point)) + "\n")

    with bar() as display:
        shown = display.add_task("training", total=steps_in(len(train), params.train))

        def seen(point: Point) -> None:
            with curve.open("a", encoding="utf-8") as handle:
                handle.write(",".join(f"{value:.6g}" for value in dataclasses.astuple(point)) + "\n")
            display.update(shown, description=f"training, validation macro-F1 {point.validation_macro_f1:.3f}")

        weights, best = fit(
            model,
            train,
            validation,
            params.train,
            task.metrics,
            seen,
            lambda: display.advance(shown),
        )
    _save(workspace.candidate, model, weights, base)
    (workspace.candidate / "trained_on.u64").write_bytes(row_hashes([*train.names, *validation.names]).tobytes())
    write_json(
        workspace.candidate / "staytuned.json",
        {
            "task": params.task.name,
            "labels": params.task.labels,
            "max_tokens": params.encode.max_tokens,
            "base": {"name": params.model.base, "sha256": fingerprint(base)},
            "encoding": read_json(workspace.reports / "encoding.json")["base"]["sha256"],
            "train": params.section("train"),
            "rows": len(train),
            "best": dataclasses.asdict(best),
        },
    )


def with_head(base: Path, params: Params) -> PooledClassifier:
    """The base model with a fresh linear head, and the dropout of the params wherever it has dropout."""
    config = AutoConfig.from_pretrained(base, local_files_only=True)
    for name in list(config.to_dict()):
        if name.endswith(("dropout", "dropout_prob")):
            setattr(config, name, params.train.dropout)
    encoder = AutoModel.from_pretrained(
        base, config=config, local_files_only=True, use_safetensors=True, dtype=torch.float32
    )
    return PooledClassifier(encoder, len(params.task.labels), params.train.dropout)


def _save(folder: Path, model: PooledClassifier, weights: dict[str, torch.Tensor], base: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model.encoder.config.save_pretrained(folder)  # type: ignore[union-attr, operator]
    with replacing(folder / "model.safetensors") as temporary:
        try:
            save_file(weights, temporary, metadata={"format": "pt"})
        except SafetensorError as error:  # it wraps the system's own
            raise disk_full(folder) if is_full(error) else StorageError(f"{folder}: {error}") from error
        temporary.chmod(0o644)  # it is born readable by its owner alone
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
