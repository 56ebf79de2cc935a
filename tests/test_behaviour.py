"""Behavioural checks: what is asked, what counts as passed, and what is refused."""

from pathlib import Path

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from staytuned import behaviour, start, tasks
from staytuned.errors import MissingError, ParamsError
from staytuned.params import Params
from staytuned.tasks import Task

ROWS = pandas.DataFrame({"text": [f"row {number} is good." for number in range(300)]})


def by_word(texts: list[str]) -> list[str]:
    """A model that knows one word, in small letters only."""
    return ["positive" if "good" in text else "negative" for text in texts]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    workspace = start.init(tmp_path_factory.mktemp("behaviour") / "workspace")
    return tasks.load(Params.read(workspace.params))


def written(path: Path, text: str) -> Path:
    (path / "behaviour.yaml").write_text(text, encoding="utf-8")
    return path / "behaviour.yaml"


def found(path: Path, task: Task, text: str) -> dict:
    return behaviour.examine(behaviour.read(written(path, text), task), ROWS, by_word, 7)


def test_texts_must_get_their_label(tmp_path: Path, task: Task) -> None:
    text = "[{name: praise, share: 0.5, label: positive, texts: [good, Good, very good]}]"
    assert found(tmp_path, task, text) == {"praise": {"passed": 2, "cases": 3, "share": 0.5, "failed": ["Good"]}}


def test_both_texts_of_a_pair_must_get_one_answer(tmp_path: Path, task: Task) -> None:
    outcome = found(tmp_path, task, "[{name: names, share: 1.0, pairs: [[Tom is good, Ana is good], [good, bad]]}]")
    assert outcome["names"]["passed"] == 1
    assert outcome["names"]["failed"] == ["good"]


def test_a_change_may_not_change_the_answer_on_test_rows(tmp_path: Path, task: Task) -> None:
    text = "[{name: capitals, share: 0.9, change: case}, {name: full stop, share: 0.9, change: punctuation}]"
    outcome = found(tmp_path, task, text)
    assert outcome["capitals"] | {"failed": []} == {"passed": 0, "cases": 100, "share": 0.9, "failed": []}
    assert outcome["full stop"]["passed"] == 100


def test_the_same_seed_asks_the_same(tmp_path: Path, task: Task) -> None:
    text = "[{name: typos, share: 0.9, change: typo}]"
    assert found(tmp_path, task, text) == found(tmp_path, task, text)


@given(text=st.text(max_size=60), seed=st.integers(0, 99))
def test_a_typo_keeps_all_letters(text: str, seed: int) -> None:
    import random

    changed = behaviour.CHANGES["typo"](text, random.Random(seed))
    assert sorted(changed) == sorted(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[{name: a, share: 1.0}]", "0: Value error, needs one of: texts with label, pairs, change"),
        ("[{name: a, share: 1.0, texts: [x]}]", "needs one of: texts with label, pairs, change"),
        ("[{name: a, share: 2.0, change: case}]", "0.share: Input should be less than or equal to 1"),
        ("[{name: a, share: 1.0, change: upside}]", "0.change: Input should be 'case', 'typo'"),
        (
            "[{name: a, share: 1.0, label: angry, texts: [x]}]",
            "the label 'angry' is none of the task's; known: negative",
        ),
        ("[{name: a, share: 1.0, change: case}, {name: a, share: 0.5, change: typo}]", "repeats ['a']; name each once"),
        ("[{", "is not valid YAML"),
    ],
)
def test_what_is_no_check_is_refused(tmp_path: Path, task: Task, text: str, said: str) -> None:
    with pytest.raises(ParamsError) as error:
        behaviour.read(written(tmp_path, text), task)
    assert said in str(error.value)


def test_a_missing_file_is_no_suite_that_passes(tmp_path: Path, task: Task) -> None:
    with pytest.raises(MissingError, match=r"`\[\]` stands for no checks"):
        behaviour.read(tmp_path / "behaviour.yaml", task)


@pytest.mark.parametrize("name", ["text-classification", "token-classification"])
def test_a_new_workspace_has_the_checks_that_its_task_can_use(tmp_path: Path, name: str) -> None:
    workspace = start.init(tmp_path / "own", name)
    checks = behaviour.read(workspace.behaviour, tasks.load(Params.read(workspace.params)))
    assert {check.change for check in checks} == (
        set() if name == "token-classification" else {"case", "typo", "spaces", "punctuation"}
    )


def test_a_task_without_labels_for_texts_refuses_checks(tmp_path: Path) -> None:
    workspace = start.init(tmp_path / "own", "token-classification")
    task = tasks.load(Params.read(workspace.params))
    with pytest.raises(ParamsError, match="checks are for tasks that give one text a label"):
        behaviour.read(written(tmp_path, "[{name: a, share: 1.0, change: case}]"), task)


def test_the_examples_checks_ask_for_praise_negation_names_hardly_any_text_and_every_change(tmp_path: Path) -> None:
    workspace = start.make(tmp_path / "workspace")
    checks = behaviour.read(workspace.behaviour, tasks.load(Params.read(workspace.params)))
    assert len(checks) >= 12 and all(check.share >= 0.6 for check in checks)
    assert {check.label for check in checks if check.texts} == {"negative", "neutral", "positive"}
    assert {check.change for check in checks if check.change} == {"case", "typo", "spaces", "punctuation"}
    assert {"negated praise", "names swapped", "hardly any text"} <= {check.name for check in checks}
    assert all(len(check.texts or check.pairs or range(100)) >= 4 for check in checks)
