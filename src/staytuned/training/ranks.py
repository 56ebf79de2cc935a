"""Several processes that learn together, each from its share of every batch (data-parallel).

Each holds the whole model and makes the same step: gradients are added up, all else is computed alike. The first one
is the stage itself; it alone writes. They talk through gloo, GPUs through NCCL, on loopback. Processes that a launcher
such as ``torchrun`` started find each other as it says, on other machines too if they share the workspace's folder.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.tensor import DTensor

from staytuned.errors import ParamsError, TrainingError
from staytuned.processes import DRIVER
from staytuned.tasks import Batch

MEETING = "STAYTUNED_MEETING"  # environment variable: the file by which processes find each other

PATIENCE = timedelta(minutes=5)  # with another process: all do the same work at the same time


def is_first() -> bool:
    """Whether this process is the one that writes; alone, it is."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


@contextmanager
def together(count: int, root: Path, device: torch.device) -> Iterator[None]:
    """Be one of ``count`` processes, and start the others if nobody did.

    Args:
        count: Of processes.
        root: Of the workspace, where the others run the same stage.
        device: On a GPU, each process has one of its own.

    Raises:
        ParamsError: a launcher started another number of them.
        TrainingError: one of the others ended before its time.
    """
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched not in (1, count):
        raise ParamsError(f"train.processes is {count}, but {launched} were started; make them the same")
    if count == 1:
        yield
        return
    with tempfile.TemporaryDirectory() as scratch:
        environment = {"WORLD_SIZE": str(count), MEETING: f"{scratch}/meeting", DRIVER: str(os.getpid())}
        numbers = range(1, count) if launched == 1 else []
        others = [_start(number, root, Path(scratch), environment) for number in numbers]
        try:
            _await(others, Path(scratch))
            meeting = f"{scratch}/meeting" if launched == 1 else os.environ.get(MEETING)
            _join(int(os.environ.get("RANK", 0)), count, meeting, device)
            yield
        except (RuntimeError, ConnectionError) as error:
            raise _ended(others, Path(scratch), error) from error
        finally:
            if distributed.is_initialized():
                distributed.destroy_process_group()
            for other in others:
                other.kill()
                other.wait()


def _start(number: int, root: Path, scratch: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    own = {"RANK": str(number), "LOCAL_RANK": str(number)}
    with (scratch / str(number)).open("wb") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "staytuned.stages", "train"],
            cwd=root,
            env=os.environ | environment | own,
            stdout=said,
            stderr=said,
        )


def _await(others: "list[subprocess.Popen[bytes]]", scratch: Path) -> None:
    """Until the others are about to join; one that has ended never will, and would be waited for in vain."""
    while len(list(scratch.glob("meeting.*"))) < len(others):
        if any(other.poll() is not None for other in others):
            raise ConnectionError("a process of training ended before it joined")
        time.sleep(0.05)


def _join(number: int, count: int, meeting: str | None, device: torch.device) -> None:
    """Find the others by the file ``meeting``; without one, as their launcher says."""
    backend = "gloo"
    if device.type == "cuda":
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", number)))
    if meeting:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
        Path(f"{meeting}.{number}").touch()
    method = f"file://{meeting}" if meeting else "env://"
    distributed.init_process_group(backend, method, timeout=PATIENCE, rank=number, world_size=count)


def _ended(others: "list[subprocess.Popen[bytes]]", scratch: Path, error: Exception) -> Exception:
    """What another process said, if that is why they lost each other; else the error itself."""
    for number, other in enumerate(others, 1):
        try:
            status = other.wait(timeout=5)
        except subprocess.TimeoutExpired:
            continue
        if status:
            said = (scratch / str(number)).read_text(encoding="utf-8", errors="replace").strip()
            return TrainingError(f"process {number + 1} of training ended with status {status}: {said[-2000:]}")
    return error


def part_random_numbers(seed: int) -> None:
    """Let each process draw numbers of its own, once all have made the same model; the first goes on as it was."""
    if not is_first():
        torch.manual_seed(seed + 2**32 * distributed.get_rank())


def share(batch: Batch) -> tuple[Batch, int]:
    """The part of a batch that is this process's own, which may be empty, and the size of the largest part of all."""
    if not distributed.is_initialized():
        return batch, batch.size
    count = distributed.get_world_size()
    return batch.rows(slice(distributed.get_rank(), None, count)), -(-batch.size // count)


def add_up(loss: torch.Tensor, model: torch.nn.Module) -> torch.Tensor:
    """Add up the gradients of all processes, in place, and their losses, which is returned.

    Those of a model in shares were added up as they were made.
    """
    if not distributed.is_initialized():
        return loss
    slopes = [weight.grad for weight in model.parameters() if weight.grad is not None]
    slopes = [slope for slope in slopes if not isinstance(slope, DTensor)]
    flat = torch.cat([loss.reshape(1), *(slope.flatten() for slope in slopes)])
    distributed.all_reduce(flat)
    totals = torch.split(flat[1:], [slope.numel() for slope in slopes])
    for slope, total in zip(slopes, totals, strict=True):
        slope.copy_(total.view_as(slope))
    return flat[0].clone()


def of_all(tensor: torch.Tensor) -> list[torch.Tensor]:
    """A tensor of each process, of one shape."""
    if not distributed.is_initialized():
        return [tensor]
    found = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
    distributed.all_gather(found, tensor)
    return found


def own(tensors: list[torch.Tensor]) -> torch.Tensor:
    """This process's one."""
    return tensors[distributed.get_rank() if distributed.is_initialized() else 0]


def as_first_says(number: int) -> int:
    """The number that the first process has."""
    if not distributed.is_initialized():
        return number
    told = torch.tensor(number)
    distributed.broadcast(told, 0)
    return int(told)
