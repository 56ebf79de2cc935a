"""Seconds of training to the same validation score, each side at its best: staytuned and transformers' Trainer.

usage: python benchmarks/sweep.py DATA [FOLDER] [--rows ROWS] [--seeds SEEDS]

DATA/arxiv/titles.csv.gz holds titles of papers. FOLDER keeps what is done, run by run, so that it can be resumed.

Trainer with its defaults goes first: the score that all have to reach is 0.97 of the best that it comes to. Then, for
each side, one setting after the other is varied and the quickest value kept: sampling, batch, learning rate, epochs of
the schedule, optimiser, threads, compile. staytuned has a sampling of its own, is never compiled, and its other
optimiser is AdamW with sharpness-aware steps. A run ends as it reaches the score, or has taken 1.2 times as long as the
quickest of its side. At last both, and Trainer with its defaults, learn with each seed in turn.

Scores are taken every 320 rows, by the same code for both sides, while the clock stands still.
"""

import argparse
import itertools
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy
import torch
from measure import ratios, spread
from top_only import encoded
from training import WithLoss, as_it_comes, said
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging

from staytuned import tasks
from staytuned.data.sides import TRAIN, VALIDATION, rows_of
from staytuned.files import read_json, write_json
from staytuned.modelling.device import make_deterministic
from staytuned.modelling.examples import Examples
from staytuned.modelling.heads import backbone
from staytuned.models import find_base
from staytuned.params import Params
from staytuned.tasks import Side
from staytuned.training import loop
from staytuned.training.loop import validate
from staytuned.training.state import Point

Setting = dict[str, Any]
EVERY = 320  # rows between two scores
SHARE = 0.97  # of the best score of Trainer's defaults
PATIENCE = 1.2  # times the seconds of the quickest run of a side
CPU = torch.device("cpu")

DEFAULTS = {  # of TrainingArguments
    "sampling": "random",
    "batch": 8,
    "rate": 5e-5,
    "epochs": 3,
    "optimiser": "adamw_torch_fused",
    "threads": 2,
    "compile": False,
}
START = {"sampling": "group_by_length", "batch": 32, "rate": 1e-4, "epochs": 2}  # where each search begins
GRIDS = {
    "trainer": {
        "sampling": ["group_by_length", "random"],
        "batch": [16, 32, 64],
        "rate": [1e-4, 2e-4, 4e-4],
        "epochs": [1, 2, 3],
        "optimiser": ["adamw_torch_fused", "adamw_torch", "adafactor"],
        "threads": [1, 2],
        "compile": [False, True],
    },
    "staytuned": {
        "batch": [16, 32, 64],
        "rate": [1e-4, 2e-4, 4e-4],
        "epochs": [1, 2, 3],
        "optimiser": ["adamw", "sharpness-aware"],
        "threads": [1, 2],
    },
}


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


class Sweep:
    """All runs on the same rows.

    Args:
        data: Folder of the titles.
        folder: That keeps what is done.
        rows: Of titles.
    """

    def __init__(self, data: Path, folder: Path, rows: int) -> None:
        self.folder = folder
        with tempfile.TemporaryDirectory() as scratch:
            space = encoded(Path(scratch), data, rows, split__validation=0.2, train__frozen=None)
            self.params = Params.read(space.params)
            self.task, self.base = tasks.load(self.params), find_base(self.params.model.base, [])
            sides = {side: Examples.read(space.encoded / f"{side}.arrow") for side in (TRAIN, VALIDATION)}
            self.train, self.validation = sides[TRAIN], Side(rows_of(space, VALIDATION), sides[VALIDATION])
        self.target = math.inf

    def best(self, side: str) -> Setting:
        """The quickest setting of a side, found one value after the other."""
        grid, setting = GRIDS[side], DEFAULTS | START
        setting = {name: setting[name] if setting[name] in values else values[0] for name, values in grid.items()}
        first = self.run(side, setting, 0)
        quickest = first["seconds"] if first["reached"] else math.inf
        for name, values in grid.items():
            for value in values:
                found = self.run(side, setting | {name: value}, 0, limit=PATIENCE * quickest)
                if found["reached"] and found["seconds"] < quickest:
                    quickest, setting = found["seconds"], setting | {name: value}
        return setting

    def run(self, side: str, setting: Setting, seed: int, limit: float = math.inf) -> dict[str, Any]:
        """How long a run took, and whether it reached the score; kept in the folder."""
        done = self.folder / f"{side} {' '.join(map(str, setting.values()))} {seed}.json"
        if not done.exists():
            clock = Clock(self.target, limit)
            failed = None  # why it cannot be compiled here
            try:
                {"trainer": self._trainer, "staytuned": self._staytuned}[side](setting, seed, clock)
            except Reached:
                pass
            except Exception as error:
                if not setting.get("compile"):
                    raise
                failed = f"{type(error).__name__}: {str(error)[:200]}"
            reached = failed is None and clock.best >= self.target
            found = {"seconds": clock.seconds, "best": clock.best, "reached": reached, "failed": failed}
            write_json(done, found)
            print(f"{done.stem}: {found}", flush=True)
        return read_json(done)

    def _model(self, threads: int, seed: int) -> torch.nn.Module:
        make_deterministic(seed, threads)
        return self.task.model(backbone(self.task.kind, self.base, 0.1, pretrained=True), 0.1)

    def _staytuned(self, setting: Setting, seed: int, clock: Clock) -> None:
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

    def _trainer(self, setting: Setting, seed: int, clock: Clock) -> None:
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

    def __init__(self, sweep: Sweep, model: WithLoss, batch: int, clock: Clock) -> None:
        self.sweep, self.model, self.clock = sweep, model, clock
        self.steps = max(1, EVERY // batch)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self.clock.mark = time.perf_counter()

    def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        """Score, and end the run if that is enough."""
        if state.global_step % self.steps and state.global_step < state.max_steps:
            return
        _, score = self.clock.score(self.sweep.task, self.model.model, self.sweep.validation, CPU)
        self.clock.check(score)


def main(data: Path, folder: Path, rows: int, seeds: int) -> bool:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    sweep = Sweep(data, folder, rows)
    sweep.target = SHARE * sweep.run("trainer", DEFAULTS, 0)["best"]
    print(f"{len(sweep.train)} titles; the score to reach is {sweep.target:.3f}")
    sides = {side: (side, sweep.best(side)) for side in GRIDS} | {"defaults": ("trainer", DEFAULTS)}
    for name, (_, setting) in sides.items():
        print(f"{name}: {setting}")
    found: dict[str, list[float]] = {name: [] for name in sides}
    missed = set[str]()
    for seed, (name, (side, setting)) in itertools.product(range(1, seeds + 1), sides.items()):
        run = sweep.run(side, setting, seed)
        found[name].append(run["seconds"])
        if not run["reached"]:
            missed.add(name)
            print(f"{name}, seed {seed}: the score was not reached; {run['seconds']:.0f} s is the least it would take")
    met = "staytuned" not in missed
    for name, bound in (("trainer", 1.5), ("defaults", 3.0)):
        ratio = ratios(found[name], found["staytuned"])
        is_met = sorted(ratio)[len(ratio) // 2] >= bound
        met &= is_met
        print(f"seconds of {name} over staytuned at its best: {spread(ratio)}, at least {bound}: {said(is_met)}")
    return met


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--rows", type=int, default=2500, help="titles; a fifth of them score")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    sys.exit(not main(given.data, given.folder or Path(tempfile.mkdtemp()), given.rows, given.seeds))
