"""Ten epochs of a head on a frozen encoder, over one pass of the encoder; and again, when all texts are kept.

usage: python benchmarks/top_only.py [--data DATA] [--rows ROWS] [--rounds ROUNDS]

The texts are the example's product reviews, or the titles of papers in DATA/arxiv/titles.csv.gz. One pass is what the
encoder takes to read each text of both sides once, texts of like length together, without a gradient: the quickest way
that there is here. A training is all that comes of `train.frozen: encoder`: the pass, ten epochs in steps of 32 rows,
an evaluation after each. The sides are timed in turn. At the end it looks whether a text's states have the same bits
whatever is read beside it.
"""

import argparse
import gzip
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas
import torch
from measure import in_turn, meets, ratios, spread
from tiny import set_params
from transformers.utils import logging

from staytuned import tasks
from staytuned.data import batches, example
from staytuned.data.readers import Reader
from staytuned.data.sides import TRAIN, VALIDATION, rows_of
from staytuned.modelling.device import make_deterministic
from staytuned.modelling.examples import Examples
from staytuned.modelling.heads import backbone
from staytuned.models import find_base
from staytuned.params import Params
from staytuned.stages import encode, split, validate
from staytuned.start import init, make
from staytuned.tasks import Side
from staytuned.training.loop import fit
from staytuned.training.top_only import _ask, _texts, top_only
from staytuned.workspace import Workspace

BOUND = 1.15
EPOCHS = 10


def main(data: Path | None, rows: int, rounds: int) -> bool:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        workspace = encoded(Path(scratch), data, rows)
        bench = Bench(workspace)
        one_pass, first, again = in_turn(
            rounds, bench.one_pass, lambda: bench.training(kept=False), lambda: bench.training(kept=True)
        )
        print(f"{len(bench.train)} texts to learn from; seconds of one pass: {spread(one_pass)}")
        met = meets(f"{EPOCHS} epochs of a head over one pass of the encoder", ratios(first, one_pass), BOUND)
        print(f"the same with all texts kept, over one pass: {spread(ratios(again, one_pass))}")
        return bench.is_steady() and met


def encoded(folder: Path, data: Path | None, rows: int, **changes: Any) -> Workspace:
    """A workspace with encoded rows, under the params of this benchmark and others."""
    workspace = init(folder / "workspace") if data else make(folder / "workspace")
    path = example.fetch("product", folder)
    if data:
        with gzip.open(data / "arxiv/titles.csv.gz") as handle:
            frame = pandas.read_csv(handle, dtype=str).rename(columns={"title": "text"})[["text", "label"]]
        path, labels = folder / "titles.csv", sorted(frame["label"].dropna().unique())
        frame.sample(rows, random_state=7).to_csv(path, index=False)
        columns = {"label": "label", "id": None, "source": None, "group": None, "keep": []}
        set_params(workspace, task__labels=labels, task__label_from_rating=None)
        set_params(workspace, **{f"ingest__columns__{name}": value for name, value in columns.items()})
    options = {"train__frozen": "encoder", "train__epochs": EPOCHS, "train__patience": EPOCHS, "train__sharpness": 0.0}
    set_params(workspace, **options | changes)
    params = Params.read(workspace.params)
    workspace.var.mkdir(exist_ok=True)
    batches.add(workspace, Reader(path, params.ingest.columns, params.ingest.encodings))
    for stage in (validate, split, encode):
        stage.run(workspace, params)
    return workspace


class Bench:
    """Both sides, on the same rows."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.params = workspace, Params.read(workspace.params)
        self.task, self.base = tasks.load(self.params), find_base(self.params.model.base, [])
        sides = {side: Examples.read(workspace.encoded / f"{side}.arrow") for side in (TRAIN, VALIDATION)}
        self.train, self.validation = sides[TRAIN], Side(rows_of(workspace, VALIDATION), sides[VALIDATION])

    def model(self) -> torch.nn.Module:
        """The base model under a new head."""
        make_deterministic(self.params.train.seed, self.params.train.threads)
        dropout = self.params.train.dropout
        return self.task.model(backbone(self.task.kind, self.base, dropout, pretrained=True), dropout)

    def one_pass(self) -> float:
        """Seconds that the encoder, and the head, take to read all texts once."""
        model = self.model().eval()
        start = time.perf_counter()
        for examples in (self.train, self.validation.examples):
            self.task.outputs_of(model, examples)
        return time.perf_counter() - start

    def training(self, kept: bool) -> float:
        """Seconds of a training of the head, with all texts kept or none."""
        if not kept:
            shutil.rmtree(self.workspace.states, ignore_errors=True)
        model, examples = self.model(), [self.train, self.validation.examples]
        start = time.perf_counter()
        learner = top_only(self.task, model, examples, self.workspace.states, torch.device("cpu"))
        fit(self.task, learner, self.train, self.validation, self.params.train, lambda point: None, lambda: None)
        return time.perf_counter() - start

    def is_steady(self) -> bool:
        """Whether the states of some texts are the same in another order, among fewer others."""
        batch = self.task.batch(self.validation.examples, list(range(min(100, len(self.validation.examples)))), None)
        model, texts = self.model(), list(_texts(batch.inputs))
        said = list(_ask(model, torch.device("cpu"), texts))
        order = random.Random(7).sample(range(len(texts)), len(texts) // 2)
        again = _ask(model, torch.device("cpu"), [texts[place] for place in order])
        same = all((one == said[place]).all() for place, one in zip(order, again, strict=True))
        print(f"the states of a text have the same bits whatever is read beside it: {'yes' if same else 'NO'}")
        return same


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rows", type=int, default=3000, help="titles")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    sys.exit(not main(given.data, given.rows, given.rounds))
