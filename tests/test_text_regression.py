"""Text regression: numbers and levels in and out, SciPy's own correlation, the whole road."""

import random
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import mean_absolute_error
from tiny import BAD, GOOD, PLAIN, THINGS, make_base, set_params, write_csv
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
from staytuned.tasks.text_regression import Options, TextRegression
from staytuned.workspace import Workspace

LEVELS = ["low", "middle", "high"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "tiny")


def numbers(low: float = 1.0, high: float = 5.0) -> TextRegression:
    return TextRegression(Options(name="text-regression", low=low, high=high, levels=None))


def levels() -> TextRegression:
    return TextRegression(Options(name="text-regression", low=None, high=None, levels=LEVELS))


def labelled(*labels: str | None) -> pandas.DataFrame:
    texts = [f"the lamp number {place}" for place in range(len(labels))]
    return pandas.DataFrame({"text": texts, "text_pair": None, "label": list(labels)}, dtype="str")


def examples_of(task: TextRegression, base: Path, frame: pandas.DataFrame) -> Examples:
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    task.adapt(tokenizer, 32)
    table = task.encode(tokenizer, frame)
    return Examples(table.append_column("row", table["place"].cast("string")))


@pytest.mark.parametrize(
    ("task", "label", "fault"),
    [
        (numbers(), "1", None),
        (numbers(), " 4.5e0 ", None),
        (numbers(), None, None),  # the contract itself says that there is no label
        (numbers(), "5.01", "label is not from 1 to 5: '5.01'"),
        (numbers(), "-inf", "label is no finite number: '-inf'"),
        (numbers(), "nan", "label is no finite number: 'nan'"),
        (numbers(), "high", "label is no finite number: 'high'"),
        (levels(), "high", None),
        (levels(), "2", "label is none of low, middle, high: '2'"),
    ],
)
def test_each_fault_is_told_with_what_the_row_holds(task: TextRegression, label: str, fault: str | None) -> None:
    assert task.faults(labelled(label)) == [fault]


@pytest.mark.parametrize(
    ("task", "given", "expected"),
    [
        (numbers(), ("1", "2", "5", None), [-1, -0.5, 1, numpy.nan]),
        (numbers(-2, 0), ("-2", "-0.5", "0"), [-1, 0.5, 1]),
        (levels(), ("low", "middle", "high", None), [-1, 0, 1, numpy.nan]),
    ],
)
def test_labels_are_learned_on_the_scale_from_minus_1_to_1(
    base: Path, task: TextRegression, given: tuple[str | None, ...], expected: list[float]
) -> None:
    examples = examples_of(task, base, labelled(*given))
    assert examples.column("target").tolist() == pytest.approx(expected, nan_ok=True)
    batch = task.batch(examples, [1, 0], None)
    assert batch.targets.tolist() == pytest.approx([expected[1], expected[0]])
    loss = task.loss(torch.tensor([[expected[1] + 0.1], [expected[0] - 0.3]]), batch.targets)
    assert loss.item() == pytest.approx((0.01 + 0.09) / 2)


def test_no_rows_have_the_same_columns_as_some(base: Path) -> None:
    task = numbers()
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    task.adapt(tokenizer, 32)
    empty, some = task.encode(tokenizer, labelled()), task.encode(tokenizer, labelled("3"))
    assert empty.schema == some.schema and len(empty) == 0


def test_predictions_are_in_the_range_and_levels_the_nearest_ones() -> None:
    said = [numpy.array([value], numpy.float32) for value in (-1.5, -0.75, 0.48, 0.52, 1.5)]
    nothing: Any = None
    assert numbers().decode(nothing, nothing, said) == pytest.approx([1, 1.5, 3.96, 4.04, 5])
    assert numbers().table([1.0, 1.5]) == {"value": [1.0, 1.5]}
    found = levels().decode(nothing, nothing, said)
    assert levels().table(found) == {
        "level": ["low", "low", "middle", "high", "high"],
        "value": [0.0, 0.0, 1.0, 2.0, 2.0],
    }
    assert levels().say(found[2]) == "middle\t1.0"


values = st.lists(st.tuples(st.integers(1, 5), st.floats(1, 5)), min_size=2, max_size=40)


@settings(max_examples=100, deadline=None)
@given(values)
def test_metrics_are_those_of_scikit_learn_and_scipy(rows: list[tuple[int, float]]) -> None:
    truth, said = map(numpy.array, zip(*rows, strict=True))
    found = numbers().score(labelled(*map(str, truth.tolist())), said.tolist())
    assert found["mae"] == pytest.approx(mean_absolute_error(truth, said))
    constant = len(set(truth)) == 1 or len(set(said)) == 1
    assert found["spearman"] == pytest.approx(0 if constant else spearmanr(truth, said).statistic, abs=1e-9)


def test_on_a_part_of_the_rows_the_correlation_is_that_of_the_ranks_among_all() -> None:
    task, truth, said = numbers(), [1, 2, 3, 4, 5, 1], [1.0, 1.5, 4.0, 3.0, 5.0, 2.0]
    statistics = task.statistics(labelled(*map(str, truth)), said)
    part = task.measure(statistics[[0, 2, 3]].sum(axis=0))
    ranks = [[1.5, 4, 5], [1, 5, 4]]
    assert float(part["spearman"]) == pytest.approx(numpy.corrcoef(ranks)[0, 1])
    twice = task.measure(numpy.stack([statistics.sum(axis=0), 2 * statistics.sum(axis=0), 7 * statistics[1]]))
    assert twice["spearman"] == pytest.approx([spearmanr(truth, said).statistic] * 2 + [0])
    assert twice["mae"] == pytest.approx([3.5 / 6, 3.5 / 6, 0.5])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task__low": 5.0}, r"task\.low: is 5\.0, not under task\.high, which is 5\.0"),
        ({"task__low": None}, r"task\.low or task\.high is null; set both .*, or set task\.levels"),
        ({"task__levels": LEVELS}, r"task\.levels, task\.low and task\.high are set"),
        ({"task__levels": ["a", "a"], "task__low": None, "task__high": None}, r"task\.levels: repeats \['a'\]"),
    ],
)
def test_params_that_contradict_each_other_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    workspace = init(tmp_path / "numbers", "text-regression")
    assert Params.read(workspace.params).section("task")["levels"] is None
    set_params(workspace, **changes)
    with pytest.raises(ParamsError, match=said):
        Params.read(workspace.params)


def make_workspace(folder: Path, **changes: Any) -> Workspace:
    workspace = init(folder, "text-regression")
    make_base(workspace.root / "base-models" / "tiny")
    tiny: dict[str, Any] = {
        "model__base": "tiny",
        "encode__max_tokens": 32,
        "train__epochs": 6,
        "train__learning_rate": 6e-3,
        "train__head_learning_rate": 6e-3,
        "train__dropout": 0.0,
        "train__patience": 12,
        "train__threads": 1,
        "evaluate__bootstrap": 200,
    }
    set_params(workspace, **tiny | changes)
    return workspace


def make_rows(count: int, names: list[str]) -> list[dict[str, Any]]:
    """Good, plain and bad words, one of each text, as the last, the middle and the first of the names."""
    chance, rows = random.Random(1), []
    for number in range(count):
        name, kind = chance.choice(list(zip(names, (BAD, PLAIN, GOOD), strict=True)))
        text = f"the {chance.choice(THINGS)} is {chance.choice(kind)} number {number:05d}"
        rows.append({"text": text, "label": name})
    return rows


@pytest.mark.xdist_group("great expectations")  # one worker imports it
def test_the_whole_road_of_numbers(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "numbers")
    params = Params.read(workspace.params)
    rows = write_csv(tmp_path / "rows.csv", [*make_rows(400, ["1", "2.5", "5"]), {"text": "a lamp", "label": "6"}])
    add(workspace, Reader(rows, params.ingest.columns, ["utf-8"]))
    for stage in (validate, split, encode, train, evaluate):
        stage.run(workspace, params)
    (batch,) = read_json(workspace.reports / "validation.json")["batches"]
    assert (batch["accepted"], batch["reasons"]) == (400, {"label is not from 1 to 5": 1})
    report = read_json(workspace.evaluation / "evaluation.json")
    candidate, before = (report["models"][name]["metrics"] for name in ("candidate", "base"))
    assert candidate["mae"] < 0.5 < before["mae"] and candidate["spearman"] > max(0.85, before["spearman"])
    said = Predictor(workspace.candidate).predict(frame_of(["the desk is great number 00512"] * 2))
    assert said == pytest.approx([5, 5], abs=0.7)


@pytest.mark.xdist_group("great expectations")
def test_levels_each_need_rows_and_are_learned_from_them(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "levels", task__low=None, task__high=None, task__levels=LEVELS)
    params = Params.read(workspace.params)
    add(workspace, Reader(write_csv(tmp_path / "rows.csv", make_rows(400, LEVELS)), params.ingest.columns, ["utf-8"]))
    for stage in (validate, split, encode, train, evaluate):
        stage.run(workspace, params)
    assert set(read_json(workspace.reports / "split.json")["labels"]["train"]) == set(LEVELS)
    predictor = Predictor(workspace.candidate)
    texts = [f"the desk is {word} number 00512" for word in ("dull", "square", "great")]
    assert predictor.task.table(predictor.predict(frame_of(texts)))["level"] == LEVELS
