"""A training under way, as one object that can be put away and taken up again."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch

from staytuned.training import ranks
from staytuned.training.sharded import gathered, restore_model, restore_optimizer

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


@dataclass
class Training:
    """All that changes while a model learns. Which examples and which rate a step has follows from its number."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0  # that was made last
    losses: list[torch.Tensor] = field(default_factory=list)  # of the steps since the last evaluation
    losses_before: list[float] = field(default_factory=list)  # of all steps before them
    curve: list[Point] = field(default_factory=list)
    best: Weights = field(default_factory=dict)  # at the best point of the curve
    best_at: int = 0  # its place in the curve

    @property
    def since_best(self) -> int:
        """Evaluations without improvement."""
        return len(self.curve) - 1 - self.best_at

    def state(self) -> dict[str, Any]:
        """A copy of all of it: dicts and lists of tensors and numbers, which later steps leave as they are."""
        held: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "losses": torch.stack(self.losses) if self.losses else torch.empty(0),  # one copy, however many there are
            "random": [ranks.of_all(state) for state in _random_states()],
        }
        return {name: _copied(value) for name, value in held.items()} | {
            "step": self.step,
            "losses_before": self.losses_before.copy(),
            "curve": [dataclasses.astuple(point) for point in self.curve],
            "best": self.best,  # never changed once it was taken
            "best_at": self.best_at,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what ``state`` gave, on whatever device the model is."""
        device = next(self.model.parameters()).device
        restore_model(self.model, state["model"])
        restore_optimizer(self.optimizer, state["optimizer"])
        self.losses = list(state["losses"].to(device).unbind())
        self.losses_before = state["losses_before"]
        self.step, self.best, self.best_at = state["step"], state["best"], state["best_at"]
        self.curve = [Point(*values) for values in state["curve"]]
        torch.set_rng_state(ranks.own(state["random"][0]))
        if state["random"][1:]:
            torch.cuda.set_rng_state(ranks.own(state["random"][1]))


def _random_states() -> list[torch.Tensor]:
    """Of torch's generators: the processor's, then that of the GPU."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_available() else [])]


def _copied(tree: Any) -> Any:
    if isinstance(tree, torch.Tensor):
        whole = gathered(tree.detach())  # a second copy on the GPU could be more than it holds
        return whole.to("cpu", copy=True, memory_format=torch.contiguous_format)
    if isinstance(tree, dict):
        return {key: _copied(value) for key, value in tree.items()}
    return [_copied(value) for value in tree] if isinstance(tree, list | tuple) else tree
