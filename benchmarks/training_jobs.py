"""What the benchmarks of training learn: public data sets under their tasks, encoded."""

import gzip
from pathlib import Path
from typing import Any, NamedTuple

import pandas
from tiny import set_params
from tokenizers import Tokenizer

from staytuned import tasks
from staytuned.data.readers import Reader
from staytuned.modelling.examples import Examples
from staytuned.models import find_base
from staytuned.params import Params
from staytuned.start import init
from staytuned.tasks import Task

ROWS = 1600


class Job(NamedTuple):
    """A task on examples, and the model that is to learn it."""

    task: Task
    examples: Examples
    params: Params


def titles(data: Path, folder: Path) -> Job:
    with gzip.open(data / "arxiv/titles.csv.gz") as handle:
        frame = pandas.read_csv(handle, dtype=str).sample(ROWS, random_state=7)
    rows = frame.rename(columns={"title": "text"})[["text", "label"]]
    rows.to_csv(folder / "titles.csv", index=False)
    labels = sorted(rows["label"].unique())
    return made(folder, "text-classification", folder / "titles.csv", task__labels=labels)


def entities(data: Path, folder: Path) -> Job:
    path = folder / "btc.conll"
    path.write_bytes((data / "ner/btc/btc.dev").read_bytes())
    return made(folder, "token-classification", path, task__types=["PER", "LOC", "ORG"])


def questions(data: Path, folder: Path) -> Job:
    return made(folder, "question-answering", data / "qa/xquad.en.json")


def made(folder: Path, name: str, path: Path, **changes: Any) -> Job:
    workspace = init(folder / name, name)
    set_params(workspace, train__sharpness=0.0, **changes)
    params = Params.read(workspace.params)
    task = tasks.load(params)
    base = find_base(params.model.base, [])
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    task.read(base)
    task.adapt(tokenizer, params.encode.max_tokens)
    frame = pandas.DataFrame(Reader(path, params.ingest.columns, ["utf-8"], task.formats).rows())[:ROWS]
    frame["label"] = task.labels(frame)
    table = task.encode(tokenizer, frame)
    names = frame["row"].to_numpy()[table["place"].to_numpy()]
    return Job(task, Examples(table.append_column("row", [names])), params)
