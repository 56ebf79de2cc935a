"""Policies of retraining that a backtest sets side by side."""

import re
from dataclasses import dataclass
from typing import Literal

from staytuned.errors import ParamsError

KNOWN = "never, scratch, periodic-N, staytuned"


@dataclass(frozen=True)
class Policy:
    """When to retrain, and from what; the first arrival is always trained on."""

    name: str
    every: int | None  # arrivals; None: the triggers of params.yaml say when
    start: Literal["base", "champion"]
    gated: bool = False  # whether a candidate must pass the gate


def policy_of(name: str, start: Literal["base", "champion"]) -> Policy:
    """The policy of a name.

    Args:
        name: ``never`` retrains; ``scratch`` does at every arrival, from the base model, on all rows so far;
            ``periodic-N`` does that at every Nth; ``staytuned`` is what `staytuned run --if-needed` does.
        start: What the last of these starts from: ``train.start``.

    Raises:
        ParamsError: there is no such policy.
    """
    if name == "never":
        return Policy(name, every=0, start="base")
    if name == "scratch":
        return Policy(name, every=1, start="base")
    if name == "staytuned":
        return Policy(name, every=None, start=start, gated=True)
    if match := re.fullmatch(r"periodic-([1-9]\d*)", name):
        return Policy(name, every=int(match[1]), start="base")
    raise ParamsError(f"there is no policy {name!r}; known: {KNOWN}")
