"""Training beside transformers' Trainer, in turn: the same model, rows, batches, precision and AdamW.

usage: python benchmarks/training.py DATA [PART...]     PART: agree, speed, flops, tasks; without any, all of them

DATA holds public data sets, each in a folder of its own: titles of papers (arxiv/titles.csv.gz), entities
(ner/btc/btc.dev), questions (qa/xquad.en.json). Each side is a process of its own, with its settings in daily use, and
waits while the other is at work: after eight of Trainer's steps staytuned makes its own on the same rows, so that a
busy minute hits both. A round is an epoch. Trainer's time is all that passes on its side; its batches are made by
staytuned's own code, which is quicker than its default collator. Useful tokens are those that are not padding. Dropout
is 0.1, learning rate and decay are those of params.yaml; the schedule is Trainer's.

Where there is a GPU both sides learn on it, in bfloat16, and the speed of the machine is that of products in bfloat16.
"""

import math
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy
import torch
from machine import DEVICE, IS_GPU, now, peak_rate
from measure import spread
from training_jobs import Job, entities, questions, titles
from transformers import AttentionInterface, AttentionMaskInterface, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import logging

from staytuned.modelling.device import make_deterministic
from staytuned.modelling.dropout import Dropout
from staytuned.modelling.heads import backbone
from staytuned.modelling.products import Linear
from staytuned.models import find_base
from staytuned.sections import Train
from staytuned.tasks import Batch, Task
from staytuned.training.memory import keep_memory
from staytuned.training.step import make_optimizer, train_step

EPOCHS = 3  # a round each
BLOCK = 8  # steps of one side before it is the other's turn; the first ones do not count
APART = 2e-2 if IS_GPU else 1e-4  # how far the losses may be

Load = Callable[[Path, Path], Job]

# Under another name torch's attention is taken as transformers calls it, with padding.
AttentionInterface.register("padded", sdpa_attention_forward)
AttentionMaskInterface.register("padded", sdpa_mask)


def started(job: Job, dropout: float) -> torch.nn.Module:
    """The model as both sides start with it."""
    make_deterministic(job.params.train.seed, job.params.train.threads)
    base = find_base(job.params.model.base, [])
    return job.task.model(backbone(job.task.kind, base, dropout, pretrained=True), dropout).train()


class Ours:
    """staytuned's steps, as its stage makes them."""

    def __init__(self, job: Job, options: Train, dropout: float, steps: int) -> None:
        keep_memory()
        self.job, self.options, self.model = job, options, started(job, dropout).to(DEVICE)
        self.optimizer = make_optimizer(self.model, options)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: (steps - step) / steps)

    def learn(self, batches: list[list[int]]) -> tuple[float, list[int], list[float]]:
        """Learn from batches of these rows: seconds, useful tokens and loss of each."""
        tokens, losses, begin = [], [], time.perf_counter()
        for places in batches:
            batch = self.job.task.batch(self.job.examples, places, numpy.random.default_rng(0))
            losses.append(train_step(self.job.task, self.model, self.optimizer, batch, self.options))
            self.schedule.step()
            tokens.append(int(batch.inputs["attention_mask"].sum()))
        return now() - begin, tokens, [float(loss) for loss in losses]


def answer(asked: Connection, load: Load, data: Path, batch_size: int, dropout: float, steps: int) -> None:
    """Be staytuned's side, until nothing more is asked."""
    with tempfile.TemporaryDirectory() as scratch:
        job = load(data, Path(scratch))
        ours = Ours(job, options_of(job, batch_size), dropout, steps)
        asked.send(None)  # ready
        while batches := asked.recv():
            asked.send(ours.learn(batches))


@contextmanager
def in_a_process(*what: Any) -> Iterator[Connection]:
    """staytuned's side; it finds the settings that staytuned makes as it is imported, before torch is."""
    here, there = (context := multiprocessing.get_context("spawn")).Pipe()
    process = context.Process(target=answer, args=(there, *what))
    process.start()
    here.recv()
    try:
        yield here
    finally:
        here.send([])
        process.join()


def options_of(job: Job, batch_size: int) -> Train:
    rate = job.params.train.learning_rate
    return job.params.train.model_copy(update={"head_learning_rate": rate, "batch_size": batch_size})


class Clock(TrainerCallback):
    """Times both sides: after some steps of Trainer staytuned makes the same ones."""

    def __init__(self, ours: Connection) -> None:
        self.ours = ours
        self.batches: deque[list[int]] = deque()  # Trainer fetches a batch before it has learned from the last
        self.done: list[list[int]] = []  # by Trainer alone
        self.blocks: list[tuple[float, float, int]] = []  # seconds of Trainer's and of ours, useful tokens
        self.losses: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self.mark = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """After a block, have staytuned learn from its rows."""
        self.done.append(self.batches.popleft())
        if len(self.done) < BLOCK:
            return
        theirs = now() - self.mark
        self.ours.send(self.done)
        ours, tokens, losses = self.ours.recv()
        self.blocks.append((theirs, ours, sum(tokens)))
        self.losses += losses
        self.done = []
        self.mark = time.perf_counter()


class Plain(Trainer):
    """Trainer, which remembers its losses."""

    def compute_loss(self, *arguments: Any, **options: Any) -> Any:
        """Trainer's own loss."""
        loss = super().compute_loss(*arguments, **options)
        self.losses.append(loss.detach())
        return loss


class WithLoss(torch.nn.Module):
    """A model as Trainer wants it: with its loss."""

    def __init__(self, task: Task, model: torch.nn.Module) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, targets: Any, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss on a batch."""
        return {"loss": self.task.loss(self.model(**inputs), targets)}


def side_by_side(
    load: Load, data: Path, batch_size: int, dropout: float, grouped: bool, blocks: int
) -> tuple[Clock, Plain]:
    """Both learn from the same batches for some steps."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        in_a_process(load, data, batch_size, dropout, blocks * BLOCK) as ours,
    ):
        job, clock = load(data, Path(scratch)), Clock(ours)
        options = options_of(job, batch_size)
        theirs = WithLoss(job.task, as_it_comes(started(job, dropout)))
        torch.use_deterministic_algorithms(False)  # its default

        def collated(items: list[dict[str, Any]]) -> dict[str, Any]:
            places = [item["place"] for item in items]
            clock.batches.append(places)
            batch: Batch = job.task.batch(job.examples, places, numpy.random.default_rng(0))
            return batch.inputs | {"targets": batch.targets}

        ids = job.examples.lists("input_ids", range(len(job.examples)))
        trainer = Plain(
            theirs,
            TrainingArguments(
                scratch,
                max_steps=blocks * BLOCK,
                per_device_train_batch_size=batch_size,
                learning_rate=options.learning_rate,
                weight_decay=options.weight_decay,
                max_grad_norm=options.clip,
                train_sampling_strategy="group_by_length" if grouped else "random",
                remove_unused_columns=False,
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                use_cpu=not IS_GPU,
                bf16=IS_GPU,
            ),
            train_dataset=[{"input_ids": row, "place": place} for place, row in enumerate(ids)],
            data_collator=collated,
            callbacks=[clock],
        )
        trainer.losses = []
        trainer.train()
    return clock, trainer


def as_it_comes(model: Any) -> Any:
    """The model as transformers makes it."""
    model.encoder.config._attn_implementation = "padded"
    for layer in model.modules():
        if isinstance(layer, Dropout | Linear):
            layer.__class__ = type(layer).__base__  # of torch
    return model


def agree(load: Load, data: Path) -> bool:
    """Whether the losses of both sides are the same at each step, without dropout."""
    clock, trainer = side_by_side(load, data, 32, 0.0, False, 5)
    differences = [abs(one - float(other)) for one, other in zip(clock.losses, trainer.losses, strict=True)]
    met = max(differences) <= APART
    print(
        f"{load.__name__}: largest difference of the losses in {len(differences)} steps {max(differences):.1e}, "
        f"at most {APART:.0e}: {said(met)}"
    )
    return met


def speed(load: Load, data: Path, batch_size: int, grouped: bool, bound: float) -> bool:
    """Whether we are as much quicker as we claim."""
    with tempfile.TemporaryDirectory() as scratch:
        epoch = math.ceil(len(load(data, Path(scratch)).examples) / batch_size / BLOCK)
    clock, _ = side_by_side(load, data, batch_size, 0.1, grouped, 1 + EPOCHS * epoch)
    found = []
    for start in range(1, len(clock.blocks), epoch):
        theirs, ours, tokens = (sum(values) for values in zip(*clock.blocks[start : start + epoch], strict=True))
        found.append((theirs / ours, tokens / theirs, tokens / ours))
    ratio, their_rate, our_rate = zip(*found, strict=True)
    met = statistics.median(ratio) >= bound
    print(
        f"{load.__name__}, batch {batch_size}, {'grouped by length' if grouped else 'random'}: {spread(ratio)}, "
        f"at least {bound}: {said(met)}; useful tokens a second {statistics.median(our_rate):.0f} "
        f"against {statistics.median(their_rate):.0f}",
        flush=True,
    )
    return met


def flops(job: Job, batch_size: int) -> bool:
    """Whether the share of the machine's own speed at matrix products that training makes use of is large enough."""
    ours = Ours(job, options_of(job, batch_size), 0.1, 13 * BLOCK)
    weights = sum(weight.numel() for name, weight in ours.model.named_parameters() if "embeddings" not in name)
    order = numpy.random.default_rng(7).permutation(len(job.examples))
    shares = []
    for start in range(0, 12 * BLOCK * batch_size, BLOCK * batch_size):
        peak, rows = peak_rate(), numpy.take(order, range(start, start + BLOCK * batch_size), mode="wrap")
        seconds, tokens, _ = ours.learn(rows.reshape(BLOCK, batch_size).tolist())
        shares.append(6 * weights * sum(tokens) / seconds / ((peak + peak_rate()) / 2))
    met = statistics.median(shares[1:]) >= 0.6
    print(
        f"share of the SGEMM peak ({peak / 1e9:.0f} GFLOP/s), batch {batch_size}: {spread(shares[1:])}, "
        f"at least 0.60: {said(met)}"
    )
    return met


def said(met: bool) -> str:
    return "met" if met else "NOT MET"


def main(data: Path, parts: list[str]) -> bool:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    found = []
    if "agree" in parts:
        found.append(agree(titles, data))
    if "speed" in parts:
        for batch_size in (32, 64):
            found.append(speed(titles, data, batch_size, False, 2.0))
            found.append(speed(titles, data, batch_size, True, 1.3))
    if "tasks" in parts:
        for load, batch_size in ((entities, 32), (questions, 16)):
            found.append(agree(load, data))
            found.append(speed(load, data, batch_size, False, 1.7))
            found.append(speed(load, data, batch_size, True, 1.2))
    if "flops" in parts:  # last: it makes the settings of staytuned's side in this process
        with tempfile.TemporaryDirectory() as scratch:
            job = titles(data, Path(scratch))
            found += [flops(job, batch_size) for batch_size in (32, 64)]
    return all(found)


if __name__ == "__main__":
    sys.exit(not main(Path(sys.argv[1]), sys.argv[2:] or ["agree", "speed", "tasks", "flops"]))
