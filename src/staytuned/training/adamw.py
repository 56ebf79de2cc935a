"""AdamW that leaves rows of an embedding alone until they are read: a batch reads some hundred of many thousand."""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.optim.adamw import adamw
from transformers import PreTrainedModel

from staytuned.modelling.threads import by_lists

SWEEP = 50  # steps after which all rows that still move are brought up to date
STILL = 200  # steps without a gradient after which momentum moves a row by less than the rounding of its weights

MOMENTA = ("exp_avg", "exp_avg_sq")

Group = dict[str, Any]


def sparse_embeddings(model: torch.nn.Module) -> list[torch.nn.Embedding]:
    """The embeddings of words whose gradient is 0 but for the words of a batch; from now on they give it as such.

    A table that another layer reads too, such as the output layer, has a gradient for every word. Of two models in one
    the first one's table alone: the rates of the steps that its rows have missed are kept by its group of weights.
    """
    readers = Counter(id(part.weight) for part in model.modules() if isinstance(getattr(part, "weight", None), Tensor))
    found: list[torch.nn.Embedding] = []
    for part in model.modules():
        words = part.get_input_embeddings() if isinstance(part, PreTrainedModel) else None
        if not isinstance(words, torch.nn.Embedding) or found:
            continue
        if words.weight.requires_grad and readers[id(words.weight)] == 1:
            words.sparse = True
            found.append(words)
    return found


class AdamW(torch.optim.AdamW):
    """AdamW (Loshchilov & Hutter 2019, algorithm 2) in which rows without a gradient make up for their steps later.

    Decay and momentum move such rows too. Here they do so when the row is read, step by step as they would have in
    time: the weights are those of torch's own AdamW up to rounding.

    Args:
        groups: Parameters with ``lr`` and ``weight_decay``, as torch takes them.
        embeddings: Those that give sparse gradients; what each reads is brought up to date before.
    """

    def __init__(self, groups: Iterable[Group], embeddings: Iterable[torch.nn.Embedding] = ()) -> None:
        super().__init__(groups, fused=True)
        self._tables = [embedding.weight for embedding in embeddings]
        for group in self.param_groups:
            group["rates"] = []  # learning rates of the last steps, back to where no row was behind
        for embedding in embeddings:
            embedding.register_forward_pre_hook(self._before_reading)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step along the gradients."""
        slopes = [(group, weight, weight.grad) for group, weight in self._grouped() if weight.grad is not None]
        for _, weight, _ in slopes:
            weight.grad = None  # torch then passes it over
        self._step_others()
        for group, weight, slope in slopes:
            weight.grad = slope
            self._step_table(group, weight, slope.coalesce())

    def _step_others(self) -> None:
        """What torch's own step does, by lists of weights."""
        for group in self.param_groups:
            columns: list[list[Tensor]] = [[] for _ in range(6)]  # as torch's function takes them, weights first
            self._init_group(group, *columns)  # type: ignore[no-untyped-call]
            by_lists(partial(_adamw, group, columns), columns[0])

    @torch.no_grad()
    def catch_up(self, tokens: Iterable[Tensor]) -> None:
        """Bring the rows of these tokens up to date, before several threads read them at the same time."""
        rows = torch.unique(torch.cat([values.flatten() for values in tokens]))
        for group, weight in self._grouped():
            self._make_up(group, weight, rows)

    @torch.no_grad()
    def settle(self) -> None:
        """Bring all rows up to date: before weights are used otherwise than through their embedding."""
        for group, weight in self._grouped():
            self._make_up(group, weight, torch.arange(len(weight)))
            group["rates"].clear()

    def state_dict(self) -> dict[str, Any]:
        """As torch gives it, but of a table the momentum of rows that have had a gradient: the others have none."""
        whole = super().state_dict()
        return whole | {"state": {place: _compact(state) for place, state in whole["state"].items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        states = {place: _whole(state) for place, state in state_dict["state"].items()}
        super().load_state_dict(state_dict | {"state": states})

    def _grouped(self) -> Iterator[tuple[Group, Tensor]]:
        for weight in self._tables:
            yield next((group, weight) for group in self.param_groups if any(weight is p for p in group["params"]))

    @torch.no_grad()
    def _before_reading(self, embedding: torch.nn.Module, inputs: tuple[Tensor]) -> None:
        for group, weight in self._grouped():
            if weight is embedding.weight:
                self._make_up(group, weight, torch.unique(inputs[0]))

    def _step_table(self, group: Group, weight: Tensor, slope: Tensor) -> None:
        """One step of a whole table, of which the rows with a gradient take part now, the others later."""
        state, rows = self.state[weight], slope.indices()[0]
        if not state:
            count = len(weight)
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
            state["done"] = torch.zeros(count)  # steps that a row has made
            state["moved"] = torch.full((count,), -float(STILL))  # the last of them that had a gradient
        self._make_up(group, weight, rows)
        state["step"] += 1
        group["rates"].append(float(group["lr"]))
        now = float(state["step"])
        parts = self._rows_of(weight, rows)
        _fused(group, parts, slope.values(), now, group["lr"])
        self._put_back(weight, rows, parts)
        state["done"][rows] = state["moved"][rows] = now
        if now % SWEEP == 0:
            self._make_up(group, weight, (state["done"] - state["moved"] < STILL).nonzero().squeeze(1))

    def _make_up(self, group: Group, weight: Tensor, rows: Tensor) -> None:
        """Bring rows up to date."""
        state = self.state[weight]
        if not state:
            return
        done, now = state["done"], int(state["step"])
        rows = rows[done[rows] < now]
        if not len(rows):
            return
        moving = done[rows] - state["moved"][rows] < STILL
        self._decay(group, weight, rows[~moving], now)
        self._move(group, weight, rows[moving], now)
        done[rows] = float(now)

    def _decay(self, group: Group, weight: Tensor, rows: Tensor, now: int) -> None:
        """All missed steps at once of rows that have no momentum left."""
        state, rates = self.state[weight], numpy.array(group["rates"])
        lag = now - state["done"][rows].long()
        shrunk = numpy.append(1.0, numpy.cumprod((1 - rates * group["weight_decay"])[::-1]))  # by the last steps
        weight.index_copy_(0, rows, weight[rows] * torch.from_numpy(shrunk).to(weight)[lag, None])
        was = rows[state["moved"][rows] > 0]
        for name, beta in zip(MOMENTA, group["betas"], strict=True):
            faded = beta ** (now - state["done"][was])
            state[name].index_copy_(0, was, state[name][was] * faded[:, None])

    def _move(self, group: Group, weight: Tensor, rows: Tensor, now: int) -> None:
        """The missed steps of rows one after the other; at each, those that have missed it."""
        done, order = self.state[weight]["done"][rows].sort(stable=True)
        rows, parts = rows[order], self._rows_of(weight, rows[order])
        none = torch.zeros_like(parts[0])
        first = now - len(group["rates"])
        steps = torch.arange(int(done[0]) + 1, now + 1) if len(rows) else torch.arange(0)
        for step, count in zip(steps.tolist(), torch.searchsorted(done, steps.float()).tolist(), strict=True):
            _fused(group, [part[:count] for part in parts], none[:count], step, group["rates"][step - first - 1])
        self._put_back(weight, rows, parts)

    def _rows_of(self, weight: Tensor, rows: Tensor) -> list[Tensor]:
        """Copies of some rows: weights, mean of gradients, mean of their squares."""
        state = self.state[weight]
        return [table.index_select(0, rows) for table in (weight, state["exp_avg"], state["exp_avg_sq"])]

    def _put_back(self, weight: Tensor, rows: Tensor, parts: list[Tensor]) -> None:
        state = self.state[weight]
        for table, part in zip((weight, state["exp_avg"], state["exp_avg_sq"]), parts, strict=True):
            table.index_copy_(0, rows, part)


def _adamw(group: Group, columns: list[list[Tensor]], places: list[int]) -> None:
    """One step of the weights at some places."""
    weights, slopes, means, squares, largest, steps = (
        [column[place] for place in places if column] for column in columns
    )
    beta1, beta2 = group["betas"]
    with torch.no_grad():  # each thread has to say so
        adamw(
            weights,
            slopes,
            means,
            squares,
            largest,
            steps,
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def _compact(state: dict[str, Tensor]) -> dict[str, Tensor]:
    if "moved" not in state:
        return state
    rows = (state["moved"] > 0).nonzero().squeeze(1)
    return state | {"rows": rows} | {name: state[name][rows] for name in MOMENTA}


def _whole(state: dict[str, Tensor]) -> dict[str, Tensor]:
    if "rows" not in state:
        return state
    rest = {name: value for name, value in state.items() if name != "rows"}
    tables = {name: state[name].new_zeros(len(state["done"]), state[name].shape[1]) for name in MOMENTA}
    return rest | {name: table.index_copy_(0, state["rows"], state[name]) for name, table in tables.items()}


def _fused(group: Group, parts: list[Tensor], slope: Tensor, step: float, rate: float) -> None:
    """torch's own kernel on some rows, in place."""
    torch._fused_adamw_(
        [parts[0]],
        [slope],
        [parts[1]],
        [parts[2]],
        [],
        [torch.tensor(float(step))],
        lr=rate,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
    )
