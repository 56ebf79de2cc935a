"""Quality of the example's model: over 5 split salts, against a plain loop and against frozen embeddings.

usage: python benchmarks/quality.py [FOLDER]     FOLDER keeps what is done, salt by salt, so that it can be resumed

Bounds: accuracy and macro-F1 no worse than those of a plain loop on the same splits (mean difference at least 0, its
95 % interval printed), and accuracy at least 10 points above frozen embeddings with logistic regression. The plain loop
has the validation rows to train on as well: it stops by count, not by what it sees.
"""

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
from staytuned.classifier import Classifier, padded
from staytuned.data import batches, example
from staytuned.data.readers import Reader
from staytuned.data.sides import TEST, TRAIN, VALIDATION
from staytuned.files import read_json, write_json
from staytuned.models import find_base
from staytuned.params import Params
from staytuned.stages import encode, split, train, validate
from staytuned.stages.evaluate import test_rows
from staytuned.training.baseline import baseline_logits
from staytuned.training.loop import make_deterministic
from staytuned.training.rows import Rows
from staytuned.workspace import Workspace

SALTS = (1, 2, 3, 4, 5)
T_95 = 2.776  # Student's t, 4 degrees of freedom
PARAMS = Path(__file__).parents[1] / "params.yaml"


def main() -> None:
    logging.set_verbosity_error()
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
    results = [one_salt(folder, salt) for salt in SALTS]
    for metric in ("accuracy", "macro_f1"):
        print(f"\n{metric}\nsalt  rows   embeddings  plain loop  staytuned")
        for salt, result in zip(SALTS, results, strict=True):
            values = "  ".join(f"{result[name][metric]:10.3f}" for name in ("embeddings", "plain", "staytuned"))
            print(f"{salt:4}  {result['rows']:4}   {values}")
    checks = [
        ("accuracy against the plain loop", "plain", "accuracy", 0.0),
        ("macro-F1 against the plain loop", "plain", "macro_f1", 0.0),
        ("accuracy against embeddings", "embeddings", "accuracy", 0.10),
    ]
    met = True
    print()
    for what, other, metric, bound in checks:
        differences = [result["staytuned"][metric] - result[other][metric] for result in results]
        mean = statistics.mean(differences)
        half = T_95 * statistics.stdev(differences) / len(differences) ** 0.5
        met &= mean >= bound
        print(f"{what}: {mean:+.4f} ({mean - half:+.4f} to {mean + half:+.4f}), at least {bound:g}")
    ratio = statistics.median(result["staytuned"]["seconds"] / result["plain"]["seconds"] for result in results)
    print(f"seconds of training over those of the plain loop, median: {ratio:.2f}")
    sys.exit(not met)


def one_salt(folder: Path, salt: int) -> dict:
    """The three models on one split; kept in the folder."""
    done = folder / f"{salt}.json"
    if done.exists():
        return read_json(done)
    params = Params.read(PARAMS)
    params = params.model_copy(update={"split": params.split.model_copy(update={"salt": salt})})
    space = Workspace(folder / str(salt))
    space.var.mkdir(parents=True, exist_ok=True)
    rows = example.fetch("product", folder)
    batches.add(space, Reader(rows, params.ingest.columns, params.ingest.encodings))
    for stage in (validate, split, encode):
        stage.run(space, params)
    start = time.perf_counter()
    train.run(space, params)
    seconds = time.perf_counter() - start
    sides = {side: Rows(space.encoded / f"{side}.arrow", 3) for side in (TRAIN, VALIDATION, TEST)}
    task, test = tasks.load(params), sides[TEST]
    base = find_base(params.model.base, [])
    metrics = {
        "staytuned": task.metrics(test.labels, Classifier(space.candidate).logits(test_rows(space)[2])),
        "embeddings": task.metrics(test.labels, baseline_logits(base, sides[TRAIN], test)),
    }
    start = time.perf_counter()
    model = plain_loop(base, params, [sides[TRAIN], sides[VALIDATION]])
    plain_seconds = time.perf_counter() - start
    logits = numpy.zeros((len(test), test.classes), numpy.float32)
    with torch.inference_mode():
        for places in test.batches_by_length():
            inputs, mask = padded([test.ids(place) for place in places])
            logits[places] = model.eval()(input_ids=inputs, attention_mask=mask).logits.numpy()
    metrics["plain"] = task.metrics(test.labels, logits)
    result = {
        name: {key: found[key] for key in ("accuracy", "macro_f1", "calibration_error")}
        for name, found in metrics.items()
    }
    result["staytuned"]["seconds"], result["plain"]["seconds"] = seconds, plain_seconds
    write_json(done, result | {"rows": len(test)})
    return read_json(done)


def plain_loop(base: Path, params: Params, sides: list[Rows]) -> torch.nn.Module:
    """What one writes first: AdamW, 2 epochs, learning rate 1e-4, batches of 32 in random order."""
    make_deterministic(params.train.seed, params.train.threads)
    labels = len(params.task.labels)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels, use_safetensors=True).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    random = numpy.random.default_rng(params.train.seed)
    rows = [(side, place) for side in sides for place in range(len(side))]
    for _ in range(2):
        order = random.permutation(len(rows))
        for start in range(0, len(order), 32):
            batch = [rows[i] for i in order[start : start + 32]]
            inputs, mask = padded([side.ids(place) for side, place in batch])
            truth = torch.tensor([side.labels[place] for side, place in batch])
            loss = model(input_ids=inputs, attention_mask=mask, labels=truth).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


if __name__ == "__main__":
    main()
