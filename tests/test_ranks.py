"""Several processes learn what one does."""

import csv

import pytest
from test_loop import tuned, workspace  # noqa: F401 - a fixture
from tiny import set_params

from staytuned.errors import ParamsError, TrainingError
from staytuned.params import Params
from staytuned.stages import train
from staytuned.workspace import Workspace


def points(workspace: Workspace) -> list[list[float]]:
    """The curve of the last training."""
    with workspace.curve.open(encoding="utf-8", newline="") as handle:
        return [[float(value) for value in row.values()] for row in csv.DictReader(handle)]


def test_two_processes_have_the_losses_of_one_at_the_same_batch_though_their_shares_are_unequal(
    workspace: Workspace,
) -> None:
    found = []
    for processes in (1, 2):
        # of 9 rows one has 5, the other 4
        set_params(workspace, train__processes=processes, train__batch_size=9, train__epochs=1, train__sharpness=0.0)
        train.run(workspace, Params.read(workspace.params))
        found.append(points(workspace))
    assert len(found[0]) == 2
    for before, after in zip(*found, strict=True):
        assert after == pytest.approx(before, rel=1e-4)


def test_what_ends_another_process_is_said(workspace: Workspace) -> None:
    set_params(workspace, train__processes=3)  # which the other one reads
    params = tuned(Params.read(workspace.params), processes=2)
    with pytest.raises(
        TrainingError, match=r"process 2 of training ended with status 78: (?s:.*)error: train\.processes is 3, but 2"
    ):
        train.run(workspace, params)


def test_a_launcher_that_started_another_number_of_processes_is_refused(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    set_params(workspace, train__processes=2)
    with pytest.raises(ParamsError, match=r"train\.processes is 2, but 3 were started"):
        train.run(workspace, Params.read(workspace.params))
