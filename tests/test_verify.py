"""``staytuned train --verify``: the candidate, trained again elsewhere, is the same to the last bit, or it is said."""

from pathlib import Path

import pytest
from tiny import make_workspace, set_params

from staytuned import verify
from staytuned.errors import DataError, TrainingError
from staytuned.files import sha256
from staytuned.params import Params
from staytuned.workspace import Workspace


@pytest.mark.slow
def test_the_candidate_comes_out_the_same_and_nothing_of_the_workspace_is_touched(
    road: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    set_params(road, model__folders=["models", "base-models"])  # the first is that of the candidate too
    verify.train(road, verify=False)
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in road.candidate.iterdir()}
    verify.train(road, verify=True)
    said = capsys.readouterr().out
    weights = sha256(road.candidate / "model.safetensors")
    assert f"nothing to train: the SHA-256 of the candidate's weights is {weights}" in said
    assert "trained again with seed 7 and 1 thread(s) on this machine: the SHA-256 of the weights is the same" in said
    assert {path: path.stat().st_mtime_ns for path in road.candidate.iterdir()} == before
    assert not list(road.var.glob("tmp*"))


def test_other_bits_are_an_error_of_training(road: Workspace) -> None:
    with pytest.raises(TrainingError, match=r"with seed 7 and 1 thread\(s\).* SHA-256 b, not a") as caught:
        verify._compared("a", "b", Params.read(road.params))
    assert caught.value.exit_status == 70


def test_without_rows_training_asks_for_some(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no batch yet; add one with `staytuned ingest FILE`"):
        verify.train(make_workspace(tmp_path / "road"), verify=False)
