"""Rare labels: while it learns, the logit of a label is raised by how frequent the label is."""

import math

import numpy
import pyarrow
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import set_params
from torch.nn.functional import cross_entropy

from staytuned.errors import ParamsError
from staytuned.modelling.examples import Examples
from staytuned.params import Params
from staytuned.start import init
from staytuned.tasks.several_tasks import Options as SeveralOptions
from staytuned.tasks.several_tasks import SeveralTasks
from staytuned.tasks.text_classification import Options, TextClassification
from staytuned.workspace import Workspace

COMMON, RARE = 0, 1


def examples(**classes: list[int]) -> Examples:
    """Rows of one token, each of a class, in columns of these names."""
    rows = len(next(iter(classes.values())))
    columns = {"row": [f"batch:{number}" for number in range(rows)], "input_ids": [[1]] * rows}
    return Examples(pyarrow.table(columns | {name: numpy.int16(values) for name, values in classes.items()}))


def part(adjustment: float) -> dict[str, object]:
    """Its section of the params."""
    return {
        "name": "text-classification",
        "labels": ["common", "rare", "never"],
        "label_from_rating": None,
        "logit_adjustment": adjustment,
    }


def task(adjustment: float) -> TextClassification:
    return TextClassification(Options.model_validate(part(adjustment)))


def test_the_loss_is_that_of_logits_raised_by_the_logarithm_of_each_labels_share() -> None:
    made = task(1.0)
    made.look_at(
        examples(**{"class": [COMMON] * 14 + [RARE] * 5})
    )  # one more of each, so that none has a share of 0: 15, 6, 1
    outputs = torch.tensor([[0.3, -0.2, 0.5], [1.0, 2.0, -1.0]])
    targets = torch.tensor([COMMON, RARE])
    raised = outputs + torch.tensor([math.log(15 / 22), math.log(6 / 22), math.log(1 / 22)])
    assert float(made.loss(outputs, targets)) == pytest.approx(float(cross_entropy(raised, targets)))


def test_without_it_the_loss_is_plain_cross_entropy_to_the_bit() -> None:
    made = task(0.0)
    made.look_at(examples(**{"class": [COMMON] * 14 + [RARE] * 5}))
    outputs, targets = torch.randn(8, 3), torch.randint(0, 3, (8,))
    assert torch.equal(made.loss(outputs, targets), cross_entropy(outputs, targets))


@given(common=st.integers(2, 400), rare=st.integers(1, 400))
def test_a_model_that_sees_nothing_in_a_text_holds_all_labels_for_equally_likely(common: int, rare: int) -> None:
    """Of outputs that are the same for all rows, equal ones have the least loss."""
    made = task(1.0)
    made.look_at(examples(**{"class": [COMMON] * (common - 1) + [RARE] * (rare - 1) + [2] * (rare - 1)}))
    outputs = torch.zeros(1, 3, requires_grad=True)
    shares = numpy.array([common, rare, rare]) / (common + 2 * rare)
    loss = sum(share * made.loss(outputs, torch.tensor([label])) for label, share in enumerate(shares.tolist()))
    loss.backward()
    assert outputs.grad.abs().max() < 1e-6


def test_each_part_of_several_tasks_counts_its_own_labels() -> None:
    parts = [{"column": "topic", "task": part(1.0)}, {"column": "tone", "task": part(0.0)}]
    made = SeveralTasks(SeveralOptions.model_validate({"name": "several-tasks", "parts": parts}))
    topics = [COMMON] * 14 + [RARE] * 5
    made.look_at(examples(**{"topic.class": topics, "tone.class": [RARE] * 19}))
    outputs, targets = torch.randn(4, 6), torch.randint(0, 3, (4,))
    alone = task(1.0)
    alone.look_at(examples(**{"class": topics}))
    expected = alone.loss(outputs[:, :3], targets) + cross_entropy(outputs[:, 3:], targets)
    assert torch.allclose(made.loss(outputs, {"topic": targets, "tone": targets}), expected)


@pytest.fixture
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return init(tmp_path_factory.mktemp("adjusted") / "workspace")


def test_more_than_all_the_way_is_refused(workspace: Workspace) -> None:
    set_params(workspace, task__logit_adjustment=1.5)
    with pytest.raises(ParamsError, match=r"task\.logit_adjustment"):
        Params.read(workspace.params)
