"""All work but training after 1 % more rows, over the same from scratch: each less the start of the program.

usage: python benchmarks/one_percent.py [ROWS] [BATCHES]

The rows are random words of the example's texts, as long as its texts are, so that they are not near-duplicates of each
other; the base model is the example's own. Each stage runs as DVC runs it. Four times are taken of it:

- start: on 700 rows, when 10 more have come: imports, models, pictures, the checks of behaviour, which change 100 test
  rows; of drift, which looks at a number of rows that its params give, on the same rows again;
- scratch: on ROWS rows, without a piece; the champion knew all batches but the last;
- after: when 1 % more rows have come, a new candidate was trained on them and the one before it is champion;
- same models: when 1 % more have come again, and no model is new.

The ratio is (after - start) / (scratch - start), of processor seconds, which a busy machine changes little, with one
thread. A new candidate has to be asked about all rows that judge, whatever was kept; that is the difference between the
two totals.
"""

import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas
import torch
from encode import example_texts
from measure import BIN, wall
from safetensors.torch import load_file, save_file
from tiny import set_params

from staytuned.data import batches
from staytuned.data.readers import Reader
from staytuned.data.sides import TRAIN, TRAINED_ON, VALIDATION, row_hashes, rows_of
from staytuned.files import read_json, write_json
from staytuned.params import Params
from staytuned.start import init
from staytuned.workspace import Workspace

BOUND = 0.05
FEW, NEW = 700, 10
BEFORE, AFTER = ("validate", "split", "encode"), ("drift", "evaluate")  # a training
STAGES = BEFORE + AFTER
Seconds = dict[str, float]


def main(rows: int, count: int) -> bool:
    """Whether the bound is met, where a candidate is new and where no model is."""
    with tempfile.TemporaryDirectory() as scratch:
        texts = random_texts(Path(scratch))
        few, many = (make_workspace(Path(scratch) / name) for name in ("few", "many"))
        arrive(few, texts, FEW)
        timed(few, (*BEFORE, "train"))
        trained = shutil.copytree(few.candidate, few.var / "trained")
        train_as(few, trained, 0)
        timed(few, ["evaluate"])
        arrive(few, texts, NEW)
        start = timed(few, (*BEFORE, "evaluate"))
        for _ in range(count):
            arrive(many, texts, rows // count)
        found = {"start": start, "scratch": road(many, trained, 0)}
        start |= timed(many, ["drift"])
        arrive(many, texts, rows // 100)
        found["after"] = road(many, trained, 1)
        arrive(many, texts, rows // 100)
        found["same models"] = timed(many, STAGES)
    print(f"{rows:,} rows in {count} batches, then 1 % more; processor seconds")
    report(found)
    return all(ratio(found, name, STAGES) <= BOUND for name in ("after", "same models"))


def random_texts(folder: Path) -> "Texts":
    """Of the example's words."""
    return Texts([text.split() for text in example_texts(folder)])


class Texts:
    """Texts without end."""

    def __init__(self, texts: list[list[str]]) -> None:
        self._words = [word for text in texts for word in text]
        self._lengths = [len(text) for text in texts if text]
        self._random = random.Random(7)

    def __next__(self) -> str:
        return " ".join(self._random.choices(self._words, k=self._random.choice(self._lengths)))


def make_workspace(folder: Path) -> Workspace:
    """On the example's base model."""
    workspace = init(folder)
    set_params(
        workspace,
        task__label_from_rating=None,
        ingest__columns__label="label",
        ingest__columns__id="id",
        ingest__columns__group=None,
        ingest__columns__keep=[],
        train__epochs=1,
        train__threads=1,
    )
    workspace.var.mkdir(exist_ok=True)
    return workspace


def arrive(workspace: Workspace, texts: Texts, rows: int) -> None:
    """One more batch."""
    params, known = Params.read(workspace.params), len(batches.manifest(workspace))
    names = f"{workspace.root.name}-{known}"
    labels = random.Random(known).choices(params.task.labels, k=rows)
    lines = [
        json.dumps({"id": f"{names}-{number}", "text": next(texts), "label": label, "source": "shop"})
        for number, label in enumerate(labels)
    ]
    file = workspace.var / "rows.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    batches.add(workspace, Reader(file, params.ingest.columns, params.ingest.encodings))


def road(workspace: Workspace, trained: Path, number: int) -> Seconds:
    """All stages, and between them new models."""
    found = timed(workspace, BEFORE)
    train_as(workspace, trained, number)
    return found | timed(workspace, AFTER)


def train_as(workspace: Workspace, trained: Path, number: int) -> None:
    """A champion, which is the candidate before but for the first time, and a new candidate: both as real ones are."""
    champion, known = workspace.pin / "champion", [batch.batch[:16] for batch in batches.manifest(workspace)]
    shutil.rmtree(champion, ignore_errors=True)
    if number:
        shutil.copytree(workspace.candidate, champion)
    else:
        learn(workspace, model_like(trained, champion, 0), known[:-1] or known)
    write_json(workspace.pin / "pin.json", {"champion": {"version": 1, "weights": "its hash"}, "best": None})
    learn(workspace, model_like(trained, workspace.candidate, number + 1), known)
    workspace.curve.parent.mkdir(exist_ok=True)
    workspace.curve.write_text("step,train_loss,validation_loss,validation_score\n1,1,1,1\n")


def learn(workspace: Workspace, model: Path, known: list[str]) -> None:
    """Write down that it learned from these batches."""
    write_json(model / "staytuned.json", read_json(model / "staytuned.json") | {"batches": known})
    rows = pandas.concat([rows_of(workspace, side) for side in (TRAIN, VALIDATION)])
    row_hashes(rows[rows["batch"].isin(known)]).tofile(model / TRAINED_ON)


def model_like(trained: Path, folder: Path, number: int) -> Path:
    """A copy of a model with other weights."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(trained, folder)
    weights = load_file(folder / "model.safetensors")
    weights["head.bias"] = torch.full_like(weights["head.bias"], number / 100)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def timed(workspace: Workspace, stages: Sequence[str]) -> Seconds:
    """Processor seconds of each stage, run as dvc.yaml has it."""
    found = {stage: processor(stage, workspace) for stage in stages}
    print(workspace.root.name, {stage: round(seconds, 2) for stage, seconds in found.items()}, flush=True)
    return found


def processor(stage: str, workspace: Workspace) -> float:
    """Processor seconds that a stage takes."""
    before = os.times()
    wall([str(BIN / "python"), "-m", "staytuned.stages", stage], workspace.root)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def ratio(found: dict[str, Seconds], name: str, stages: Sequence[str]) -> float:
    """Of the sums over stages, less their starts."""
    sums = {column: sum(seconds[stage] for stage in stages) for column, seconds in found.items()}
    return (sums[name] - sums["start"]) / (sums["scratch"] - sums["start"])


def report(found: dict[str, Seconds]) -> None:
    """A line for each stage, and for all together."""
    print("| |", " | ".join(found), "| ratio, new candidate | ratio, same models |")
    rows = {stage: [stage] for stage in STAGES}
    rows |= {"up to drift": list(STAGES[:-1]), "all": list(STAGES)}
    for name, stages in rows.items():
        sums = " | ".join(f"{sum(seconds[stage] for stage in stages):.2f}" for seconds in found.values())
        print(f"| {name} | {sums} | {ratio(found, 'after', stages):.3f} | {ratio(found, 'same models', stages):.3f} |")


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    sys.exit(not main(*(given + [20_000, 20][len(given) :])))
