"""A champion that gives other answers than the params ask for: it is named before anything is compared."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny import make_rows, make_workspace, write_csv

from staytuned import road, tasks
from staytuned.entry_points import task_class
from staytuned.errors import ParamsError
from staytuned.files import read_json, write_json
from staytuned.params import Params
from staytuned.registry import pin
from staytuned.stages import encode, evaluate, split, train, validate
from staytuned.tasks.comparable import check_tokens
from staytuned.workspace import Workspace

CURE = "cannot be compared; set it back, or make a workspace of its own for it: `staytuned init DIR`"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The champion is the candidate itself."""
    folder = tmp_path_factory.mktemp("comparable")
    workspace = make_workspace(folder / "workspace")
    road.ingest(workspace, write_csv(folder / "rows.csv", make_rows(120)))
    params = Params.read(workspace.params)
    for stage in (validate, split, encode, train):
        stage.run(workspace, params)
    shutil.copytree(workspace.candidate, workspace.pin / "champion")
    write_json(workspace.pin / "pin.json", {"champion": {"version": 1, "weights": "its hash"}, "best": None})
    return workspace


def test_the_labels_that_it_learned_are_the_ones_it_is_judged_by(workspace: Workspace) -> None:
    pin.check_comparable(workspace, Params.read(workspace.params))


@pytest.mark.parametrize("labels", [["plain", "good", "bad"], ["bad", "good"], ["bad", "plain", "good", "odd"]])
def test_other_labels_or_another_order_are_refused(workspace: Workspace, labels: list[str]) -> None:
    params = Params.read(workspace.params)
    asked = params.model_copy(update={"task": params.task.model_copy(update={"labels": labels})})
    known = params.section("task")["labels"]
    assert known != labels
    with pytest.raises(ParamsError) as error:
        pin.check_comparable(workspace, asked)
    assert str(error.value) == (
        f"task is not what the champion learned: {known} then, {labels} now, and models of other answers {CURE}"
    )
    with pytest.raises(ParamsError, match="task is not what the champion learned"):
        evaluate.run(workspace, asked)


def task_of(name: str, **options: Any) -> tasks.Task:
    made = task_class(name)
    return made(made.Options.model_validate({"name": name, **made.start["task"], **options}))


@pytest.mark.parametrize(
    ("name", "same", "other"),
    [
        ("multi-label-classification", {"threshold": 0.4}, {"labels": ["battery", "sound"]}),
        ("token-classification", {"pieces": "all"}, {"types": ["person", "organization", "location"]}),
        ("text-regression", {}, {"high": 6.0}),
        ("text-regression", {}, {"low": None, "high": None, "levels": ["low", "high"]}),
        ("sentence-pairs", {"logit_adjustment": 1.0}, {"labels": ["same", "other"]}),
        ("language-modelling", {}, {"objective": "masked"}),
    ],
)
def test_what_counts_is_what_answers_are_made_of(name: str, same: dict[str, Any], other: dict[str, Any]) -> None:
    assert task_of(name).answers == task_of(name, **same).answers != task_of(name, **other).answers


def test_of_several_tasks_each_counts() -> None:
    parts = task_class("several-tasks").start["task"]["parts"]
    later = [parts[0], {"column": "stars", "task": parts[1]["task"] | {"high": 9.0}}]
    assert task_of("several-tasks", parts=parts).answers != task_of("several-tasks", parts=later).answers


def test_perplexities_of_other_tokens_are_not_compared(workspace: Workspace, tmp_path: Path) -> None:
    assert [task_of(name).counts_tokens for name in ("dialogue", "language-modelling", "text-generation")] == [1, 0, 0]
    assert task_of("language-modelling", objective="masked").counts_tokens
    other = Path(shutil.copytree(workspace.candidate, tmp_path / "other"))
    check_tokens([workspace.candidate, other])
    about = read_json(other / "tokenizer.json")
    about["truncation"] = None  # a setting, no vocabulary
    write_json(other / "tokenizer.json", about)
    check_tokens([workspace.candidate, other])
    about["model"]["vocab"]["finer"] = len(about["model"]["vocab"])
    write_json(other / "tokenizer.json", about)
    with pytest.raises(ParamsError, match=r"model\.base parts texts into other tokens than the champion does"):
        check_tokens([workspace.candidate, other])
