"""The training loop: AdamW, warm-up and decay, early stopping, the same bits for the same seed and threads."""

import itertools
import math
from collections.abc import Callable, Iterator

import numpy
import torch

from staytuned.errors import TrainingError
from staytuned.modelling.device import pick_device
from staytuned.modelling.examples import Examples
from staytuned.modelling.threads import are_in_memory, in_threads
from staytuned.sections import Train
from staytuned.tasks import Metric, Side, Task
from staytuned.training.checkpoint import Checkpoints
from staytuned.training.memory import keep_memory, memory_for
from staytuned.training.order import shuffled_batches
from staytuned.training.sharded import gathered, shard, summed
from staytuned.training.state import Point, Training, Weights
from staytuned.training.step import make_optimizer, train_step


def fit(
    task: Task,
    model: torch.nn.Module,
    train: Examples,
    validation: Side,
    params: Train,
    seen: Callable[[Point], None],
    step_done: Callable[[], None],
    checkpoints: Checkpoints | None = None,
    losses_seen: Callable[[int, list[float]], None] = lambda first, losses: None,
) -> tuple[Weights, Point]:
    """Fine-tune ``model``; returns the weights and the point of its best evaluation.

    Args:
        task: Makes the batches, the loss and the score.
        model: Takes the inputs of the task's batches.
        train: Examples to learn from.
        validation: Rows that decide which evaluation is best and when to stop.
        params: The training section of params.yaml.
        seen: Called with each point as it is measured, and with those that a checkpoint holds.
        step_done: Called after each step, and for those that were made before the checkpoint.
        checkpoints: Where training goes on from, and what it may go on from if it is cut off.
        losses_seen: Called before ``seen`` with the number of a step, its loss and those of the steps after it.

    Raises:
        TrainingError: a loss or a weight is not a finite number, or the memory does not suffice.
    """
    keep_memory()
    device = pick_device(params.device)
    task.look_at(train)
    if params.sharded:
        shard(model, device)
    model.to(device).train()
    optimizer = make_optimizer(model, params)
    rates = [group["lr"] for group in optimizer.param_groups]
    training = Training(model, optimizer)
    if checkpoints:
        _take_up(training, checkpoints, seen, step_done, losses_seen)
    steps = steps_in(len(train), params)
    factor = _warmup_then_decay(steps, params.warmup)
    per_epoch = steps // params.epochs
    evaluations = params.epochs * params.evaluations_per_epoch
    evaluate_at = {round(per_epoch * k / params.evaluations_per_epoch) for k in range(1, evaluations + 1)} | {steps}
    for places in itertools.islice(_all_batches(train, params), training.step, None):
        training.step += 1
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor(training.step - 1)
        batch = task.batch(train, places, numpy.random.default_rng([params.seed, training.step]))
        share = -(-batch.size // params.processes)
        at_once = min(params.micro_batch or share, share)
        with memory_for(at_once, int(train.lengths[places].max()), task.divisible):
            training.losses.append(train_step(task, model, optimizer, batch, params))
        step_done()
        is_evaluated = training.step in evaluate_at
        is_kept = checkpoints is not None and checkpoints.due(training.step)
        if is_evaluated or is_kept:
            _check(training, train, params)
        if is_evaluated:
            optimizer.settle()
            losses = torch.stack(training.losses).tolist()
            losses_seen(training.step + 1 - len(losses), losses)
            rate = rates[0] * factor(training.step)
            measured = validate(task, model, validation, device, params.micro_batch)
            mean = float(numpy.mean(losses))
            _add(training, Point(training.step, training.step / per_epoch, mean, rate, *measured), losses, task, params)
            seen(training.curve[-1])
            if training.since_best >= params.patience:
                break
        if checkpoints and is_kept:
            checkpoints.write(training.step, training.state())
    return training.best, training.curve[training.best_at]


def _take_up(
    training: Training,
    checkpoints: Checkpoints,
    seen: Callable[[Point], None],
    step_done: Callable[[], None],
    losses_seen: Callable[[int, list[float]], None],
) -> None:
    """Go on from the latest checkpoint, if there is one."""
    state = checkpoints.latest()
    if state:
        training.restore(state)
    losses_seen(1, training.losses_before)
    for point in training.curve:
        seen(point)
    for _ in range(training.step):
        step_done()


def _add(training: Training, point: Point, losses: list[float], task: Task, params: Train) -> None:
    """Note an evaluation, and the weights if it is the best."""
    is_best = all(is_better(point, before, task.validation_metric) for before in training.curve)
    training.curve.append(point)
    training.losses_before += losses
    training.losses.clear()
    if is_best:
        training.best, training.best_at = _weights(training.model, params), len(training.curve) - 1


def is_better(point: Point, before: Point, metric: Metric) -> bool:
    """Whether an evaluation is better than one before it, by its score or by its loss.

    On some hundred rows either alone is noisy, and what came later has learned more, at a lower rate. The best one is
    better than each before it.
    """
    gain = point.validation_score - before.validation_score
    return (gain > 0 if metric.higher_is_better else gain < 0) or point.validation_loss < before.validation_loss


def _weights(model: torch.nn.Module, params: Train) -> Weights:
    """A copy on the processor, adapters merged into what they adapt."""
    if params.lora:
        from staytuned.modelling.lora import merged

        return merged(model)
    return {name: gathered(value.detach()).cpu().clone() for name, value in model.state_dict().items()}


def _check(training: Training, examples: Examples, params: Train) -> None:
    """Look at the losses since the last evaluation, and at the weights: seldom, for on a GPU each look waits.

    Raises:
        TrainingError: one of them is not a finite number.
    """
    losses = torch.stack(training.losses).tolist() if training.losses else []
    for step, loss in enumerate(losses, training.step + 1 - len(losses)):
        if not math.isfinite(loss):
            raise _stopped(f"the loss is {loss} at step {step}", step, examples, params)
    sums = (summed(weight.detach().sum()) for weight in training.model.parameters())  # quicker than a look at each
    if not all(total.isfinite() for total in sums):  # the last step did that
        raise _stopped(f"the weights are no finite numbers after step {training.step}", training.step, examples, params)


def _stopped(said: str, step: int, examples: Examples, params: Train) -> TrainingError:
    places = next(itertools.islice(_all_batches(examples, params), step - 1, None))
    names = [examples.names[place] for place in places]
    return TrainingError(f"{said}, whose batch held the rows {names}; lower train.learning_rate, or look at these rows")


def steps_in(examples: int, params: Train) -> int:
    """Steps of a whole training, if nothing stops it early."""
    return params.epochs * math.ceil(examples / params.batch_size)


def validate(
    task: Task, model: torch.nn.Module, side: Side, device: torch.device, at_once: int | None = None
) -> tuple[float, float]:
    """Mean loss of the examples, and the task's validation metric on the rows, of a side.

    Args:
        task: Of the model.
        model: To be asked.
        side: With rows and their examples.
        device: That the model is on.
        at_once: Examples of a batch at most, where memory is short.

    Raises:
        TrainingError: the memory does not suffice.
    """
    model.eval()
    batches = side.examples.batches_by_length()
    if at_once:
        batches = [batch[first : first + at_once] for batch in batches for first in range(0, len(batch), at_once)]

    @torch.inference_mode()
    def ask(places: list[int]) -> tuple[float, list[numpy.ndarray]]:
        batch = task.batch(side.examples, places, None).on(device)
        with memory_for(len(places), int(side.examples.lengths[places].max()), task.divisible):
            said = model(**batch.inputs)
            return float(task.loss(said.float(), batch.targets)) * len(places), task.outputs(said, batch)

    outputs, loss = dict[int, numpy.ndarray](), 0.0
    asked = in_threads(ask, batches) if are_in_memory(model.parameters()) else map(ask, batches)
    for places, (of_batch, said) in zip(batches, asked, strict=True):
        loss += of_batch
        outputs.update(zip(places, said, strict=True))
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
