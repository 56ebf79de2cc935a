"""Labels of token classification, as spans or as CoNLL's columns, and what is wrong with those that cannot be used."""

from typing import Any

import pandas
import pytest

from staytuned.data.conll import sentences
from staytuned.predictor import frame_of
from staytuned.tasks.token_classification import Options, TokenClassification

TASK = TokenClassification(Options(name="token-classification", types=["product", "place"], pieces="first"))


@pytest.mark.parametrize(
    ("label", "fault"),
    [
        ("[]", None),
        ('[[4, 8, "product"], [9, 13, "place"]]', None),
        ('[[9, 13, "place"], [4, 8, "product"]]', None),  # in any order
        ('[[4, 6, "product"], [6, 8, "place"]]', None),  # they touch
        (None, None),  # the contract says that there is no label
        ("product", "label is no JSON list of [start, end, type]: 'product'"),
        ('[4, 8, "product"]', "label is no JSON list of [start, end, type]: '[4, 8, \"product\"]'"),
        ('{"start": 4}', "label is no JSON list of [start, end, type]: '{\"start\": 4}'"),
        ('[["4", 8, "product"]]', 'label is no JSON list of [start, end, type]: \'[["4", 8, "product"]]\''),
        ("[[true, 8, null]]", "label is no JSON list of [start, end, type]: '[[true, 8, null]]'"),
        ("[" * 99_999, f"label is no JSON list of [start, end, type]: '{'[' * 80}'"),
        ('[[4, 8, "produkt"]]', 'type is none of product, place: [4, 8, "produkt"]'),
        ('[[8, 8, "place"]]', 'span does not start before it ends: [8, 8, "place"]'),
        ('[[8, 4, "place"]]', 'span does not start before it ends: [8, 4, "place"]'),
        ('[[9, 14, "place"]]', 'span is outside of the text: [9, 14, "place"]'),
        ('[[-4, 13, "place"]]', 'span is outside of the text: [-4, 13, "place"]'),
        ('[[3, 8, "product"]]', 'span starts or ends with a blank: [3, 8, "product"]'),
        ('[[4, 9, "product"]]', 'span starts or ends with a blank: [4, 9, "product"]'),
        (
            '[[9, 13, "place"], [4, 13, "product"]]',
            'spans overlap or nest, but entities are flat: [[4, 13, "product"], [9, 13, "place"]]',
        ),
        (
            '[[4, 8, "place"], [4, 8, "place"]]',
            'spans overlap or nest, but entities are flat: [[4, 8, "place"], [4, 8, "place"]]',
        ),
    ],
)
def test_faults(label: str | None, fault: str | None) -> None:
    rows = frame_of(["the lamp Rome"]).assign(label=pandas.Series([label], dtype="object"))
    assert TASK.faults(rows) == [fault]


@pytest.mark.parametrize(
    ("content", "row"),
    [
        ("the O\nlamp B-product\n\n", (2, "the lamp", [[4, 8, "product"]], None)),
        ("the\tO\r\nlamp\tB-product", (2, "the lamp", [[4, 8, "product"]], None)),  # no line end at the end
        ("\n\nla NN B-x\nmp NN I-x\n \t\n\n", (4, "la mp", [[0, 5, "x"]], None)),
        ("a B-x\nb B-x\nc I-x\nd B-y\n", (4, "a b c d", [[0, 1, "x"], [2, 5, "x"], [6, 7, "y"]], None)),
        ("-DOCSTART- -X- O O\n\nEU NNP I-NP B-ORG\n-DOCSTART- -X- O O\n", (3, "EU", [[0, 2, "ORG"]], None)),
        ("北 B-x\n京 I-x\n👍🏽 O\ne\u0301 B-y\n", (4, "北京 👍🏽 e\u0301", [[0, 2, "x"], [6, 8, "y"]], None)),
        ("a B-\n", (1, "a", [], "line 1 has the tag 'B-', which is not O, B-type or I-type")),
        ("a O\nb E-x\n", (2, "a b", [], "line 2 has the tag 'E-x', which is not O, B-type or I-type")),
        ("a O\nb\n", (2, "a b", [], "line 2 has 1 column(s), not 2")),
        (
            "# no sentence\na NN O\nb B-x\n",
            (
                3,
                "# a b",
                [[4, 5, "x"]],
                "line 1 has the tag 'sentence', which is not O, B-type or I-type; line 3 has 2 column(s), not 3",
            ),
        ),
        ("lonely\n", (1, "lonely", [], "line 1 has 1 column(s), not two or more")),
        ("a NN O\nb B-x\n", (2, "a b", [[2, 3, "x"]], "line 2 has 2 column(s), not 3")),
        ("\na I-x\nb I-x\n", (3, "a b", [[0, 3, "x"]], "line 2 has I-x without its B-x; tags must be IOB2")),
        ("a B-y\nb I-x\n", (2, "a b", [[0, 1, "y"], [2, 3, "x"]], "line 2 has I-x without its B-x; tags must be IOB2")),
        (
            "a O\nb I-x\nc O\nd\n",
            (
                4,
                "a b c d",
                [[2, 3, "x"]],
                "line 2 has I-x without its B-x; tags must be IOB2; line 4 has 1 column(s), not 2",
            ),
        ),
    ],
)
def test_a_sentence_of_columns(content: str, row: tuple[int, str, Any, Any]) -> None:
    lines = iter(content.splitlines(keepends=True))
    assert [(line, values["text"], values["label"], problem) for line, values, problem in sentences(lines)] == [row]


def test_an_i_does_not_reach_over_a_blank_line() -> None:
    found = list(sentences(iter(["a B-x\n", "\n", "b I-x\n"])))
    assert [problem for _, _, problem in found] == [None, "line 3 has I-x without its B-x; tags must be IOB2"]


@pytest.mark.parametrize(
    ("label", "kept"),
    [
        ('[{"start": 4, "end": 8, "type": "product", "text": "lamp", "score": 0.9}]', '[[4, 8, "product"]]'),
        ('[[4, 8, "product"]]', '[[4, 8, "product"]]'),
        ("[]", "[]"),
        ("product", "product"),  # left to the contract, which refuses it
        ('[{"start": 4}]', '[{"start": 4}]'),
        ("[" * 99_999, "[" * 99_999),  # deeper than Python reads
        ("[" + "9" * 5_000 + "]", "[" + "9" * 5_000 + "]"),  # a number longer than Python reads
        (None, None),
    ],
)
def test_a_label_may_be_what_a_prediction_is_written_as(label: str | None, kept: str | None) -> None:
    found = TASK.labels(pandas.DataFrame({"label": [label]}, dtype="object"))[0]
    assert found == kept or (kept is None and pandas.isna(found))
