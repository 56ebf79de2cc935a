"""What decides the bits of a training."""

import importlib.metadata
from pathlib import Path
from typing import Any

from staytuned.data.sides import TRAIN, TRAINED_ON, VALIDATION
from staytuned.files import sha256
from staytuned.modelling.device import name_of, pick_device
from staytuned.params import Params
from staytuned.pieces import code_of
from staytuned.surroundings import surroundings
from staytuned.workspace import Workspace

CODE = ("training", "modelling", "tasks", "stages/train.py")  # what has a part in a step
PACKAGES = ("torch", "transformers", "tokenizers", "numpy")


def origin_of(workspace: Workspace, params: Params, base: str, champion: Path | None) -> dict[str, Any]:
    """By name: rows, params, base model, champion, code, versions, device.

    Args:
        workspace: Whose rows are learned.
        params: Of it.
        base: Fingerprint of the base model.
        champion: Its folder, where training goes on from it.
    """
    rows = [workspace.accepted, workspace.split, *(workspace.encoded / f"{side}.arrow" for side in (TRAIN, VALIDATION))]
    start = [champion / "model.safetensors", champion / TRAINED_ON] if champion else []
    options = {name: value for name, value in params.section("train").items() if name != "checkpoints"}
    return {
        **{str(path.relative_to(workspace.root)): sha256(path) for path in [*rows, *start]},
        **{f"task.{name}": value for name, value in params.section("task").items()},
        **{f"train.{name}": value for name, value in options.items()},
        "model.base": base,
        "code": code_of(*CODE),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        **surroundings(),
        "device": name_of(pick_device(params.train.device)),
    }
