"""The jobs of docs/tasks.md: data sets under tasks, and their params."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from real_data import (
    LEVELS,
    Files,
    abstracts,
    act_names,
    acts,
    chats,
    conll,
    given,
    intents,
    levels,
    own_or_other,
    questions,
    ratings,
    sentences,
    similar_turns,
    summaries,
    translations,
    with_masked_head,
)


@dataclass(frozen=True)
class Job:
    """A data set under a task."""

    task: str
    files: Files
    params: dict[str, Any]
    predict: list[str] = field(default_factory=lambda: ["predict", "it works well"])
    make_base: Callable[[Path], None] | None = None  # puts the model of ``model__base`` into a folder


FEW_ROWS = {
    "train__batch_size": 16,
    "train__epochs": 15,
    "train__learning_rate": 3e-4,
    "train__head_learning_rate": 5e-3,
    "train__sharpness": 0.0,
}

SMOLLM = {  # 135 million weights: low-rank adapters, short texts, one seed
    "train__lora": {"rank": 8, "alpha": 16},
    "train__learning_rate": 8e-4,
    "train__head_learning_rate": 8e-4,
    "train__epochs": 1,
    "encode__max_tokens": 256,
    "split__test": 0.31,
    "split__validation": 0.05,
}

JOBS = {
    "banking77": Job(
        "text-classification",
        given("intent/banking77/train.csv", "intent/banking77/test.csv"),
        {
            "task__labels": intents,
            "ingest__columns__label": "category",
            "train__epochs": 4,
            "train__learning_rate": 3e-4,
            "train__sharpness": 0.0,
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
        {},
        ["predict", "the <e1>lid</e1> of the <e2>box</e2> is broken"],
    ),
    "xquad": Job(
        "question-answering",
        given("qa/xquad.en.json"),
        {"task__unanswerable": False, "train__epochs": 5, "train__learning_rate": 3e-4},
        ["predict", "Who wrote it?", "--pair", "The book is old. It was written by Ada Lovelace in London."],
    ),
    "questions": Job(
        "question-answering",
        questions,
        {  # 99 of 100 answers of the training rows have at most 94 tokens
            "task__unanswerable": False,
            "task__max_answer_tokens": 100,
            "train__epochs": 4,
            "train__learning_rate": 3e-4,
            "split__test": 0.2,
        },
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
    "levels": Job(
        "text-regression",
        levels,
        {
            "task__low": None,
            "task__high": None,
            "task__levels": LEVELS,
            "ingest__columns__id": "id",
            "ingest__columns__source": "source",
            "ingest__columns__group": "document",
        },
    ),
    "arxiv-abstracts": Job(
        "sentence-retrieval",
        abstracts(4000, "title", "abstract"),
        {"train__epochs": 1, "encode__max_tokens": 128},
        ["predict", "Deep learning", "--pair", "We train a neural network of many layers."],
    ),
    "tatoeba-search": Job(
        "sentence-retrieval",
        sentences,
        {"train__epochs": 6, "train__learning_rate": 3e-4, "encode__max_tokens": 48},
        ["predict", "I do not know.", "--pair", "我不知道。"],
    ),
    "own-or-other": Job(
        "sentence-pairs",
        own_or_other(4000),
        {"task__labels": ["own", "other"], "encode__max_tokens": 96},
        ["predict", "Deep learning", "--pair", "We train a neural network of many layers."],
    ),
    "similar-turns": Job(
        "sentence-similarity",
        similar_turns,
        {
            "task__low": 0.0,
            "task__high": 1.0,
            "ingest__columns__group": "document",
            "encode__max_tokens": 96,
            "split__test": 0.2,
        },
        ["predict", "Please find me a table for two at noon.", "--pair", "I want to eat in San Jose."],
    ),
    "acts": Job(
        "multi-label-classification",
        acts,
        FEW_ROWS
        | {
            "task__labels": act_names,
            "ingest__columns__id": "id",
            "ingest__columns__group": "document",
            "encode__max_tokens": 64,
            "split__test": 0.22,
        },
        ["predict", "Please find me a table for two at noon."],
    ),
    "acts-and-speaker": Job(
        "several-tasks",
        acts,
        FEW_ROWS
        | {
            "task__parts": lambda data: [
                {
                    "column": "acts",
                    "task": {"name": "multi-label-classification", "labels": act_names(data), "threshold": 0.5},
                },
                {
                    "column": "speaker",
                    "task": {"name": "text-classification", "labels": ["user", "assistant"], "label_from_rating": None},
                },
            ],
            "ingest__columns__keep": ["acts", "speaker"],
            "ingest__columns__id": "id",
            "ingest__columns__group": "document",
            "encode__max_tokens": 64,
            "split__test": 0.22,
        },
        ["predict", "Please find me a table for two at noon."],
    ),
    "scitldr": Job(
        "text-generation",
        summaries,
        SMOLLM | {"task__max_target_tokens": 40, "encode__max_tokens": 192},
        ["predict", "We train a large network on little data. It generalises well. The reason is not known."],
    ),
    "tatoeba": Job(
        "text-generation",
        translations,
        SMOLLM
        | {"task__metric": "chrf", "task__bleu_words": "char", "task__prompt": "English: {text}\nChinese: "}
        | {"task__max_target_tokens": 40, "encode__max_tokens": 96, "split__test": 0.18, "train__epochs": 2},
        ["predict", "I do not know."],
    ),
    "sgd": Job(
        "dialogue",
        chats,
        SMOLLM | {"ingest__columns__group": "document", "task__max_reply_tokens": 24, "split__test": 0.28},
        ["predict", json.dumps([{"role": "user", "content": "Please find me a table for two at noon."}])],
    ),
    "arxiv-titles": Job(
        "language-modelling",
        abstracts(3300, "title"),
        {name: SMOLLM[name] for name in ("train__epochs", "encode__max_tokens", "split__test", "split__validation")},
        ["predict", "Deep learning of graphs"],
    ),
    "arxiv-masked": Job(
        "language-modelling",
        abstracts(6000, "title"),
        {
            "task__objective": "masked",
            "model__base": "minilm-with-masked-head",
            "train__batch_size": 32,
            "train__epochs": 6,
            "train__learning_rate": 5e-4,
            "train__head_learning_rate": 5e-4,
            "encode__max_tokens": 64,
        },
        ["predict", "Deep learning of graphs"],
        with_masked_head,
    ),
}
