"""Relation extraction: marked entities in, markers never cut away, the official score of SemEval-2010 Task 8."""

import json
import random
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import BAD, GOOD, PLAIN, THINGS, make_base, predict_file, set_params, write_csv
from tokenizers import Tokenizer

from staytuned.data.batches import add
from staytuned.data.readers import Reader
from staytuned.errors import DataError, ParamsError
from staytuned.files import read_json
from staytuned.modelling.examples import Examples
from staytuned.modelling.heads import backbone
from staytuned.params import Params
from staytuned.predictor import Predictor, frame_of
from staytuned.sections import Columns
from staytuned.stages import encode, evaluate, split, train, validate
from staytuned.start import init
from staytuned.tasks.relation_extraction import MARKERS, Options, RelationExtraction, nearest
from staytuned.workspace import Workspace

LABELS = ["Praise(e1,e2)", "Praise(e2,e1)", "Blame(e1,e2)", "Blame(e2,e1)", "Other"]
COLUMNS = {"text": "text", "text_pair": None, "label": "label", "id": None, "source": None, "group": None, "keep": []}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def task() -> RelationExtraction:
    return RelationExtraction(Options(name="relation-extraction", labels=LABELS, negative="Other"))


def adapted(task: RelationExtraction, base: Path, max_tokens: int = 32) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    task.adapt(tokenizer, max_tokens)
    return tokenizer


def labelled(*rows: tuple[str | None, str | None]) -> pandas.DataFrame:
    return pandas.DataFrame(rows, columns=["text", "label"], dtype="str")


def examples_of(task: RelationExtraction, tokenizer: Tokenizer, frame: pandas.DataFrame) -> Examples:
    table = task.encode(tokenizer, frame)
    return Examples(table.append_column("row", table["place"].cast("string")))


def marked_text(tokenizer: Tokenizer, examples: Examples, place: int) -> str:
    """What the model reads of an example, as text, markers and all."""
    markers = examples.lists("markers", [place])[0].tolist()
    pieces = iter([tokenizer.id_to_token(number) for number in examples.lists("input_ids", [place])[0]])
    length = len(examples.lists("input_ids", [place])[0]) + len(MARKERS)
    return " ".join(MARKERS[markers.index(i)] if i in markers else next(pieces) for i in range(length))


# Rows


@pytest.mark.parametrize(
    ("text", "label", "fault"),
    [
        ("the <e1>lamp</e1> is <e2>grey</e2>", "Other", None),
        ("the <e2>lamp</e2> is <e1>grey</e1>", "Other", None),  # the second may stand first
        ("the <e1>lamp</e1><e2>grey</e2>", None, None),
        ("<e1>lamp</e1> <e2>grey", "Other", "text lacks markers: </e2>"),
        ("a plain lamp", "Other", "text lacks markers: <e1> </e1> <e2> </e2>"),
        (
            "<e1>lamp</e1> <e2>grey</e2> <e1>x</e1>",
            "Other",
            "text has markers more than once: <e1> </e1> <e2> </e2> <e1> </e1>",
        ),
        (
            "<e1>a <e2>lamp</e2></e1>",
            "Other",
            "text has markers nested or in the wrong order: <e1> <e2> </e2> </e1>",
        ),
        (
            "</e1>lamp<e1> <e2>grey</e2>",
            "Other",
            "text has markers nested or in the wrong order: </e1> <e1> <e2> </e2>",
        ),
        ("<e1> </e1> <e2>grey</e2>", "Other", "text marks nothing: <e1> </e1>"),
        ("<e1>lamp</e1> <e2>grey</e2>", "Praise", f"label is none of {', '.join(LABELS)}: 'Praise'"),
    ],
)
def test_each_fault_is_told_with_what_the_row_holds(
    task: RelationExtraction, text: str, label: str | None, fault: str | None
) -> None:
    assert task.faults(labelled((text, label))) == [fault]


def test_spans_in_a_label_become_markers_and_those_that_miss_the_text_a_fault(task: RelationExtraction) -> None:
    def said(first: Any, second: Any, relation: Any = "Praise(e2,e1)") -> str:
        return json.dumps({"relation": relation, "e1": first, "e2": second})

    text = "the lamp is grey"
    missed = [said([4, 8], [12, 17]), said([8, 8], [12, 16]), said([-4, 8], [12, 16]), said([4], [12, 16]), "{}"]
    missed += [said("the", [12, 16]), said([4, 8], [12, 16], 5), said([4.0, 8], [12, 16]), "{not json"]
    missed.append('{"e1": ' * 99_999)  # deeper than Python reads
    good = [said([4, 8], [12, 16]), said([12, 16], [4, 8]), said([0, 3], [3, 8]), "Other"]
    frame = labelled(*[(text, label) for label in good + missed], (None, good[0]))
    frame["label"] = task.labels(frame)
    assert frame["text"].tolist()[:5] == [
        "the <e1>lamp</e1> is <e2>grey</e2>",
        "the <e2>lamp</e2> is <e1>grey</e1>",
        "<e1>the</e1><e2> lamp</e2> is grey",
        text,
        text,
    ]
    assert frame["label"].tolist()[:-1] == ["Praise(e2,e1)"] * 3 + ["Other"] + missed
    expected = [f"label does not name two spans of the text: {label!r}" for label in [*missed, good[0]]]
    assert task.faults(frame) == [None, None, None, "text lacks markers: <e1> </e1> <e2> </e2>", *expected]


def test_spans_that_overlap_are_nested_markers(task: RelationExtraction) -> None:
    frame = labelled(("the lamp is grey", '{"relation": "Other", "e1": [4, 11], "e2": [9, 16]}'))
    frame["label"] = task.labels(frame)
    assert frame["text"].tolist() == ["the <e1>lamp <e2>is</e1> grey</e2>"]
    assert task.faults(frame) == ["text has markers nested or in the wrong order: <e1> <e2> </e1> </e2>"]


def test_the_layout_of_semeval_2010_task_8_is_read_and_what_is_not_it_told(tmp_path: Path) -> None:
    file = tmp_path / "rows.TXT"
    file.write_bytes(
        b'8001\t"The <e1>audits</e1> were about "<e2>waste</e2>"."\r\nMessage-Topic(e1,e2)\r\n'
        b"Comment: Assuming an audit = an audit document.\r\n\r\n"
        b'8002\t"A <e1>lamp</e1>, a <e2>desk</e2>."\nOther\n\n\n'
        b"8003 no quotes\nOther\nComment:\n\n"
        b'8004\t"A <e1>lamp</e1>, a <e2>desk</e2>."\nOther\nComment:\nand one line more\n\n'
        b'8005\t"A <e1>caf\xc3\xa9</e1> <e2>\xff</e2>."\nOther'
    )
    reader = Reader(file, Columns.model_validate(COLUMNS), ["utf-8"], RelationExtraction.formats)
    rows = list(reader.rows())
    wrong = 'is not number, tab and "text"; relation; comment'
    assert [[row[name] for name in ("row", "text", "label", "line", "problem")] for row in rows] == [
        ["data:8001", 'The <e1>audits</e1> were about "<e2>waste</e2>".', "Message-Topic(e1,e2)", "3", None],
        ["data:8002", "A <e1>lamp</e1>, a <e2>desk</e2>.", "Other", "6", None],
        [rows[2]["row"], "8003 no quotes\nOther\nComment:\n", None, "11", wrong],
        [rows[3]["row"], rows[3]["text"], None, "16", wrong],
        ["data:8005", "A <e1>café</e1> <e2>\ufffd</e2>.", "Other", "19", "line 18 holds bytes of no listed encoding"],
    ]


@pytest.mark.parametrize(
    ("labels", "negative", "message"),
    [
        (["A", "A"], None, r"repeats \['A'\]"),
        (["A", "B"], "Other", r"is 'Other', which task.labels lacks; add it there, or set this to null"),
    ],
)
def test_options_that_contradict_are_refused(labels: list[str], negative: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(name="relation-extraction", labels=labels, negative=negative)


# Examples


def test_ids_are_those_of_the_text_and_the_markers_stand_where_they_were(task: RelationExtraction, base: Path) -> None:
    tokenizer = adapted(task, base)
    frame = labelled(
        ("The <e1>lamp</e1> is <e2>grey</e2>!", "Praise(e1,e2)"),
        ("<e2>swift 04</e2><e1>desk</e1>", "Other"),
        ("the <e1>lamp</e1> is <e2>great</e2>", None),
        ("  ", None),  # a file to predict may hold it
    )
    examples = examples_of(task, tokenizer, frame)
    plain = ["The lamp is grey!", "swift 04 desk", "the lamp is great", ""]
    own = Tokenizer.from_file(str(base / "tokenizer.json"))
    assert [ids.tolist() for ids in examples.lists("input_ids", range(4))] == [own.encode(text).ids for text in plain]
    assert [places.tolist() for places in examples.lists("markers", range(4))] == [
        [2, 4, 6, 8],
        [6, 8, 1, 5],
        [2, 4, 6, 8],
        [1, 2, 3, 4],
    ]
    assert marked_text(tokenizer, examples, 0) == "[CLS] the <e1> lamp </e1> is <e2> grey </e2> [UNK] [SEP]"
    assert marked_text(tokenizer, examples, 1) == "[CLS] <e2> swift 0 ##4 </e2> <e1> desk </e1> [SEP]"
    assert examples.column("class").tolist() == [0, 4, -1, -1]
    assert not examples.column("truncated").any()
    assert len(task.encode(tokenizer, frame[:0])) == 0
    assert task.encode(tokenizer, frame[:0]).schema == task.encode(tokenizer, frame).schema


def test_a_text_without_marked_entities_is_not_answered(task: RelationExtraction, base: Path) -> None:
    with pytest.raises(DataError, match=r"text lacks markers: <e2> </e2>; mark one entity <e1>so</e1>"):
        task.encode(adapted(task, base), frame_of(["the <e1>lamp</e1> is grey"]))


@pytest.mark.parametrize(
    ("text", "kept", "cut"),
    [
        # 12 tokens: [CLS], [SEP], 4 markers, and 6 of the text
        ("a a a a a <e1>lamp</e1> is <e2>grey</e2> my my my", "a a <e1> lamp </e1> is <e2> grey </e2> my", True),
        ("<e1>lamp</e1> is <e2>grey</e2> my my my my", "<e1> lamp </e1> is <e2> grey </e2> my my my", True),
        ("a a a a <e2>lamp</e2> is <e1>grey</e1>", "a a a <e2> lamp </e2> is <e1> grey </e1>", True),
        ("a a <e1>lamp</e1> is <e2>grey</e2> my", "a a <e1> lamp </e1> is <e2> grey </e2> my", False),
        # too far apart: of what lies between, what is next to a marker
        ("a <e1>lamp</e1> is the my a came <e2>grey</e2> my", "<e1> lamp </e1> is the a came <e2> grey </e2>", True),
        # one entity alone is too long: its ends
        ("<e1>lamp is the my came today</e1> <e2>grey</e2>", "<e1> lamp is the came today </e1> <e2> grey </e2>", True),
    ],
)
def test_what_is_too_long_is_cut_around_the_entities(
    task: RelationExtraction, base: Path, text: str, kept: str, cut: bool
) -> None:
    tokenizer = adapted(task, base, max_tokens=12)
    examples = examples_of(task, tokenizer, frame_of([text]))
    assert marked_text(tokenizer, examples, 0) == f"[CLS] {kept} [SEP]"
    assert examples.column("truncated").tolist() == [cut]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=4, max_size=4, unique=True), st.integers(0, 40), st.integers(8, 70))
def test_no_marker_is_ever_cut_away(markers: list[int], rest: int, room: int) -> None:
    length = max(markers) + rest + 2
    kept = nearest(length, numpy.array(markers), before=1, after=1, room=room).tolist()
    assert len(kept) == min(room, length)
    assert kept == sorted(set(kept))
    assert {0, length - 1, *markers} <= set(kept)
    between = set(range(min(markers), max(markers) + 1))
    assert between <= set(kept) or set(kept) <= between | {0, length - 1}  # no context while a token between is cut


def test_a_limit_that_leaves_no_room_for_two_entities_is_refused(task: RelationExtraction, base: Path) -> None:
    adapted(task, base, max_tokens=8)
    with pytest.raises(ParamsError, match=r"encode\.max_tokens is 7; two marked entities take 8; raise it"):
        adapted(task, base, max_tokens=7)


# Model


def test_the_head_reads_the_states_at_the_opening_markers_alone(task: RelationExtraction, base: Path) -> None:
    """The logits are what the linear layer makes of those states, with the head's vectors in the markers' places."""
    tokenizer = adapted(task, base)
    model = task.model(backbone("AutoModel", base, 0.0, pretrained=True), 0.0).eval()
    texts = ["the <e2>lamp</e2> is <e1>grey</e1>", "<e1>desk</e1> <e2>great</e2>"]
    batch = task.batch(examples_of(task, tokenizer, frame_of(texts)), [0, 1], None)
    number = tokenizer.token_to_id
    assert batch.inputs["input_ids"].tolist() == [
        [2, number("the"), 0, number("lamp"), 0, number("is"), 0, number("grey"), 0, 3],
        [2, 0, number("desk"), 0, 0, number("great"), 0, 3, 0, 0],
    ]
    assert batch.inputs["attention_mask"].sum(dim=1).tolist() == [10, 8]
    assert batch.inputs["markers"].tolist() == [[6, 8, 2, 4], [1, 3, 4, 6]]
    words: torch.Tensor = model.encoder.get_input_embeddings().weight
    table = torch.cat([words, model.head["markers"].weight])
    first, opened = len(words), [[6, 2], [1, 4]]
    ids = batch.inputs["input_ids"].clone()
    for row, places in enumerate(batch.inputs["markers"].tolist()):
        ids[row, places] = torch.arange(first, first + 4)
    with torch.inference_mode():
        states = model.encoder(inputs_embeds=table[ids], attention_mask=batch.inputs["attention_mask"])[0]
        both = torch.stack([torch.cat([states[row, a], states[row, b]]) for row, (a, b) in enumerate(opened)])
        torch.testing.assert_close(model(**batch.inputs), model.head["linear"](both))
        batch.inputs["input_ids"][batch.inputs["input_ids"] == 0] = 7  # markers and padding
        torch.testing.assert_close(model(**batch.inputs), model.head["linear"](both))


# Metrics


def certain(task: RelationExtraction, labels: list[str]) -> list[numpy.ndarray]:
    return [numpy.eye(len(task.classes))[task.classes.index(label)] for label in labels]


def test_macro_f1_is_that_of_the_official_scorer_counted_by_hand(task: RelationExtraction) -> None:
    """Praise: 2 hits of 4 predicted and 3 actual, F1 4/7. Blame: 1 hit of 3 predicted and 2 actual, F1 2/5.

    A right relation in the wrong direction is predicted and actual, but no hit. Other counts only by what it takes
    from the relations and they from it.
    """
    truth_and_said = [
        ("Praise(e1,e2)", "Praise(e1,e2)"),
        ("Praise(e2,e1)", "Praise(e2,e1)"),
        ("Praise(e2,e1)", "Praise(e1,e2)"),
        ("Blame(e1,e2)", "Blame(e1,e2)"),
        ("Blame(e1,e2)", "Other"),
        ("Other", "Blame(e2,e1)"),
        ("Other", "Blame(e1,e2)"),
        ("Other", "Praise(e1,e2)"),
        ("Other", "Other"),
        ("Other", "Other"),
    ]
    frame = labelled(*[("", truth) for truth, _ in truth_and_said])
    said = certain(task, [said for _, said in truth_and_said])
    assert task.relations == ["Praise", "Blame"]
    assert task.score(frame, said) == pytest.approx({"macro_f1": (4 / 7 + 2 / 5) / 2, "accuracy": 0.5})
    found = task.details(frame, said)
    assert found["per_class"] == {
        "Praise": pytest.approx({"precision": 2 / 4, "recall": 2 / 3, "f1": 4 / 7, "support": 3}),
        "Blame": pytest.approx({"precision": 1 / 3, "recall": 1 / 2, "f1": 2 / 5, "support": 2}),
    }
    assert found["confusion"] == {
        "labels": LABELS,
        "counts": [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 1], [0, 0, 0, 0, 0], [1, 0, 1, 1, 2]],
        "of": "rows",
    }


def test_macro_f1_is_over_the_relations_that_occur_and_zero_where_none_does(task: RelationExtraction) -> None:
    frame = labelled(("", "Praise(e1,e2)"), ("", "Other"))
    assert task.score(frame, certain(task, ["Praise(e1,e2)", "Blame(e1,e2)"])) == {"macro_f1": 1.0, "accuracy": 0.5}
    assert task.score(frame[1:], certain(task, ["Blame(e1,e2)"])) == {"macro_f1": 0.0, "accuracy": 0.0}


def test_without_a_negative_each_name_is_a_relation() -> None:
    task = RelationExtraction(Options(name="relation-extraction", labels=["Near", "In(e1,e2)"], negative=None))
    frame = labelled(("", "Near"), ("", "In(e1,e2)"))
    assert task.score(frame, certain(task, ["Near", "Near"])) == pytest.approx({"macro_f1": 1 / 3, "accuracy": 0.5})


# The whole road


def row(number: int) -> dict[str, str]:
    """Who is praised or blamed is said by the order of the entities, which only their markers tell."""
    chance = random.Random(number)
    name, words = chance.choice([("Praise", GOOD), ("Blame", BAD), ("Other", PLAIN)])
    first, second = chance.choice([("e1", "e2"), ("e2", "e1")])
    label = name if name == "Other" else f"{name}({first},{second})"
    one, other = chance.sample(THINGS, 2)
    text = f"<{first}>{one}</{first}> is {chance.choice(words)} <{second}>{other}</{second}> number {number:05d}"
    return {"text": text, "label": label}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace whose candidate was evaluated."""
    workspace = init(tmp_path_factory.mktemp("road") / "workspace", "relation-extraction")
    make_base(workspace.root / "base-models" / "tiny")
    set_params(
        workspace,
        task__labels=LABELS,
        model__base="tiny",
        encode__max_tokens=24,
        train__epochs=6,
        train__learning_rate=6e-3,
        train__head_learning_rate=6e-3,
        train__dropout=0.0,
        train__threads=1,
        evaluate__bootstrap=100,
    )
    rows = [row(number) for number in range(400)]
    bad = {"text": "the <e1>lamp</e1> alone", "label": "Other"}
    params = Params.read(workspace.params)
    file = write_csv(workspace.root / "rows.csv", [*rows, bad])
    add(workspace, Reader(file, params.ingest.columns, params.ingest.encodings, RelationExtraction.formats))
    for stage in (validate, split, encode, train, evaluate):
        stage.run(workspace, params)
    return workspace


def test_the_road_quarantines_what_is_unmarked_and_its_candidate_beats_what_was_before(workspace: Workspace) -> None:
    assert read_json(workspace.reports / "validation.json")["batches"][0]["reasons"] == {"text lacks markers": 1}
    models = read_json(workspace.evaluation / "evaluation.json")["models"]
    before, candidate = models["base"]["metrics"], models["candidate"]["metrics"]
    assert candidate["macro_f1"] > before["macro_f1"] + 0.2
    assert candidate["macro_f1"] > 0.9


def test_the_candidate_answers_by_the_order_of_the_entities_loaded_from_its_folder(workspace: Workspace) -> None:
    predictor = Predictor(workspace.candidate)
    texts = [
        "<e1>phone</e1> is lovely <e2>desk</e2> number 77",
        "<e2>phone</e2> is lovely <e1>desk</e1> number 77",
        "<e1>radio</e1> is flimsy <e2>clock</e2> number 78",
        "<e2>radio</e2> is metal <e1>clock</e1> number 79",
    ]
    predictions = predictor.predict(frame_of(texts))
    table = predictor.task.table(predictions)
    assert table["label"] == ["Praise(e1,e2)", "Praise(e2,e1)", "Blame(e1,e2)", "Other"]
    assert list(table) == ["label", *LABELS]
    assert predictor.task.say(predictions[1]) == f"Praise(e2,e1)\t{predictions[1].max():.3f}"


def test_a_file_with_a_text_that_is_not_marked_is_predicted_but_for_that_row(
    workspace: Workspace, tmp_path: Path
) -> None:
    rows = [{"text": "the <e1>lamp</e1> is in the <e2>desk</e2>"}, {"text": "the lamp is grey"}]
    good, bad = predict_file(workspace, rows, tmp_path)
    assert good["label"] and not good["problem"]
    assert not bad["label"] and bad["problem"] == "text lacks markers: <e1> </e1> <e2> </e2>"
