"""Kill training at random instants, inside checkpoint writes too, until it has come to its end: the bits are the same.

usage: python tests/proofs/kill_training.py [KILLS [SEED [PROCESSES [THREADS]]]]

The stage runs on the tiny model in processes that are forked from one that has imported everything, so that nearly all
of their time is training. Every step is followed by a checkpoint. All kills come at an instant drawn evenly from the
time that a whole training takes; a third of them wait from there until a half written file is seen. Before each start
the outputs are deleted, as DVC does. Whenever a training comes to its end, its weights and its curve are compared with
those of one that nothing touched.
"""

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from test_loop import encode_rows
from tiny import make_workspace, set_params

from staytuned.files import sha256
from staytuned.params import Params
from staytuned.stages import train
from staytuned.workspace import Workspace


def forked(work: Callable[[], object], log: Path) -> int:
    """Number of a process that does this work and writes what it says into a file."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(file, 2)
        work()
        status = 0
    finally:
        os._exit(status)


def prepare(workspace: Workspace) -> None:
    encode_rows(workspace, 160)


def begin(workspace: Workspace, log: Path) -> int:
    """Delete the outputs, as DVC does, and start the stage."""
    shutil.rmtree(workspace.candidate, ignore_errors=True)
    workspace.curve.unlink(missing_ok=True)
    return forked(lambda: train.run(workspace, Params.read(workspace.params)), log)


def result(workspace: Workspace) -> tuple[str, ...]:
    """What must be the same: weights, curve and losses."""
    return tuple(map(sha256, (workspace.candidate / "model.safetensors", workspace.curve, workspace.step_losses)))


def has_ended(process: int) -> bool:
    """Whether it came to its end by itself, and well."""
    ended, status = os.waitpid(process, os.WNOHANG)
    if ended and status:
        sys.exit(f"training failed with status {os.waitstatus_to_exitcode(status)}")
    return bool(ended)


def half_written(workspace: Workspace) -> list[Path]:
    return list(workspace.checkpoints.glob("*/.*.tmp"))


def kill(process: int, workspace: Workspace, chance: random.Random, seconds: float) -> bool:
    """Kill a training at some instant; False if it ended before."""
    at, in_write = time.monotonic() + chance.uniform(0, seconds), chance.random() < 1 / 3
    while time.monotonic() < at or (in_write and not half_written(workspace)):
        if has_ended(process):
            return False
        time.sleep(0 if in_write else 0.001)
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    return status != 0


def main(wanted: int = 200, seed: int = 1, processes: int = 1, threads: int = 2) -> bool:
    """Whether every training came out as the one that was left alone."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        workspace, log = make_workspace(Path(scratch) / "workspace"), Path(scratch) / "log"
        often = {"every_steps": 1, "keep": 2}
        set_params(workspace, train__dropout=0.1, train__epochs=10, train__checkpoints=often)
        set_params(workspace, train__processes=processes, train__threads=threads)
        assert os.waitpid(forked(lambda: prepare(workspace), log), 0)[1] == 0, log.read_text()
        start = time.monotonic()
        assert os.waitpid(begin(workspace, log), 0)[1] == 0, log.read_text()
        expected, seconds = result(workspace), time.monotonic() - start
        print(f"left alone: {seconds:.1f} s, weights {expected[0]}", flush=True)
        kills = in_writes = ends = others = 0
        while kills < wanted:
            process = begin(workspace, log)
            if kill(process, workspace, chance, seconds):
                kills += 1
                in_writes += bool(half_written(workspace))
                continue
            ends += 1
            others += result(workspace) != expected
        said = log.read_text()
        print(f"{kills} kills, {in_writes} of them inside a write; seed {seed}, {time.monotonic() - start:.0f} s")
        print(f"taken up from a checkpoint {said.count('goes on from')} times; refused {said.count('refused')}")
        print(f"{ends} trainings came to their end; {others} of them with other weights or another curve")
    return ends > 0 and others == 0 and in_writes > 0 and "goes on from" in said


if __name__ == "__main__":
    sys.exit(not main(*map(int, sys.argv[1:])))
