"""Several processes learn what one does."""

import csv
import subprocess
import sys
from typing import Any

import pytest
from safetensors.torch import load_file
from test_loop import tuned, workspace  # noqa: F401 - a fixture
from tiny import set_params

from staytuned.errors import ParamsError, TrainingError
from staytuned.files import sha256
from staytuned.params import Params
from staytuned.stages import train
from staytuned.training.loop import fit
from staytuned.workspace import Workspace


def points(workspace: Workspace) -> list[list[float]]:
    """The curve of the last training."""
    with workspace.curve.open(encoding="utf-8", newline="") as handle:
        return [[float(value) for value in row.values()] for row in csv.DictReader(handle)]


def test_two_processes_have_the_losses_of_one_at_the_same_batch_though_their_shares_are_unequal(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "nobody")  # of an earlier launcher: nobody is asked where none started us
    found = []
    for processes in (1, 2):
        # of 9 rows one has 5, the other 4
        set_params(workspace, train__processes=processes, train__batch_size=9, train__epochs=1, train__sharpness=0.0)
        train.run(workspace, Params.read(workspace.params))
        found.append(points(workspace))
    assert len(found[0]) == 2
    for before, after in zip(*found, strict=True):
        assert after == pytest.approx(before, rel=1e-4)


def test_processes_that_a_launcher_started_learn_what_our_own_do(workspace: Workspace) -> None:
    set_params(workspace, train__processes=2)
    train.run(workspace, Params.read(workspace.params))
    expected = sha256(workspace.candidate / "model.safetensors")
    (workspace.candidate / "model.safetensors").unlink()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*launcher, "-m", "staytuned.stages", "train"], cwd=workspace.root, check=True, timeout=300)
    assert sha256(workspace.candidate / "model.safetensors") == expected


@pytest.mark.parametrize("sharpness", [0.0, 0.05])
def test_a_model_in_shares_learns_what_a_whole_one_does(workspace: Workspace, sharpness: float) -> None:
    found = []
    for processes, sharded in ((1, False), (2, True)):
        options = {"train__processes": processes, "train__sharded": sharded, "train__sharpness": sharpness}
        # of 9 rows, 2 at once: one process reads three times, the other twice and then some row that does not count
        set_params(workspace, train__batch_size=9, train__micro_batch=2, train__epochs=1, **options)
        train.run(workspace, Params.read(workspace.params))
        weights = load_file(workspace.candidate / "model.safetensors")
        found.append((points(workspace), weights))
    (curve, weights), (curve_in_shares, weights_in_shares) = found
    for before, after in zip(curve, curve_in_shares, strict=True):
        assert after == pytest.approx(before, rel=1e-3)
    assert weights.keys() == weights_in_shares.keys()
    for name, whole in weights.items():
        if not name.endswith("key.bias"):  # softmax does not see it: its gradient is rounding, which AdamW makes large
            assert weights_in_shares[name] == pytest.approx(whole, abs=2e-3), name


def test_a_model_in_shares_that_is_cut_off_goes_on_to_the_same_bits(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> str:
        train.run(workspace, Params.read(workspace.params))
        return sha256(workspace.candidate / "model.safetensors")

    class Cut(Exception):
        """What ends a training before its time."""

    def cut_off(*arguments: Any) -> None:
        *rest, step_done, checkpoints, losses_seen = arguments
        steps = iter(range(1, 6))

        def count() -> None:
            step_done()
            if next(steps) == 5:
                checkpoints.close()  # the one of step 4 is written
                raise Cut

        fit(*rest, count, checkpoints, losses_seen)

    options = {"train__processes": 2, "train__sharded": True, "train__epochs": 2, "train__dropout": 0.1}
    set_params(workspace, train__checkpoints={"every_steps": 2, "keep": 2}, **options)
    expected = run()
    (workspace.candidate / "model.safetensors").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(train, "fit", cut_off)
        with pytest.raises(Cut):
            run()
    assert list(workspace.checkpoints.rglob("*.safetensors"))
    assert run() == expected


def test_what_ends_another_process_is_said(workspace: Workspace) -> None:
    set_params(workspace, train__processes=3)  # which the other one reads
    params = tuned(Params.read(workspace.params), processes=2)
    with pytest.raises(
        TrainingError, match=r"process 2 of training ended with status 78: error: train\.processes is 3, but 2"
    ):
        train.run(workspace, params)


def test_a_launcher_that_started_another_number_of_processes_is_refused(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    set_params(workspace, train__processes=2)
    with pytest.raises(ParamsError, match=r"train\.processes is 2, but 3 were started"):
        train.run(workspace, Params.read(workspace.params))
