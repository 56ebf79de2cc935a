"""What the machine can do, of which training makes use: on its GPU, where it has one."""

import time
import timeit

import torch

from staytuned.modelling.device import pick_device

DEVICE = pick_device("auto")
IS_GPU = DEVICE.type == "cuda"
SIZE, KIND = (8192, torch.bfloat16) if IS_GPU else (2048, torch.float32)  # of the matrices that are multiplied


def now() -> float:
    """Seconds, as soon as all that was asked of a GPU is done."""
    if IS_GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_rate() -> float:
    """Floating-point operations a second of the best of some products of large matrices."""
    one, other = (torch.randn(SIZE, SIZE, device=DEVICE, dtype=KIND) for _ in range(2))
    return 2 * SIZE**3 / min(timeit.repeat(lambda: (one @ other, now()), number=1, repeat=4))
