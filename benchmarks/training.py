"""Training beside transformers' Trainer, a step of each in turn: the same model, rows, batches, precision and AdamW.

usage: python benchmarks/training.py DATA [PART...]     PART: agree, speed, flops, tasks; without any, all of them

DATA holds public data sets, each in a folder of its own: titles of papers (arxiv/titles.csv.gz), entities
(ner/btc/btc.dev), questions (qa/xquad.en.json). After each of Trainer's steps staytuned makes its own on the same rows,
so that a busy minute hits both; a round is an epoch. Trainer's time is all that passes outside of staytuned's step; its
batches are made by staytuned's own code, which is quicker than its default collator. Useful tokens are those that are
not padding. Dropout is 0.1, learning rate and decay are those of params.yaml; the schedule is Trainer's.
"""

import copy
import math
import statistics
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy
import torch
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
from staytuned.training.step import make_optimizer, train_step

EPOCHS, WARM = 3, 5  # WARM steps before do not count
BLOCK = 8  # steps between two looks at what the machine can do
SIZE = 2048  # of the matrices whose product says what the machine can do

# Under another name torch's attention is taken as transformers calls it, with padding.
AttentionInterface.register("padded", sdpa_attention_forward)
AttentionMaskInterface.register("padded", sdpa_mask)


class Clock(TrainerCallback):
    """Times both sides: after each step of Trainer staytuned makes the same one."""

    def __init__(self, job: Job, model: torch.nn.Module, options: Train, steps: int) -> None:
        self.job, self.model, self.options = job, model, options
        self.batches: deque[list[int]] = deque()  # Trainer fetches a batch before it has learned from the last
        self.optimizer = make_optimizer(model, options)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: (steps - step) / steps)
        self.seconds: list[tuple[float, float]] = []  # of Trainer's and of our step
        self.tokens: list[int] = []
        self.losses: list[torch.Tensor] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        torch.use_deterministic_algorithms(False)
        self.mark = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Make our step on the rows of the one that has just ended."""
        begin = time.perf_counter()
        torch.use_deterministic_algorithms(True)
        places = self.batches.popleft()
        batch = self.job.task.batch(self.job.examples, places, numpy.random.default_rng(0))
        self.losses.append(train_step(self.job.task, self.model.train(), self.optimizer, batch, self.options))
        self.schedule.step()
        end = time.perf_counter()
        self.seconds.append((begin - self.mark, end - begin))
        self.tokens.append(int(batch.inputs["attention_mask"].sum()))
        torch.use_deterministic_algorithms(False)  # Trainer's default
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


def side_by_side(job: Job, batch_size: int, dropout: float, grouped: bool, steps: int) -> tuple[Clock, Plain]:
    """Both learn from the same batches for some steps."""
    options = job.params.train.model_copy(
        update={"head_learning_rate": job.params.train.learning_rate, "batch_size": batch_size}
    )
    make_deterministic(options.seed, options.threads)
    base = find_base(job.params.model.base, [])
    ours = job.task.model(backbone(job.task.kind, base, dropout, pretrained=True), dropout)
    theirs = WithLoss(job.task, as_it_comes(copy.deepcopy(ours)))
    clock = Clock(job, ours, options, steps)

    def collated(items: list[dict[str, Any]]) -> dict[str, Any]:
        places = [item["place"] for item in items]
        clock.batches.append(places)
        batch: Batch = job.task.batch(job.examples, places, numpy.random.default_rng(0))
        return batch.inputs | {"targets": batch.targets}

    ids = job.examples.lists("input_ids", range(len(job.examples)))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Plain(
            theirs,
            TrainingArguments(
                folder,
                max_steps=steps,
                per_device_train_batch_size=batch_size,
                learning_rate=options.learning_rate,
                weight_decay=options.weight_decay,
                max_grad_norm=options.clip,
                train_sampling_strategy="group_by_length" if grouped else "random",
                remove_unused_columns=False,
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                use_cpu=True,
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


def agree(job: Job, name: str) -> bool:
    """Whether the losses of both sides are the same at each step, without dropout."""
    clock, trainer = side_by_side(job, 32, 0.0, False, 40)
    differences = [abs(float(one - other)) for one, other in zip(clock.losses, trainer.losses, strict=True)]
    met = max(differences) <= 1e-4
    print(f"{name}: largest difference of the losses in 40 steps {max(differences):.1e}, at most 1e-04: {said(met)}")
    return met


def speed(job: Job, name: str, batch_size: int, grouped: bool, bound: float) -> bool:
    """Whether we are as much quicker as we claim."""
    epoch = math.ceil(len(job.examples) / batch_size)
    clock, _ = side_by_side(job, batch_size, 0.1, grouped, WARM + EPOCHS * epoch)
    found = []
    for start in range(WARM, len(clock.seconds), epoch):
        block = slice(start, start + epoch)
        theirs, ours = (sum(values) for values in zip(*clock.seconds[block], strict=True))
        found.append((theirs / ours, sum(clock.tokens[block]) / theirs, sum(clock.tokens[block]) / ours))
    ratio, their_rate, our_rate = zip(*found, strict=True)
    met = statistics.median(ratio) >= bound
    print(
        f"{name}, batch {batch_size}, {'grouped by length' if grouped else 'random'}: {spread(ratio)}, "
        f"at least {bound}: {said(met)}; useful tokens a second {statistics.median(our_rate):.0f} "
        f"against {statistics.median(their_rate):.0f}",
        flush=True,
    )
    return met


def flops(job: Job, batch_size: int) -> bool:
    """Whether the share of the machine's own speed at matrix products that training makes use of is large enough."""
    options = job.params.train.model_copy(update={"batch_size": batch_size})
    make_deterministic(options.seed, options.threads)
    base = find_base(job.params.model.base, [])
    model = job.task.model(backbone(job.task.kind, base, 0.1, pretrained=True), 0.1).train()
    embedded = sum(weight.numel() for name, weight in model.named_parameters() if "embeddings" in name)
    weights = sum(weight.numel() for weight in model.parameters()) - embedded
    optimizer = make_optimizer(model, options)
    order = numpy.random.default_rng(7).permutation(len(job.examples))
    shares = []
    for start in range(0, 12 * BLOCK * batch_size, BLOCK * batch_size):
        peak, tokens, begin = peak_rate(), 0, time.perf_counter()
        for step in range(BLOCK):
            places = numpy.take(order, range(start + step * batch_size, start + (step + 1) * batch_size), mode="wrap")
            batch = job.task.batch(job.examples, places.tolist(), numpy.random.default_rng(0))
            train_step(job.task, model, optimizer, batch, options)
            tokens += int(batch.inputs["attention_mask"].sum())
        rate = tokens / (time.perf_counter() - begin)
        shares.append(6 * weights * rate / ((peak + peak_rate()) / 2))
    met = statistics.median(shares[1:]) >= 0.6
    print(
        f"share of the SGEMM peak ({peak / 1e9:.0f} GFLOP/s), batch {batch_size}: {spread(shares[1:])}, "
        f"at least 0.60: {said(met)}"
    )
    return met


def peak_rate() -> float:
    """Floating-point operations a second of the best of some products of large matrices."""
    one, other = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)
    best = float("inf")
    for _ in range(4):
        begin = time.perf_counter()
        one @ other
        best = min(best, time.perf_counter() - begin)
    return 2 * SIZE**3 / best


def said(met: bool) -> str:
    return "met" if met else "NOT MET"


def main(data: Path, parts: list[str]) -> bool:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        job = titles(data, folder)
        if "agree" in parts:
            found.append(agree(job, "titles"))
        if "speed" in parts:
            for batch_size in (32, 64):
                found.append(speed(job, "titles", batch_size, False, 2.0))
                found.append(speed(job, "titles", batch_size, True, 1.3))
        if "flops" in parts:
            found += [flops(job, batch_size) for batch_size in (32, 64)]
        if "tasks" in parts:
            for name, load, batch_size in (("entities", entities, 32), ("questions", questions, 16)):
                job = load(data, folder)
                found.append(agree(job, name))
                found.append(speed(job, name, batch_size, False, 1.7))
                found.append(speed(job, name, batch_size, True, 1.2))
    return all(found)


if __name__ == "__main__":
    sys.exit(not main(Path(sys.argv[1]), sys.argv[2:] or ["agree", "speed", "flops", "tasks"]))
