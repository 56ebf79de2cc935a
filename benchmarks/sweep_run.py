"""A run of ``sweep.py``: how long one side takes to a score. What it came to goes into a file.

usage: python benchmarks/sweep_run.py JSON

JSON lists the workspace with the encoded rows, the side, its setting, a seed, the score to reach, the seconds after
which it is given up, and the file.
"""

import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy
import torch
from training import WithLoss, as_it_comes
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging

from staytuned import tasks
from staytuned.data.sides import TRAIN, VALIDATION, rows_of
from staytuned.files import write_json
from staytuned.modelling.device import make_deterministic
from staytuned.modelling.examples import Examples
from staytuned.modelling.heads import backbone
from staytuned.models import find_base
from staytuned.params import Params
from staytuned.tasks import Side
from staytuned.training import loop
from staytuned.training.loop import validate
from staytuned.training.state import Point
from staytuned.workspace import Workspace

Setting = dict[str, Any]
EVERY = 320  # rows between two scores
CPU = torch.device("cpu")


class Reached(Exception):
    """The score, or the end of patience."""


class Clock:
    """Seconds of training, without those in which it is scored."""

    def __init__(self, target: float, limit: float) -> None:
        self.target, self.limit = target, limit
        self.seconds, self.best, self.mark = 0.0, 0.0, time.perf_counter()

    def lap(self) -> None:
        """Count what has passed since the last lap or score."""
        now = time.perf_counter()
        self.seconds, self.mark = self.seconds + now - self.mark, now

    def score(self, *about: Any) -> tuple[float, float]:
        """Loss and score of a model, whose seconds do not count."""
        self.lap()
        loss, score = validate(*about)
        self.best, self.mark = max(self.best, score), time.perf_counter()
        return loss, score

    def check(self, score: float) -> None:
        """End the run if that is enough."""
        self.lap()
        if score >= self.target or self.seconds >= self.limit:
            raise Reached


class Rows:
    """What all runs learn from and are scored on.

    Args:
        space: A workspace in which the titles are encoded.
    """

    def __init__(self, space: Workspace) -> None:
        self.params = Params.read(space.params)
        self.task, self.base = tasks.load(self.params), find_base(self.params.model.base, [])
        sides = {side: Examples.read(space.encoded / f"{side}.arrow") for side in (TRAIN, VALIDATION)}
        self.task.look_at(sides[TRAIN])  # both sides learn by the same loss
        self.train, self.validation = sides[TRAIN], Side(rows_of(space, VALIDATION), sides[VALIDATION])

    def _model(self, threads: int, seed: int) -> torch.nn.Module:
        make_deterministic(seed, threads)
        return self.task.model(backbone(self.task.kind, self.base, 0.1, pretrained=True), 0.1)

    def learn_by_staytuned(self, setting: Setting, seed: int, clock: Clock) -> None:
        """By staytuned's training loop."""
        changes = {
            "seed": seed,
            "threads": setting["threads"],
            "batch_size": setting["batch"],
            "learning_rate": setting["rate"],
            "head_learning_rate": 10 * setting["rate"],
            "epochs": setting["epochs"],
            "sharpness": 0.05 if setting["optimiser"] == "sharpness-aware" else 0.0,
            "evaluations_per_epoch": math.ceil(len(self.train) / EVERY),
            "patience": 1000,
        }

        def seen(point: Point) -> None:
            clock.check(point.validation_score)

        model = self._model(setting["threads"], seed)
        options = self.params.train.model_copy(update=changes)
        clock.mark = time.perf_counter()
        with patch.object(loop, "validate", clock.score):
            loop.fit(self.task, model, self.train, self.validation, options, seen, lambda: None)

    def learn_by_trainer(self, setting: Setting, seed: int, clock: Clock) -> None:
        """By transformers' Trainer."""
        model = WithLoss(self.task, as_it_comes(self._model(setting["threads"], seed)))
        torch.use_deterministic_algorithms(False)  # its default
        ids = self.train.lists("input_ids", range(len(self.train)))

        def collated(items: list[dict[str, Any]]) -> dict[str, Any]:
            batch = self.task.batch(self.train, [item["place"] for item in items], numpy.random.default_rng(0))
            return batch.inputs | {"targets": batch.targets}

        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder,
                seed=seed,
                num_train_epochs=setting["epochs"],
                per_device_train_batch_size=setting["batch"],
                learning_rate=setting["rate"],
                optim=setting["optimiser"],
                train_sampling_strategy=setting["sampling"],
                torch_compile=setting["compile"],
                remove_unused_columns=False,
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                use_cpu=True,
            )
            scoring = Scoring(self, model, setting["batch"], clock)
            dataset = [{"input_ids": row, "place": place} for place, row in enumerate(ids)]
            Trainer(model, arguments, train_dataset=dataset, data_collator=collated, callbacks=[scoring]).train()


class Scoring(TrainerCallback):
    """Scores Trainer's model every ``EVERY`` rows, and at the end."""

    def __init__(self, rows: Rows, model: WithLoss, batch: int, clock: Clock) -> None:
        self.rows, self.model, self.clock = rows, model, clock
        self.steps = max(1, EVERY // batch)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self.clock.mark = time.perf_counter()

    def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        """Score, and end the run if that is enough."""
        if state.global_step % self.steps and state.global_step < state.max_steps:
            return
        _, score = self.clock.score(self.rows.task, self.model.model, self.rows.validation, CPU)
        self.clock.check(score)


def main(space: str, side: str, setting: Setting, seed: int, target: float, limit: float, done: str) -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows, clock = Rows(Workspace(Path(space))), Clock(target, limit)
    failed = None  # why it cannot be compiled here
    try:
        (rows.learn_by_trainer if side == "trainer" else rows.learn_by_staytuned)(setting, seed, clock)
    except Reached:
        pass
    except Exception as error:
        if not setting.get("compile"):
            raise
        failed = f"{type(error).__name__}: {str(error)[:200]}"
    reached = failed is None and clock.best >= target
    write_json(Path(done), {"seconds": clock.seconds, "best": clock.best, "reached": reached, "failed": failed})


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
