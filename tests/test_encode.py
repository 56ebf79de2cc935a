"""Text to token ids: the very ids, in the order of the rows, and each truncation counted."""

import json
from itertools import cycle
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from tiny import make_rows, make_workspace, set_params

from staytuned.data.sides import KEPT_OUT, TEST, TRAIN, VALIDATION
from staytuned.errors import MissingError, ParamsError
from staytuned.files import read_json, sha256
from staytuned.modelling.examples import Examples
from staytuned.models import fingerprint
from staytuned.params import Params
from staytuned.stages import encode
from staytuned.workspace import Workspace

CLASSES = 3


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path / "workspace")


def run(workspace: Workspace, texts: list[str], sides: list[str], max_tokens: int = 32) -> dict[str, Any]:
    """Encode the texts as rows 0, 1, 2... on the sides given; returns the report."""
    labels = cycle(["negative", "neutral", "positive"])
    rows = [
        {"row": str(number), "text": text, "label": next(labels), "source": "shop"} for number, text in enumerate(texts)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), workspace.accepted)
    placed = [{"row": str(number), "group": f"g{number}", "side": side} for number, side in enumerate(sides)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(placed), workspace.split)
    set_params(workspace, encode__max_tokens=max_tokens)
    encode.run(workspace, Params.read(workspace.params))
    report: dict[str, Any] = read_json(workspace.reports / "encoding.json")
    return report


def examples_of(workspace: Workspace, side: str) -> Examples:
    return Examples.read(workspace.encoded / f"{side}.arrow")


def ids_at(examples: Examples, place: int) -> list[int]:
    ids: list[int] = examples.lists("input_ids", [place])[0].tolist()
    return ids


def ids_of(workspace: Workspace, *pieces: str) -> list[int]:
    """Pieces as the vocabulary of the tiny model numbers them."""
    tokenizer = json.loads((workspace.root / "base-models" / "tiny" / "tokenizer.json").read_text())
    return [tokenizer["model"]["vocab"][piece] for piece in pieces]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("The lamp is GREAT!", ("the", "lamp", "is", "great", "[UNK]")),
        ("lovely kettle number 042", ("lovely", "kettle", "number", "0", "##4", "##2")),
        ("电池 lamp", ("[UNK]", "[UNK]", "lamp")),
        ("   ", ()),
    ],
)
def test_a_text_becomes_exactly_these_ids(workspace: Workspace, text: str, pieces: tuple[str, ...]) -> None:
    run(workspace, [text], [TRAIN])
    expected = ids_of(workspace, "[CLS]", *pieces, "[SEP]")
    assert ids_at(examples_of(workspace, TRAIN), 0) == expected


def test_what_does_not_fit_is_cut_and_counted_and_what_just_fits_is_not(workspace: Workspace) -> None:
    words = ["lamp"] * 20
    lengths = [1, 5, 6, 7, 20, 6, 8]  # words; 8 tokens hold 6 of them between [CLS] and [SEP]
    texts = [" ".join(words[:length]) for length in lengths]
    sides = [TRAIN, TRAIN, TRAIN, TRAIN, TEST, TEST, KEPT_OUT]
    report = run(workspace, texts, sides, max_tokens=8)
    assert ids_at(examples_of(workspace, TRAIN), 3) == ids_of(workspace, "[CLS]", *words[:6], "[SEP]")
    assert examples_of(workspace, TRAIN).lengths.tolist() == [3, 7, 8, 8]
    assert examples_of(workspace, TEST).lengths.tolist() == [8, 8]
    assert report["sides"] == {
        TRAIN: {"rows": 4, "examples": 4, "tokens": 26, "truncated": 1},
        VALIDATION: {"rows": 0, "examples": 0, "tokens": 0, "truncated": 0},
        TEST: {"rows": 2, "examples": 2, "tokens": 16, "truncated": 1},
    }


def test_rows_keep_their_order_label_and_side_across_chunks(workspace: Workspace) -> None:
    count = encode.CHUNK + 7
    texts = [row["text"] for row in make_rows(count)]
    sides = [side for side, _ in zip(cycle([TRAIN, TEST, TRAIN, KEPT_OUT, VALIDATION]), texts, strict=False)]
    report = run(workspace, texts, sides)
    found = {side: examples_of(workspace, side) for side in (TRAIN, VALIDATION, TEST)}
    for side, rows in found.items():
        expected = [number for number in range(count) if sides[number] == side]
        assert rows.names == [str(number) for number in expected]
        assert rows.column("class").tolist() == [number % CLASSES for number in expected]
        assert report["sides"][side]["rows"] == len(expected)
    last = len(found[TRAIN]) - 1
    word = texts[int(found[TRAIN].names[last])].split()[0]
    assert ids_at(found[TRAIN], last)[1] == ids_of(workspace, word)[0]


def test_the_same_rows_give_the_same_bytes_and_the_report_names_the_base_by_its_content(workspace: Workspace) -> None:
    texts, sides = ["the lamp", "a desk"], [TRAIN, TEST]
    report = run(workspace, texts, sides)
    files = sorted(workspace.encoded.iterdir())
    assert [path.name for path in files] == ["test.arrow", "train.arrow", "validation.arrow"]
    before = [sha256(path) for path in files]
    assert run(workspace, texts, sides) == report
    assert [sha256(path) for path in files] == before
    assert report["base"] == {"name": "tiny", "sha256": fingerprint(workspace.root / "base-models" / "tiny")}


def test_a_limit_that_the_base_model_cannot_read_is_refused(workspace: Workspace) -> None:
    with pytest.raises(ParamsError, match=r"encode\.max_tokens is 513, but 'tiny' \(model\.base\) reads at most 512;"):
        run(workspace, ["the lamp"], [TRAIN], max_tokens=513)
    tokenizer = workspace.root / "base-models" / "tiny" / "tokenizer_config.json"
    tokenizer.write_text('{"model_max_length": 510}')  # as RoBERTa has it: two positions are never used
    with pytest.raises(ParamsError, match=r"encode\.max_tokens is 511, but 'tiny' \(model\.base\) reads at most 510;"):
        run(workspace, ["the lamp"], [TRAIN], max_tokens=511)


def test_a_base_model_without_a_fast_tokenizer_is_named(workspace: Workspace) -> None:
    (workspace.root / "base-models" / "tiny" / "tokenizer.json").unlink()
    with pytest.raises(MissingError, match=r"'tiny' \(model\.base\) in .* has no tokenizer\.json"):
        run(workspace, ["the lamp"], [TRAIN])
