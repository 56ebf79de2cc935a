"""Where torch computes, and what makes it give the same bits again."""

import os

import torch

from staytuned.errors import MissingError


def pick_device(wanted: str) -> torch.device:
    """The device to train on; ``auto`` is the GPU where there is one.

    Raises:
        MissingError: a GPU is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise MissingError("train.device is 'cuda', but torch sees no GPU; set it to 'auto' or 'cpu'")
    return torch.device("cuda" if available and wanted != "cpu" else "cpu")


def name_of(device: torch.device) -> str:
    """What kind it is: weights come out the same bit for bit on the same kind alone."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def make_deterministic(seed: int, threads: int) -> None:
    """Fix everything that decides the bits of a training."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # takes time, for nothing
