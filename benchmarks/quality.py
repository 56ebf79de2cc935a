"""Quality of the example's model: over 5 split salts, against a plain loop and against frozen embeddings.

usage: python benchmarks/quality.py [FOLDER]     FOLDER keeps what is done, model by model, so that it can be resumed

Bounds: accuracy and macro-F1 no worse than those of a plain loop on the same splits (mean difference at least 0, its
95 % interval printed), and accuracy at least 10 points above frozen embeddings with logistic regression. The plain loop
has the validation rows to train on as well: it stops by count, not by what it sees. One thread, so that two splits can
be run side by side. A training's luck is a point, so each split is trained on with two seeds, and their mean counts.
"""

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy
import torch
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

from staytuned import tasks
from staytuned.data import batches, example
from staytuned.data.readers import Reader
from staytuned.data.sides import TEST, TRAIN, VALIDATION, rows_of
from staytuned.files import read_json, write_json
from staytuned.modelling.device import make_deterministic
from staytuned.modelling.examples import Examples
from staytuned.modelling.heads import mask_of, padded
from staytuned.models import find_base
from staytuned.params import Params
from staytuned.predictor import Predictor
from staytuned.stages import encode, split, train, validate
from staytuned.tasks import Side
from staytuned.tasks.text_classification import softmax
from staytuned.workspace import Workspace

SALTS = (1, 2, 3, 4, 5)
SEEDS = (7, 8)
T_95 = 2.776  # Student's t, 4 degrees of freedom
PARAMS = Path(__file__).parents[1] / "params.yaml"


def main() -> None:
    logging.set_verbosity_error()
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
    every = {
        (salt, seed, name): measured(folder, salt, seed, name) for seed in SEEDS for salt in SALTS for name in MODELS
    }
    found = {name: [mean_of([every[salt, seed, name] for seed in SEEDS]) for salt in SALTS] for name in MODELS}
    for metric in ("accuracy", "macro_f1"):
        print(f"\n{metric}\nsalt  rows  {''.join(f'{name:>12}' for name in MODELS)}")
        for place, salt in enumerate(SALTS):
            values = "".join(f"{found[name][place][metric]:12.3f}" for name in MODELS)
            print(f"{salt:4}  {found['plain'][place]['rows']:4.0f}  {values}")
    checks = [
        ("accuracy against the plain loop", "plain", "accuracy", 0.0),
        ("macro-F1 against the plain loop", "plain", "macro_f1", 0.0),
        ("accuracy against embeddings", "embeddings", "accuracy", 0.10),
    ]
    met = True
    print()
    for what, other, metric, bound in checks:
        pairs = zip(found["staytuned"], found[other], strict=True)
        differences = [ours[metric] - theirs[metric] for ours, theirs in pairs]
        mean = statistics.mean(differences)
        half = T_95 * statistics.stdev(differences) / len(differences) ** 0.5
        met &= mean >= bound
        print(f"{what}: {mean:+.4f} ({mean - half:+.4f} to {mean + half:+.4f}), at least {bound:g}")
    pairs = zip(found["staytuned"], found["plain"], strict=True)
    ratio = statistics.median(ours["seconds"] / theirs["seconds"] for ours, theirs in pairs)
    print(f"seconds of training over those of the plain loop, median: {ratio:.2f}")
    sys.exit(not met)


def mean_of(found: list[dict]) -> dict:
    """Of each number its mean over the seeds."""
    return {key: statistics.mean(one[key] for one in found) for key in ("accuracy", "macro_f1", "rows", "seconds")}


def measured(folder: Path, salt: int, seed: int, name: str) -> dict:
    """What one of the models achieves on one split; kept in the folder."""
    done = folder / f"{salt}-{seed}-{name}.json"
    if not done.exists():
        params = Params.read(PARAMS)
        params = params.model_copy(
            update={
                "split": params.split.model_copy(update={"salt": salt}),
                "train": params.train.model_copy(update={"seed": seed, "threads": 1}),
            }
        )
        space = encoded(folder, salt, params)
        shutil.rmtree(space.checkpoints, ignore_errors=True)  # one that was cut off begins anew, as its clock does
        names = (TRAIN, VALIDATION, TEST)
        sides = {side: Side(rows_of(space, side), Examples.read(space.encoded / f"{side}.arrow")) for side in names}
        start = time.perf_counter()
        said = MODELS[name](space, params, sides)
        seconds = time.perf_counter() - start
        kept = tasks.load(params).score(sides[TEST].frame, said)
        write_json(done, kept | {"rows": len(sides[TEST].frame), "seconds": seconds})
    return read_json(done)


def encoded(folder: Path, salt: int, params: Params) -> Workspace:
    """A workspace with the product reviews, split by this salt."""
    space = Workspace(folder / str(salt))
    if not space.encoded.exists():
        space.var.mkdir(parents=True, exist_ok=True)
        rows = example.fetch("product", folder)
        batches.add(space, Reader(rows, params.ingest.columns, params.ingest.encodings))
        for stage in (validate, split, encode):
            stage.run(space, params)
    return space


Sides = dict[str, Side]


def staytuned(space: Workspace, params: Params, sides: Sides) -> list:
    """The stage that the road runs."""
    train.run(space, params)
    return Predictor(space.candidate).predict(sides[TEST].frame)


def embeddings(space: Workspace, params: Params, sides: Sides) -> list:
    """What the report calls the base."""
    return tasks.load(params).predict_before(find_base(params.model.base, []), sides[TRAIN], sides[TEST])


def plain(space: Workspace, params: Params, sides: Sides) -> list:
    """The plain loop, and its probabilities on the test rows."""
    test = sides[TEST].examples
    model = plain_loop(find_base(params.model.base, []), params, [sides[TRAIN].examples, sides[VALIDATION].examples])
    logits = numpy.zeros((len(test), len(params.task.labels)), numpy.float32)
    with torch.inference_mode():
        for places in test.batches_by_length():
            ids = test.lists("input_ids", places)
            logits[places] = model.eval()(input_ids=padded(ids), attention_mask=mask_of(ids)).logits.numpy()
    return list(softmax(logits.astype(numpy.float64)))


def plain_loop(base: Path, params: Params, sides: list[Examples]) -> torch.nn.Module:
    """What one writes first: AdamW, 2 epochs, learning rate 1e-4, batches of 32 in random order."""
    make_deterministic(params.train.seed, params.train.threads)
    labels = len(params.task.labels)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels, use_safetensors=True).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    random = numpy.random.default_rng(params.train.seed)
    ids = [row for side in sides for row in side.lists("input_ids", range(len(side)))]
    truth = torch.from_numpy(numpy.concatenate([side.column("class") for side in sides])).long()
    for _ in range(2):
        order = random.permutation(len(ids))
        for start in range(0, len(order), 32):
            places = order[start : start + 32]
            batch = [ids[place] for place in places]
            loss = model(input_ids=padded(batch), attention_mask=mask_of(batch), labels=truth[places]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


MODELS = {"embeddings": embeddings, "staytuned": staytuned, "plain": plain}

if __name__ == "__main__":
    main()
