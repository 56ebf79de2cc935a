"""The whole road of a task on real data, from file to promoted version to a prediction in a fresh process.

usage: python benchmarks/tasks.py DATA FOLDER NAME...     NAME: of a job below; FOLDER keeps the workspaces

DATA holds the public data sets named in docs/tasks.md, each in a folder of its own. Prints a line of its table for
each job: rows, epochs, seconds of the road, the first metric with its interval, what there was before, by how much the
candidate is better, and the answer to one row. Ends with 1 where the gain's interval holds 0.
"""

import csv
import gzip
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measure import ENVIRONMENT, wall
from tiny import set_params

from staytuned.data import example
from staytuned.files import read_json
from staytuned.start import init
from staytuned.workspace import Workspace

Files = Callable[[Path, Path], list[Path]]  # of a data folder and a scratch folder: what is ingested


@dataclass(frozen=True)
class Job:
    """A data set under a task."""

    task: str
    files: Files
    params: dict[str, Any]
    predict: list[str] = field(default_factory=lambda: ["predict", "it works well"])


def given(*names: str) -> Files:
    """Files that are ingested as they are."""
    return lambda data, scratch: [data / name for name in names]


def conll(*names: str) -> Files:
    """Files of CoNLL columns under the ending that says so."""

    def copied(data: Path, scratch: Path) -> list[Path]:
        made = []
        for name in names:
            made.append(scratch / f"{Path(name).name.replace('.', '-')}.conll")
            made[-1].write_bytes((data / name).read_bytes())
        return made

    return copied


def ratings(data: Path, scratch: Path) -> list[Path]:
    """The product reviews of the road's example."""
    return [example.fetch("product", scratch)]


def titles_and_abstracts(data: Path, scratch: Path) -> list[Path]:
    """4,000 titles of arXiv papers, each with its abstract."""
    with gzip.open(data / "arxiv/abstracts.csv.gz", "rt", encoding="utf-8", newline="") as handle:
        rows = [row for _, row in zip(range(4000), csv.DictReader(handle), strict=False)]
    return [_jsonl(scratch / "pairs.jsonl", ({"text": row["title"], "text_pair": row["abstract"]} for row in rows))]


def _jsonl(path: Path, rows: Iterator[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _intents(data: Path) -> list[str]:
    with (data / "intent/banking77/train.csv").open(encoding="utf-8", newline="") as handle:
        return sorted({row["category"] for row in csv.DictReader(handle)})


JOBS = {
    "banking77": Job(
        "text-classification",
        given("intent/banking77/train.csv", "intent/banking77/test.csv"),
        {
            "task__labels": _intents,
            "ingest__columns__label": "category",
            "train__epochs": 3,
            "train__learning_rate": 2e-4,
            "encode__max_tokens": 64,
        },
        ["predict", "my card has not arrived"],
    ),
    "wnut17": Job(
        "token-classification",
        conll("ner/wnut17/train.conll", "ner/wnut17/dev.conll", "ner/wnut17/test.conll"),
        {"task__types": ["person", "location", "corporation", "product", "creative-work", "group"]},
        ["predict", "Ada Lovelace moved from London to Intel"],
    ),
    "btc": Job(
        "token-classification",
        conll("ner/btc/btc.train", "ner/btc/btc.dev", "ner/btc/btc.test"),
        {"task__types": ["PER", "LOC", "ORG"]},
        ["predict", "Ada Lovelace moved from London to Intel"],
    ),
    "semeval2010": Job(
        "relation-extraction",
        given("relation/semeval2010_t8/train.txt", "relation/semeval2010_t8/test.txt"),
        {"train__learning_rate": 2e-4},
        ["predict", "the <e1>lid</e1> of the <e2>box</e2> is broken"],
    ),
    "xquad": Job(
        "question-answering",
        given("qa/xquad.en.json"),
        {},
        ["predict", "Who wrote it?", "--pair", "The book is old. It was written by Ada Lovelace in London."],
    ),
    "ratings": Job(
        "text-regression",
        ratings,
        {
            "task__low": -4.0,
            "task__high": 4.0,
            "ingest__columns__label": "rating",
            "ingest__columns__id": "id",
            "ingest__columns__source": "source",
            "ingest__columns__group": "document",
        },
    ),
    "arxiv-abstracts": Job(
        "sentence-retrieval",
        titles_and_abstracts,
        {"train__epochs": 1, "encode__max_tokens": 128},
        ["predict", "Deep learning", "--pair", "We train a neural network of many layers."],
    ),
}


def run(data: Path, folder: Path, name: str) -> bool:
    """One job; whether it is better than what there was before by more than the interval."""
    job, place = JOBS[name], folder / name
    if not (place / "params.yaml").exists():
        workspace = init(place, job.task)
        params = {key: value(data) if callable(value) else value for key, value in job.params.items()}
        set_params(
            workspace, gate__bounds={}, train__sharpness=0.0, train__threads=1, **params
        )  # plain steps, at half the cost
        scratch = place / "var"
        scratch.mkdir(exist_ok=True)
        for file in job.files(data, scratch):
            wall(["staytuned", "ingest", str(file)], place)
    start = time.perf_counter()
    wall(["staytuned", "run"], place)
    seconds = time.perf_counter() - start
    said = subprocess.run(["staytuned", *job.predict], cwd=place, env=ENVIRONMENT, capture_output=True, text=True)
    report = read_json(Workspace(place).evaluation / "evaluation.json")
    sides = read_json(Workspace(place).reports / "split.json")["sides"]
    about = read_json(Workspace(place).candidate / "staytuned.json")
    metric = report["metrics"][0]
    candidate, base = report["models"]["candidate"], report["models"]["base"]
    low, high = candidate["intervals"][metric["name"]]
    gain = report["comparisons"]["base"][metric["name"]]
    print(
        f"| {job.task} | {name} | {sides['train']:,} / {sides['validation']:,} / {report['test']['rows']:,} | "
        f"{about['train']['epochs']} | {seconds:,.0f} | {metric['title']} {candidate['metrics'][metric['name']]:.3f} "
        f"({low:.3f} to {high:.3f}) | {report['before']}: {base['metrics'][metric['name']]:.3f} | "
        f"{gain['difference']:+.3f} ({gain['interval'][0]:+.3f} to {gain['interval'][1]:+.3f}) |"
    )
    others = ", ".join(f"{one['title']} {candidate['metrics'][one['name']]:.3f}" for one in report["metrics"][1:])
    print(f"  others: {others}\n  {' '.join(job.predict)}: {said.stdout.strip() or said.stderr.strip()}", flush=True)
    worst = gain["interval"][0] if metric["higher_is_better"] else -gain["interval"][1]
    return worst > 0


if __name__ == "__main__":
    data, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    better = [run(data, folder, name) for name in sys.argv[3:] or JOBS]  # all of them, whatever the first says
    sys.exit(not all(better))
