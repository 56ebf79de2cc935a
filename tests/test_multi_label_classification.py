"""Multi-label classification: labels in and out, the loss, scikit-learn's own figures, the whole road."""

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
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support
from tiny import BAD, GOOD, PLAIN, make_base, set_params, write_csv
from tokenizers import Tokenizer

from staytuned.data.batches import add
from staytuned.data.readers import Reader
from staytuned.errors import ParamsError
from staytuned.files import read_json
from staytuned.modelling.examples import Examples
from staytuned.params import Params
from staytuned.predictor import Predictor, frame_of
from staytuned.stages import encode, evaluate, split, train, validate
from staytuned.start import init
from staytuned.tasks.multi_label_classification import MultiLabelClassification, Options

LABELS = ["praise", "blame", "looks"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "tiny")


def made(threshold: float = 0.5) -> MultiLabelClassification:
    return MultiLabelClassification(Options(name="multi-label-classification", labels=LABELS, threshold=threshold))


def labelled(*labels: str | None) -> pandas.DataFrame:
    texts = [f"the lamp number {place}" for place in range(len(labels))]
    return pandas.DataFrame({"text": texts, "text_pair": None, "label": list(labels)}, dtype="str")


def examples_of(task: MultiLabelClassification, base: Path, frame: pandas.DataFrame) -> Examples:
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    task.adapt(tokenizer, 32)
    table = task.encode(tokenizer, frame)
    return Examples(table.append_column("row", table["place"].cast("string")))


@pytest.mark.parametrize(
    ("given", "kept", "fault"),
    [
        ("praise", '["praise"]', None),
        ("praise|looks", '["praise", "looks"]', None),
        (" praise | looks ", '["praise", "looks"]', None),
        ('["looks", "blame"]', '["looks", "blame"]', None),
        ("[]", "[]", None),
        (None, None, None),  # the contract itself says that there is no label
        ("praise|price", '["praise", "price"]', "label is none of praise, blame, looks: 'price'"),
        ("praise|", '["praise", ""]', "label is none of praise, blame, looks: ''"),
        ("praise|praise", '["praise", "praise"]', "label stands twice: 'praise'"),
        ('["praise"', '["praise"', "label is no list of labels: '[\"praise\"'"),
        ("[1]", "[1]", "label is no list of labels: '[1]'"),
    ],
)
def test_labels_are_kept_as_lists_and_each_fault_is_told(given: str, kept: str | None, fault: str | None) -> None:
    frame = labelled(given)
    frame["label"] = made().labels(frame)
    assert frame["label"].dropna().tolist() == ([] if kept is None else [kept])
    assert made().faults(frame) == [fault]


def test_the_loss_is_the_mean_over_rows_and_labels_of_each_binary_cross_entropy(base: Path) -> None:
    task = made()
    examples = examples_of(task, base, labelled('["looks", "praise"]', "[]", None))
    batch = task.batch(examples, [0, 1, 2], None)
    assert batch.targets.tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]
    shares = torch.tensor([[0.9, 0.2, 0.5], [0.1, 0.1, 0.7], [0.5, 0.5, 0.5]])
    wanted = [0.9, 0.8, 0.5, 0.9, 0.9, 0.3, 0.5, 0.5, 0.5]
    assert task.loss(torch.logit(shares), batch.targets).item() == pytest.approx(-numpy.log(wanted).mean(), rel=1e-5)


def test_no_rows_have_the_same_columns_as_some(base: Path) -> None:
    task = made()
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    task.adapt(tokenizer, 32)
    empty, some = task.encode(tokenizer, labelled()), task.encode(tokenizer, labelled("[]"))
    assert empty.schema == some.schema and len(empty) == 0


def test_a_label_is_given_from_the_threshold_on() -> None:
    task, logits = made(threshold=0.6), numpy.log(numpy.array([[1.5, 0.25, 9.0], [1.4, 1.0, 0.1]], numpy.float32))
    predictions = task.decode(labelled(None, None), None, list(logits))  # type: ignore[arg-type]
    assert numpy.stack(predictions) == pytest.approx(numpy.array([[0.6, 0.2, 0.9], [7 / 12, 0.5, 1 / 11]]))
    predictions[0][0] = 0.6
    table = task.table(predictions)
    assert list(table) == ["labels", *LABELS] and table["labels"] == ["praise|looks", ""]
    assert table["blame"] == pytest.approx([0.2, 0.5])
    assert [task.say(one) for one in predictions] == ["praise\t0.600\tlooks\t0.900", "(no label)"]


sets = st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(sets, st.randoms(use_true_random=False))
def test_metrics_are_those_of_scikit_learn(rows: list[list[bool]], chance: random.Random) -> None:
    task, truth = made(), numpy.array(rows)
    said = numpy.array([[chance.random() for _ in LABELS] for _ in rows])
    frame = labelled(*(json.dumps(numpy.array(LABELS)[row].tolist()) for row in truth))
    found, given = task.score(frame, list(said)), said >= 0.5
    occurs = numpy.flatnonzero(truth.any(axis=0))
    macro = f1_score(truth, given, labels=occurs, average="macro", zero_division=0) if len(occurs) else 0
    assert found["macro_f1"] == pytest.approx(macro)
    assert found["micro_f1"] == pytest.approx(f1_score(truth, given, average="micro", zero_division=0))
    assert found["subset_accuracy"] == pytest.approx(accuracy_score(truth, given))
    expected = precision_recall_fscore_support(truth, given, zero_division=0)
    per_class = task.details(frame, list(said))["per_class"]
    assert list(per_class) == LABELS
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert [row[name] for row in per_class.values()] == pytest.approx(list(values))


def test_labels_that_a_csv_file_could_not_tell_apart_are_refused(tmp_path: Path) -> None:
    workspace = init(tmp_path / "labels", "multi-label-classification")
    assert Params.read(workspace.params).task.threshold == 0.5  # type: ignore[attr-defined]
    set_params(workspace, task__labels=["a|b", "[c", "d"])
    with pytest.raises(ParamsError, match=r"task\.labels: holds \['a\|b', '\[c'\], but '\|' parts labels"):
        Params.read(workspace.params)
    set_params(workspace, task__labels=["a", "a"])
    with pytest.raises(ParamsError, match=r"task\.labels: repeats \['a'\]"):
        Params.read(workspace.params)


def make_rows(count: int) -> list[dict[str, Any]]:
    """Each of three kinds of words, on its own, is there or is not."""
    chance, rows = random.Random(1), []
    for number in range(count):
        words = {name: chance.choice(kind) for name, kind in zip(LABELS, (GOOD, BAD, PLAIN), strict=True)}
        given = [name for name in LABELS if chance.random() < 0.5] or ["looks"]
        text = " ".join([*(words[name] for name in given), f"{number:03d}"])
        rows.append({"text": text, "label": "|".join(given)})
    return rows


@pytest.mark.xdist_group("great expectations")  # one worker imports it
def test_the_whole_road_from_csv_to_labels(tmp_path: Path) -> None:
    workspace = init(tmp_path / "labels", "multi-label-classification")
    make_base(workspace.root / "base-models" / "tiny")
    set_params(
        workspace,
        model__base="tiny",
        task__labels=LABELS,
        encode__max_tokens=32,
        train__epochs=16,
        train__batch_size=16,
        train__learning_rate=3e-3,
        train__head_learning_rate=3e-3,
        train__dropout=0.0,
        train__evaluations_per_epoch=1,
        train__threads=1,
        evaluate__bootstrap=200,
    )
    params = Params.read(workspace.params)
    rows = write_csv(tmp_path / "rows.csv", [*make_rows(400), {"text": "a lamp", "label": "price"}])
    add(workspace, Reader(rows, params.ingest.columns, ["utf-8"]))
    for stage in (validate, split, encode, train, evaluate):
        stage.run(workspace, params)
    (batch,) = read_json(workspace.reports / "validation.json")["batches"]
    assert (batch["accepted"], batch["reasons"]) == (400, {"label is none of praise, blame, looks": 1})
    report = read_json(workspace.evaluation / "evaluation.json")
    candidate, before = (report["models"][name]["metrics"] for name in ("candidate", "base"))
    assert candidate["macro_f1"] > max(0.95, before["macro_f1"]) and candidate["subset_accuracy"] > 0.9
    assert before["macro_f1"] > 0.3
    predictor = Predictor(workspace.candidate)
    said = predictor.predict(frame_of(["great dull 512", "plain 731"]))
    assert predictor.task.table(said)["labels"] == ["praise|blame", "looks"]
