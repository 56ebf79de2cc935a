"""Learning from a batch in parts: the same gradient, less memory, and a word about it where that does not suffice."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_loop import examples_of, fitted, fresh_model, tuned, validation_side, workspace  # noqa: F401 - a fixture
from tiny import set_params

from staytuned import tasks
from staytuned.entry_points import task_class
from staytuned.errors import ParamsError, StageError, TrainingError
from staytuned.modelling.examples import NOTHING
from staytuned.params import Params
from staytuned.start import init
from staytuned.tasks import Batch
from staytuned.training.loop import fit
from staytuned.training.step import _gradient
from staytuned.workspace import Workspace

TASK = "token-classification"


class Tags(torch.nn.Module):
    """Logits of three tags for each token."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(9, 3)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.table(input_ids)
        return logits


@pytest.fixture(scope="module")
def of_tags(tmp_path_factory: pytest.TempPathFactory) -> Params:
    return Params.read(init(tmp_path_factory.mktemp("tags") / "workspace", TASK).params)


@settings(deadline=None)
@given(
    labelled=st.lists(st.integers(0, 5), min_size=1, max_size=9),  # tokens of each row that are learned from
    rows=st.integers(1, 9),
)
def test_parts_of_a_batch_give_its_gradient_however_unlike_they_are(
    of_tags: Params, labelled: list[int], rows: int
) -> None:
    task = task_class(TASK)(of_tags.task)
    ids = torch.arange(5 * len(labelled)).reshape(-1, 5) % 9
    targets = torch.where(torch.arange(5) < torch.tensor(labelled).unsqueeze(1), ids % 3, NOTHING)
    found = []
    for micro_batch in (None, rows):
        model = Tags()
        options = of_tags.train.model_copy(update={"micro_batch": micro_batch})
        loss = _gradient(task, model, Batch({"input_ids": ids}, targets), options)
        found.append((loss, model.table.weight.grad))
    torch.testing.assert_close(found[1], found[0])


def test_a_training_in_parts_comes_out_the_same(workspace: Workspace) -> None:
    params = tuned(Params.read(workspace.params), epochs=1)
    whole, parts = fitted(workspace, params), fitted(workspace, tuned(params, micro_batch=7))
    for name, weights in whole[0].items():
        torch.testing.assert_close(parts[0][name], weights, atol=1e-3, rtol=1e-3)


class Large(torch.nn.Module):
    """A model for which more than four rows are too many, to learn from or to be asked about."""

    def __init__(self, model: torch.nn.Module, learning: bool) -> None:
        super().__init__()
        self.model, self.learning = model, learning

    def forward(self, **inputs: torch.Tensor) -> Any:
        if self.training >= self.learning and len(inputs["input_ids"]) > 4:
            torch.empty(1 << 50)
        return self.model(**inputs)


def learn_large(workspace: Workspace, params: Params, learning: bool) -> None:
    sides = examples_of(workspace, "train"), validation_side(workspace)
    model = Large(fresh_model(workspace), learning)
    fit(tasks.load(params), model, *sides, params.train, lambda point: None, lambda: None)


@pytest.mark.parametrize("learning", [True, False], ids=["for a step", "for an evaluation"])
def test_where_memory_does_not_suffice_it_says_what_to_lower(workspace: Workspace, learning: bool) -> None:
    params = tuned(Params.read(workspace.params), epochs=1)
    said = r"for \d+ rows of up to \d+ tokens at once .*can't allocate memory.*set train.micro_batch to \d+,"
    with pytest.raises(TrainingError, match=said):
        learn_large(workspace, params, learning)
    learn_large(workspace, tuned(params, micro_batch=4), learning)


def test_a_task_that_compares_the_rows_of_a_batch_takes_it_whole(tmp_path: Path) -> None:
    workspace = init(tmp_path / "workspace", "sentence-retrieval")
    set_params(workspace, train__micro_batch=8)
    with pytest.raises(ParamsError, match="train: micro_batch must be null and processes 1"):
        Params.read(workspace.params)


def test_a_stage_that_the_kernel_killed_names_memory() -> None:
    assert "mostly for want of memory: lower train.micro_batch" in str(StageError("train", -9))
    assert str(StageError("train", 70)).endswith("its message is above")
