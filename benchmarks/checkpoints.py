"""Step time with a checkpoint every 50 steps and each step shown in a progress bar, over bare steps.

usage: python benchmarks/checkpoints.py [ROUNDS]

One training of the example's base model on texts of some 14 tokens, in plain steps: the shorter a step, the dearer a
checkpoint beside it. Of each 100 steps, the first 50 have the checkpoint that is written while they run, with the copy
that is made for it, and the bar; the other 50 have neither. Their ratio is a round. That the loss of each step is kept
until the next evaluation is part of both.
"""

import sys
import tempfile
import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path

from measure import meets, ratios, spread
from test_loop import encode_rows, examples_of, validation_side
from tiny import set_params, tiny_params

from staytuned import tasks
from staytuned.modelling.device import make_deterministic
from staytuned.modelling.heads import backbone
from staytuned.models import find_base
from staytuned.params import Params
from staytuned.progress import bar
from staytuned.sections import Checkpointing
from staytuned.start import init
from staytuned.training.checkpoint import Checkpoints
from staytuned.training.loop import fit
from staytuned.workspace import Workspace

BOUND = 1.03
BLOCK = 50
MINILM = "sentence-transformers/all-MiniLM-L6-v2"


class Enough(Exception):
    """All rounds are measured."""


def main(rounds: int) -> bool:
    """Whether the bound is met."""
    with tempfile.TemporaryDirectory() as scratch:
        workspace = init(Path(scratch) / "workspace")
        tiny_params(workspace, model__base=MINILM, train__sharpness=0.0, train__threads=2)
        set_params(workspace, train__epochs=1, train__evaluations_per_epoch=1)  # after the last step: not measured
        steps = 2 * BLOCK * (rounds + 1)  # the first round warms up
        encode_rows(workspace, 50 * steps)  # of which a part judges
        ends = ends_of_steps(workspace, steps)[2 * BLOCK - 1 :: BLOCK]
    blocks = [end - start for start, end in pairwise(ends)]
    with_checkpoint, bare = blocks[::2], blocks[1::2]
    print(f"seconds of {BLOCK} bare steps: {spread(bare)}")
    return meets("step time with checkpoints every 50 steps over bare", ratios(with_checkpoint, bare), BOUND)


def ends_of_steps(workspace: Workspace, count: int) -> list[float]:
    """When each step was over; every hundredth is followed by a checkpoint."""
    params = Params.read(workspace.params)
    make_deterministic(params.train.seed, params.train.threads)
    task, base = tasks.load(params), find_base(MINILM, [])
    model = task.model(backbone(task.kind, base, params.train.dropout, pretrained=True), params.train.dropout)
    times: list[float] = []
    with bar() as display:
        shown = display.add_task("training", total=count)

        def step_done() -> None:
            if len(times) % (2 * BLOCK) < BLOCK:
                display.advance(shown)
            times.append(time.perf_counter())
            if len(times) == count:
                raise Enough

        options = Checkpointing(every_steps=2 * BLOCK, keep=2)
        with closing(Checkpoints(workspace.checkpoints, {}, options)) as checkpoints:
            try:
                fit(
                    task,
                    model,
                    examples_of(workspace, "train"),
                    validation_side(workspace),
                    params.train,
                    lambda point: None,
                    step_done,
                    checkpoints,
                )
            except Enough:
                return times
    raise AssertionError("training ended before all rounds were measured")


if __name__ == "__main__":
    sys.exit(not main(*map(int, sys.argv[1:] or ["9"])))
