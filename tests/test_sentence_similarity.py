"""How alike two texts are: a number out of both, the whole road."""

import random
from pathlib import Path
from typing import Any

import pytest
from tiny import BAD, GOOD, PLAIN, THINGS, make_base, set_params, write_csv

from staytuned.data.batches import add
from staytuned.data.readers import Reader
from staytuned.files import read_json
from staytuned.params import Params
from staytuned.predictor import Predictor, frame_of
from staytuned.stages import encode, evaluate, split, train, validate
from staytuned.start import init

KINDS = [BAD, PLAIN, GOOD]


def row(number: int) -> dict[str, Any]:
    """Two judgements, the more alike the nearer they are: 5, 2.5 or 0."""
    chance = random.Random(number)
    one, other = chance.randrange(3), chance.randrange(3)
    text, pair = (f"the {chance.choice(THINGS)} is {chance.choice(KINDS[kind])}" for kind in (one, other))
    return {"text": f"{text} number {number:05d}", "text_pair": pair, "label": 5 - 2.5 * abs(one - other)}


@pytest.mark.xdist_group("great expectations")  # one worker imports it
def test_the_whole_road(tmp_path: Path) -> None:
    workspace = init(tmp_path / "workspace", "sentence-similarity")
    make_base(workspace.root / "base-models" / "tiny")
    set_params(
        workspace,
        model__base="tiny",
        encode__max_tokens=32,
        train__epochs=16,
        train__learning_rate=6e-3,
        train__head_learning_rate=6e-3,
        train__dropout=0.0,
        train__patience=20,
        train__threads=1,
        evaluate__bootstrap=100,
    )
    params = Params.read(workspace.params)
    bad = [row(998) | {"text_pair": " "}, row(999) | {"label": "5.5"}, row(997) | {"label": "alike"}]
    file = write_csv(tmp_path / "rows.csv", [*map(row, range(600)), *bad])
    add(workspace, Reader(file, params.ingest.columns, params.ingest.encodings))
    for stage in (validate, split, encode, train, evaluate):
        stage.run(workspace, params)
    (batch,) = read_json(workspace.reports / "validation.json")["batches"]
    assert batch["reasons"] == {
        "text_pair is blank": 1,
        "label is not from 0 to 5": 1,
        "label is no finite number": 1,
    }
    report = read_json(workspace.evaluation / "evaluation.json")
    candidate, before = (report["models"][name]["metrics"] for name in ("candidate", "base"))
    assert candidate["spearman"] > max(0.8, before["spearman"] + 0.2)
    assert candidate["mae"] < before["mae"]
    texts = ["the radio is lovely number 00077"] * 2
    alike, apart = Predictor(workspace.candidate).predict(
        frame_of(texts, ["the clock is great", "the clock is flimsy"])
    )
    assert 5 >= alike > apart + 2 >= 2
