"""Several tasks at once: one encoder, a head for each, each judged by its own metrics."""

import json
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest
import torch
from tiny import BAD, GOOD, make_base, make_rows, set_params, tiny_params, write_csv

from staytuned import tasks
from staytuned.data import batches
from staytuned.data.readers import Reader
from staytuned.errors import ParamsError
from staytuned.files import read_json
from staytuned.params import Params
from staytuned.predictor import Predictor, frame_of
from staytuned.stages import encode, evaluate, split, train, validate
from staytuned.start import init
from staytuned.tasks.several_tasks import Options, SeveralTasks
from staytuned.workspace import Workspace

pytestmark = pytest.mark.xdist_group("great expectations")  # one worker imports it

TOPIC = {"name": "text-classification", "labels": ["good", "bad", "plain"], "label_from_rating": None}
STARS = {"name": "text-regression", "low": 1.0, "high": 5.0, "levels": None}
PARTS = [{"column": "topic", "task": TOPIC}, {"column": "stars", "task": STARS}]


@pytest.fixture(scope="module")
def task() -> SeveralTasks:
    return SeveralTasks(Options.model_validate({"name": "several-tasks", "parts": PARTS}))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace after all stages: what is good has 5 stars, what is bad 1, the rest 3."""
    folder = tmp_path_factory.mktemp("several") / "workspace"
    workspace = init(folder, "several-tasks")
    make_base(folder / "base-models" / "tiny")
    tiny_params(workspace, ingest__columns__label=None, ingest__columns__keep=["topic", "stars"])
    set_params(workspace, task={"name": "several-tasks", "parts": PARTS}, gate__bounds={"topic.accuracy": 0.5})
    rows: list[dict[str, Any]] = []
    for row in make_rows(400):
        words = set(row["text"].split())
        topic, stars = ("good", "5") if words & set(GOOD) else ("bad", "1") if words & set(BAD) else ("plain", "3")
        rows.append(row | {"topic": topic, "stars": stars})
    rows[0]["topic"], rows[1]["stars"], rows[2]["stars"] = "", "7", "many"
    params = Params.read(workspace.params)
    reader = Reader(write_csv(folder / "rows.csv", rows), params.ingest.columns, params.ingest.encodings)
    batches.add(workspace, reader)
    for stage in (validate, split, encode, train, evaluate):
        stage.run(workspace, params)
    return workspace


def test_each_part_is_judged_by_its_own_metrics_and_beats_what_there_was_before(workspace: Workspace) -> None:
    report = read_json(workspace.evaluation / "evaluation.json")
    candidate, base = (report["models"][name]["metrics"] for name in ("candidate", "base"))
    assert [metric["name"] for metric in report["metrics"]] == [
        "topic.macro_f1",
        "topic.accuracy",
        "topic.calibration_error",
        "stars.mae",
        "stars.spearman",
    ]
    assert candidate["topic.accuracy"] > base["topic.accuracy"]
    assert candidate["stars.mae"] < base["stars.mae"]


def test_a_prediction_has_an_answer_of_each_part(workspace: Workspace) -> None:
    predictor = Predictor(workspace.candidate)
    good, bad = predictor.predict(frame_of(["the lamp is great", "the lamp is awful"]))
    assert good["stars"] > bad["stars"]
    table = predictor.task.table([good, bad])
    assert list(table) == ["topic.label", "topic.good", "topic.bad", "topic.plain", "stars.value"]
    assert table["topic.label"] == ["good", "bad"]
    assert predictor.task.say(bad).startswith("topic: bad\t") and "\tstars: " in predictor.task.say(bad)


def test_a_row_that_one_part_cannot_use_is_quarantined_with_the_parts_reason(workspace: Workspace) -> None:
    told = pandas.read_csv(workspace.quarantine, dtype=str)["reasons"].tolist()
    assert told == [
        "has no label",
        "stars: label is not from 1 to 5: '7'",
        "stars: label is no finite number: 'many'",
    ]


def test_the_loss_is_the_sum_of_the_parts_losses(task: SeveralTasks) -> None:
    outputs = torch.tensor([[2.0, 0.0, 0.0, 0.5], [0.0, 1.0, 0.0, 1.0]])
    topic, stars = torch.tensor([0, 2]), torch.tensor([0.25, 1.0])
    expected = torch.nn.functional.cross_entropy(outputs[:, :3], topic) + (0.25**2 + 0) / 2
    assert float(task.loss(outputs, {"topic": topic, "stars": stars})) == pytest.approx(float(expected))


def test_labels_are_the_parts_columns_as_one_object(task: SeveralTasks) -> None:
    frame = pandas.DataFrame({"label": [None] * 2, "topic": ["good", None], "stars": ["4", "2"]}, dtype="object")
    first, second = task.labels(frame)
    assert json.loads(first) == {"topic": "good", "stars": "4"}
    assert pandas.isna(second)


def test_metrics_of_a_sum_are_those_of_the_parts(task: SeveralTasks) -> None:
    labels = [json.dumps({"topic": "good", "stars": "5"}), json.dumps({"topic": "bad", "stars": "1"})]
    frame = pandas.DataFrame({"label": labels})
    sure = [numpy.array([1.0, 0.0, 0.0]), numpy.array([1.0, 0.0, 0.0])]
    found = task.score(frame, [{"topic": sure[0], "stars": 4.0}, {"topic": sure[1], "stars": 3.0}])
    assert found["topic.accuracy"] == 0.5
    assert found["stars.mae"] == 1.5
    assert task.counted == ["topic.good", "topic.bad", "topic.plain"]
    statistics = task.statistics(frame, [{"topic": sure[0], "stars": 4.0}, {"topic": sure[1], "stars": 3.0}])
    assert task.counts(statistics).tolist() == [
        [[1, 0, 0], [1, 0, 0], [1, 0, 0]],  # a hit
        [[0, 0, 0], [1, 0, 0], [0, 1, 0]],
    ]


def errors(folder: Path, **changes: Any) -> str:
    workspace = init(folder / "workspace", "several-tasks")
    set_params(workspace, **changes)
    with pytest.raises(ParamsError) as caught:
        tasks.load(Params.read(workspace.params)).parts  # noqa: B018
    return str(caught.value)


def test_params_that_do_not_fit_together_are_told(tmp_path: Path) -> None:
    said = errors(tmp_path, ingest__columns__keep=["topic"], ingest__columns__label="topic")
    assert "task.parts: the labels of 'stars' are the column of that name, which ingest.columns.keep lacks" in said
    assert "ingest.columns.label: is set, but each part has a column of its own" in said


@pytest.mark.parametrize("name", ["sentence-pairs", "relation-extraction"])
def test_a_task_that_reads_other_tokens_is_no_part(tmp_path: Path, name: str) -> None:
    other = TOPIC | {"name": name} | ({"negative": None} if name == "relation-extraction" else {})
    said = errors(tmp_path, task__parts=[{"column": "topic", "task": other}, PARTS[1]])
    assert f"task.parts: {name!r} reads its rows in a way of its own" in said
