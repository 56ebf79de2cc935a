"""What decides the bits of a training."""

import hashlib
import importlib.metadata
from pathlib import Path
from typing import Any

import torch

from staytuned.data.sides import TRAIN, TRAINED_ON, VALIDATION
from staytuned.entry_points import task_files
from staytuned.files import sha256
from staytuned.params import Params
from staytuned.surroundings import surroundings
from staytuned.training.loop import pick_device
from staytuned.workspace import Workspace

CODE = ("training", "modelling", "tasks")  # packages that have a part in a step
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
    device = pick_device(params.train.device)
    options = {name: value for name, value in params.section("train").items() if name != "checkpoints"}
    return {
        **{str(path.relative_to(workspace.root)): sha256(path) for path in [*rows, *start]},
        **{f"task.{name}": value for name, value in params.section("task").items()},
        **{f"train.{name}": value for name, value in options.items()},
        "model.base": base,
        "code": _code(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        **surroundings(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def _code() -> str:
    """SHA-256 of the modules that have a part in a step, and of tasks that are installed beside them."""
    package = Path(__file__).parents[1]
    modules = [module for name in CODE for module in sorted((package / name).glob("*.py"))]
    hashes = [sha256(module) for module in [*modules, package / "stages" / "train.py", *task_files()]]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
