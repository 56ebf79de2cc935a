"""One step of training: forward, backward, clipping, AdamW."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import reduce

import torch

from staytuned.modelling.dropout import drawn_from
from staytuned.modelling.products import Gathered
from staytuned.modelling.threads import apart, by_lists, count, in_threads
from staytuned.modelling.unpadded import UnpaddedModel, first_position
from staytuned.sections import Train
from staytuned.tasks import Batch, Task
from staytuned.training import ranks
from staytuned.training.adamw import AdamW, sparse_embeddings
from staytuned.training.sharded import summed
from staytuned.training.top_only import TopOnly


def make_optimizer(model: torch.nn.Module, params: Train) -> AdamW:
    """AdamW: the head, which starts from nothing, learns at a rate of its own; matrices decay, biases and norms do not.

    The model must be on its device. On a GPU a table of embeddings is updated faster than its rows are picked out, and
    several processes add up whole gradients.
    """
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = defaultdict(list)
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        rate = params.head_learning_rate if name.startswith("head.") else params.learning_rate
        groups[rate, params.weight_decay if weight.ndim > 1 else 0.0].append(weight)
    made = [{"params": weights, "lr": rate, "weight_decay": decay} for (rate, decay), weights in groups.items()]
    on_processor = all(weight.device.type == "cpu" for weight in model.parameters())
    return AdamW(made, sparse_embeddings(model) if on_processor and params.processes == 1 else [])


def train_step(task: Task, model: torch.nn.Module, optimizer: AdamW, batch: Batch, params: Train) -> torch.Tensor:
    """Learn from a batch; returns its loss before the step."""
    is_small = isinstance(model, TopOnly)  # too small for threads to share
    with apart() if is_small or takes_threads(task, model, params) else nullcontext():
        return _train_step(task, model, optimizer, batch, params)


def _train_step(task: Task, model: torch.nn.Module, optimizer: AdamW, batch: Batch, params: Train) -> torch.Tensor:
    optimizer.zero_grad(set_to_none=True)
    if takes_threads(task, model, params):
        optimizer.catch_up([values for name, values in batch.inputs.items() if name.endswith("_ids")])
    loss = _gradient(task, model, batch, params)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    if params.sharpness:
        with uphill(weights, params.sharpness):
            optimizer.zero_grad(set_to_none=True)
            _gradient(task, model, batch, params)
    clip(weights, params.clip)
    optimizer.step()
    return loss


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 on a GPU, float32 on the processor."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else nullcontext()


def _gradient(task: Task, model: torch.nn.Module, batch: Batch, params: Train) -> torch.Tensor:
    """The mean loss of a batch; its gradient is left in the parameters. Each part weighs as many terms as it has."""
    device, terms = next(model.parameters()).device, max(1, task.terms(batch))
    own, largest = ranks.share(batch)
    losses, size = [], params.micro_batch or largest
    for start in range(0, largest, size):  # as often in each process: they may have to put layers together
        part, counts = own.rows(slice(start, start + size)), 1.0
        if not part.size:
            part, counts = batch.rows(slice(0, 1)), 0.0
        weight = counts * task.terms(part) / terms
        if takes_threads(task, model, params):
            losses.append(_backward_in_threads(task, model, part, weight))
        else:
            losses.append(_backward(task, model, part.on(device), weight))
    return ranks.add_up(torch.stack(losses).sum(), model)


def _backward(task: Task, model: torch.nn.Module, batch: Batch, weight: float) -> torch.Tensor:
    """The weighted loss on a batch; its gradient is added to that of the parameters."""
    with autocast(batch.inputs["input_ids"].device):
        loss = task.loss(model(**batch.inputs).float(), batch.targets) * weight
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def takes_threads(task: Task, model: torch.nn.Module, params: Train) -> bool:
    """Whether parts of a batch pass through the model at the same time, each in a thread of its own.

    Where the loss is a mean over rows, and all random numbers are drawn by staytuned's own dropout.
    """
    if not isinstance(model, UnpaddedModel) or first_position(model.encoder.config) is None:
        return False
    if not task.divisible or params.lora or params.sharded:
        return False
    return count() > 1 and next(model.parameters()).device.type == "cpu"


def _backward_in_threads(task: Task, model: torch.nn.Module, batch: Batch, weight: float) -> torch.Tensor:
    """The same as ``_backward``, of as many parts at a time as there are threads; the gradients are added up."""
    learning = [one for one in model.parameters() if one.requires_grad]
    parts = parted(batch, count())
    seeds, terms = torch.randint(2**62, (len(parts),)).tolist(), max(1, task.terms(batch))
    gathered = Gathered(len(parts))

    def learn(number: int) -> tuple[torch.Tensor, tuple[torch.Tensor | None, ...]]:
        part = parts[number]
        with gathered.part(number):
            with drawn_from(seeds[number]):
                loss = task.loss(model(**part.inputs).float(), part.targets) * (weight * task.terms(part) / terms)
            slopes = torch.autograd.grad(loss, learning, allow_unused=True)  # less those that are gathered
        return loss.detach(), slopes

    def add_up(places: list[int]) -> None:
        for place in places:
            own, slopes = learning[place], [slope for _, of_part in found if (slope := of_part[place]) is not None]
            slopes = [own.grad, *slopes] if own.grad is not None else slopes
            own.grad = reduce(_add, slopes) if slopes else None

    found = list(in_threads(learn, range(len(parts))))
    by_lists(add_up, learning)
    return torch.stack([loss for loss, _ in found]).sum()


def parted(batch: Batch, count: int) -> list[Batch]:
    """A batch in so many parts, fewer if it has fewer rows, of about as many tokens each."""
    order = batch.inputs["attention_mask"].sum(dim=1).argsort(descending=True, stable=True)
    return [batch.rows(order[start::count]) for start in range(min(count, batch.size))]


def _add(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return one.add_(other) if not one.is_sparse and one.is_contiguous() else one + other


def clip(weights: Iterable[torch.Tensor], limit: float) -> None:
    """Scale all gradients down to a norm of ``limit``, where it is larger, as torch's ``clip_grad_norm_`` does."""
    slopes = [slope for _, slope in _slopes(weights)]
    values = [slope.values() if slope.is_sparse else slope for slope in slopes]
    scale = limit / (_norm(values) + 1e-6)
    if scale.is_cuda or scale < 1:  # a GPU is not waited for
        factor = scale.clamp(max=1.0)
        by_lists(lambda places: torch._foreach_mul_([values[place] for place in places], factor), values)


def _norm(values: list[torch.Tensor]) -> torch.Tensor:
    """Of the numbers of all tensors together."""
    norms = by_lists(lambda places: torch.nn.utils.get_total_norm([values[place] for place in places]), values)
    return summed(torch.stack(norms).norm() if len(norms) > 1 else norms[0])


@contextmanager
def uphill(weights: Iterable[torch.Tensor], radius: float) -> Iterator[None]:
    """The weights a distance of ``radius`` up their gradient, and back where they were.

    A step along the gradient found there leads to flat minima, which hold better on other rows (sharpness-aware
    minimisation: Foret et al. 2021, algorithm 1).
    """
    slopes = _slopes(weights)
    values = [slope.values() if slope.is_sparse else slope for _, slope in slopes]
    scale = radius / (_norm(values) + 1e-12)
    climb: list[torch.Tensor] = [slope for _, slope in slopes]

    def step_up(places: list[int]) -> None:
        with torch.no_grad():  # each thread has to say so
            for place in places:
                climb[place] = climb[place] * scale
                slopes[place][0].add_(climb[place])

    def step_down(places: list[int]) -> None:
        with torch.no_grad():
            for place in places:
                slopes[place][0].add_(climb[place], alpha=-1)

    by_lists(step_up, values)
    yield
    by_lists(step_down, values)


def _slopes(weights: Iterable[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Weights with their gradients; of a sparse one each row is there once."""
    found = []
    for weight in weights:
        if weight.grad is not None and weight.grad.is_sparse:
            weight.grad = weight.grad.coalesce()
        if weight.grad is not None:
            found.append((weight, weight.grad))
    return found
