"""The training loop: AdamW, warm-up and decay, early stopping, the same bits for the same seed and threads."""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy
import torch

from staytuned.errors import MissingError, TrainingError
from staytuned.modelling.examples import Examples
from staytuned.sections import Train
from staytuned.tasks import Side, Task
from staytuned.training.order import shuffled_batches
from staytuned.training.step import make_optimizer, train_step

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Point:
    """One evaluation on the validation rows."""

    step: int
    epoch: float
    train_loss: float  # mean since the last evaluation
    learning_rate: float
    validation_loss: float
    validation_score: float  # the task's validation metric


def pick_device(wanted: str) -> torch.device:
    """The device to train on; ``auto`` is the GPU where there is one.

    Raises:
        MissingError: a GPU is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise MissingError("train.device is 'cuda', but torch sees no GPU; set it to 'auto' or 'cpu'")
    return torch.device("cuda" if available and wanted != "cpu" else "cpu")


def make_deterministic(seed: int, threads: int) -> None:
    """Fix everything that decides the bits of a training."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # takes time, for nothing


def fit(
    task: Task,
    model: torch.nn.Module,
    train: Examples,
    validation: Side,
    params: Train,
    seen: Callable[[Point], None],
    step_done: Callable[[], None],
) -> tuple[Weights, Point]:
    """Fine-tune ``model``; returns the weights and the point of its best evaluation.

    Args:
        task: Makes the batches, the loss and the score.
        model: Takes the inputs of the task's batches.
        train: Examples to learn from.
        validation: Rows that decide which evaluation is best and when to stop.
        params: The training section of params.yaml.
        seen: Called with each point as it is measured.
        step_done: Called after each step.

    Raises:
        TrainingError: the loss is not a finite number.
    """
    device = pick_device(params.device)
    model.to(device).train()
    optimizer = make_optimizer(model, params)
    steps = steps_in(len(train), params)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warmup_then_decay(steps, params.warmup))
    per_epoch = steps // params.epochs
    evaluate_at = {round(per_epoch * k / params.evaluations_per_epoch) for k in range(1, steps + 1)}
    sign = 1 if task.validation_metric.higher_is_better else -1
    best: tuple[tuple[float, float], Weights, Point] | None = None
    since_best, losses = 0, list[tuple[list[int], torch.Tensor]]()
    for step, places in enumerate(_all_batches(train, params), 1):
        batch = task.batch(train, places, numpy.random.default_rng([params.seed, step])).on(device)
        loss = train_step(task, model, optimizer, batch, params)
        schedule.step()
        losses.append((places, loss))
        step_done()
        if step not in evaluate_at and step != steps:
            continue
        mean = _mean_loss(losses, train, step)
        losses.clear()
        optimizer.settle()
        loss_here, score = validate(task, model, validation, device)
        rate = float(schedule.get_last_lr()[0])
        point = Point(step, step / per_epoch, mean, rate, loss_here, score)
        seen(point)
        since_best += 1
        rank = (sign * point.validation_score, -point.validation_loss)  # a tied score says nothing: the loss decides
        if best is None or rank > best[0]:
            best, since_best = (rank, _weights(model, params), point), 0
        if since_best >= params.patience:
            break
    assert best is not None
    return best[1:]


def _weights(model: torch.nn.Module, params: Train) -> Weights:
    """A copy on the processor, adapters merged into what they adapt."""
    if params.lora:
        from staytuned.modelling.lora import merged

        return merged(model)
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _mean_loss(losses: list[tuple[list[int], torch.Tensor]], examples: Examples, step: int) -> float:
    """Mean loss of the batches up to ``step``; looked at only now, since on a GPU each look waits for the device."""
    values = torch.stack([loss for _, loss in losses]).tolist()
    for back, (value, (places, _)) in enumerate(zip(values, losses, strict=True), 1 - len(values)):
        if not math.isfinite(value):
            names = [examples.names[place] for place in places]
            raise TrainingError(
                f"the loss is {value} at step {step + back}, whose batch held the rows {names}; "
                "lower train.learning_rate, or look at these rows"
            )
    return float(numpy.mean(values))


def steps_in(examples: int, params: Train) -> int:
    """Steps of a whole training, if nothing stops it early."""
    return params.epochs * math.ceil(examples / params.batch_size)


@torch.inference_mode()
def validate(task: Task, model: torch.nn.Module, side: Side, device: torch.device) -> tuple[float, float]:
    """Mean loss of the examples, and the task's validation metric on the rows, of a side."""
    model.eval()
    outputs: dict[int, numpy.ndarray] = {}
    loss = 0.0
    for places in side.examples.batches_by_length():
        batch = task.batch(side.examples, places, None).on(device)
        said = model(**batch.inputs)
        loss += float(task.loss(said.float(), batch.targets)) * len(places)
        outputs.update(zip(places, task.outputs(said, batch), strict=True))
    model.train()
    in_order = [outputs[place] for place in range(len(outputs))]
    return loss / len(outputs), task.validation_score(side.frame, side.examples, in_order)


def _all_batches(examples: Examples, params: Train) -> Iterator[list[int]]:
    for epoch in range(params.epochs):
        yield from shuffled_batches(examples.lengths, params.batch_size, seed=[params.seed, epoch])


def _warmup_then_decay(steps: int, warmup: float) -> Callable[[int], float]:
    """Factor on the learning rate: up linearly over a share of the steps, then down linearly to 0."""
    rising = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return max(0.0, (steps - step) / max(1, steps - rising))

    return factor
