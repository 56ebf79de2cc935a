"""A tiny road: a model of some thousand weights made in memory, and rows written for it."""

import csv
import json
import random
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from ruamel.yaml import YAML
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from staytuned.start import init
from staytuned.workspace import Workspace

GOOD = ["great", "lovely", "solid", "bright", "handy", "swift"]
BAD = ["awful", "broken", "dull", "noisy", "flimsy", "slow"]
PLAIN = ["grey", "square", "boxed", "printed", "metal", "plain"]
THINGS = ["phone", "lamp", "kettle", "router", "chair", "radio", "camera", "drill", "clock", "desk"]
FRAMES = [
    "the {thing} is {word}",
    "a {word} {thing} again",
    "my {thing} came {word} today",
    "{word} {thing} overall",
]
WORDS = sorted({*GOOD, *BAD, *PLAIN, *THINGS, *" ".join(FRAMES).replace("{", "").replace("}", "").split(), "number"})
DIGITS = list("0123456789")


def make_base(folder: Path) -> Path:
    """A BERT of two layers, 32 wide, with a tokenizer over the words above."""
    folder.mkdir(parents=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *WORDS, *DIGITS, *(f"##{digit}" for digit in DIGITS)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "initializer_range": 0.3,
    }
    BertModel(BertConfig(vocab_size=len(pieces), **shape)).save_pretrained(folder)
    return folder


def make_rows(count: int, seed: int = 0, source: str = "shop") -> list[dict[str, str]]:
    """Rows with id, text, label, source and document; every label and many documents occur."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        label, words = chance.choice([("positive", GOOD), ("negative", BAD), ("neutral", PLAIN)])
        frame = chance.choice(FRAMES)
        text = frame.format(thing=chance.choice(THINGS), word=chance.choice(words)) + f" number {seed}{number:05d}"
        document = str(number // 4)
        rows.append(
            {
                "id": f"{seed}-{number}",
                "text": text,
                "label": label,
                "source": source,
                "document": f"{seed}-{document}",
            }
        )
    return rows


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows as a csv file."""
    with path.open("w", encoding="utf-8", newline="") as handle:
        table = csv.DictWriter(handle, rows[0])
        table.writeheader()
        table.writerows(rows)
    return path


def predict_file(workspace: Workspace, rows: list[dict[str, Any]], folder: Path) -> list[dict[str, str]]:
    """What the workspace's candidate answers, as if it were champion, to the rows of a file."""
    from staytuned import serve
    from staytuned.predictor import Predictor

    with mock.patch.object(serve, "champion", lambda road: (1, Predictor(road.candidate))):
        counts = serve.predict_file(workspace, write_csv(folder / "rows.csv", rows), folder / "out.csv")
    with (folder / "out.csv").open(encoding="utf-8", newline="") as handle:
        answers = list(csv.DictReader(handle))
    assert counts == (len(rows), sum(bool(answer["problem"]) for answer in answers))
    return answers


def set_params(workspace: Workspace, **changes: Any) -> None:
    """Change params by dotted name, with ``__`` for the dot."""
    yaml = YAML()
    params = yaml.load(workspace.params)
    for name, value in changes.items():
        *sections, key = name.split("__")
        section = params
        for part in sections:
            section = section[part]
        section[key] = value
    yaml.dump(params, workspace.params)


def make_workspace(folder: Path) -> Workspace:
    """A workspace on the tiny model."""
    workspace = init(folder)
    make_base(folder / "base-models" / "tiny")
    tiny_params(workspace)
    return workspace


def tiny_params(workspace: Workspace, **changes: Any) -> None:
    """Params for the tiny model and its rows, with bounds that it can keep and nothing to fetch."""
    is_classification = YAML().load(workspace.params)["task"]["name"] == "text-classification"
    params: dict[str, Any] = {
        "task__label_from_rating": None,
        "task__logit_adjustment": 0.0,
        "model__base": "tiny",
        "ingest__example": None,
        "ingest__columns__label": "label",
        "ingest__columns__id": "id",
        "ingest__columns__source": "source",
        "ingest__columns__group": "document",
        "ingest__columns__keep": [],
        "encode__max_tokens": 32,
        "train__epochs": 6,
        "train__learning_rate": 6e-3,
        "train__head_learning_rate": 6e-3,
        "train__patience": 12,
        "train__evaluations_per_epoch": 2,
        "train__dropout": 0.0,
        "train__threads": 1,
        "evaluate__bootstrap": 200,
        "gate__bounds": {"macro_f1": 0.4, "accuracy": 0.5, "calibration_error": 0.5},
        "gate__margins": {"calibration_error": 0.5} if is_classification else {},
        "gate__min_test_rows": 20,
        "gate__min_gain": -0.5,
        "registry__model": "tiny",
    }
    set_params(workspace, **params | changes)
    if "change:" in workspace.behaviour.read_text():  # typos make words that its tokenizer does not know
        workspace.behaviour.write_text("- {name: capital letters, share: 1.0, change: case}\n")
