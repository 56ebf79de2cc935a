"""Train the candidate again, elsewhere and in a process of its own, and see whether it is the same to the last bit."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from staytuned import pipeline, road
from staytuned.errors import StageError, TrainingError
from staytuned.files import sha256
from staytuned.params import Params
from staytuned.processes import DRIVER
from staytuned.start import change
from staytuned.workspace import Workspace

TRAIN = "train"


def train(workspace: Workspace, verify: bool) -> None:
    """Bring the candidate up to date: run the train stage, and those that it builds on, as far as they are stale.

    With ``verify``, train it once more and compare.

    Raises:
        TrainingError: it came out otherwise.
    """
    params = Params.read(workspace.params)
    road.first_batch(workspace, params)
    with workspace.hold():
        pipeline.pin_code(workspace)
        later = pipeline.stages_from(workspace, TRAIN)
        ran = [
            name
            for name in pipeline.stage_order(workspace)
            if (name not in later or name == TRAIN) and pipeline.run_stage(workspace, name)
        ]
        found = sha256(workspace.candidate / "model.safetensors")
        print(f"{'trained' if TRAIN in ran else 'nothing to train'}: the SHA-256 of the candidate's weights is {found}")
        if verify:
            print(_compared(found, trained_again(workspace, params), params))


def trained_again(workspace: Workspace, params: Params) -> str:
    """SHA-256 of the weights of another training, in a folder of its own that looks at the workspace's inputs."""
    with tempfile.TemporaryDirectory(dir=workspace.var) as scratch:
        place = Workspace(Path(scratch).resolve())
        for name in ("dvc.yaml", "data"):
            (place.root / name).symlink_to(workspace.root / name)
        shutil.copy(workspace.params, place.params)
        folders = [str((workspace.root / folder).resolve()) for folder in params.model.folders]
        change(place.params, {"model": {"folders": folders}})
        place.reports.mkdir()
        shutil.copy(workspace.reports / "encoding.json", place.reports)
        environment = os.environ | {DRIVER: str(os.getpid())}
        done = subprocess.run([sys.executable, "-m", "staytuned.stages", TRAIN], cwd=place.root, env=environment)
        if done.returncode:
            raise StageError(TRAIN, done.returncode)
        return sha256(place.candidate / "model.safetensors")


def _compared(first: str, second: str, params: Params) -> str:
    """The verdict in words; a thread count is part of what it says, for another one gives other bits."""
    how = f"with seed {params.train.seed} and {params.train.threads} thread(s) on this machine"
    if first != second:
        raise TrainingError(
            f"trained again {how}, the weights have the SHA-256 {second}, not {first}: something that is not in "
            "params.yaml has a part in training; look at packages, environment variables and code of your own"
        )
    return f"trained again {how}: the SHA-256 of the weights is the same"
