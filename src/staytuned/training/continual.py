"""Continual training: on from the champion, on the rows that are new to it and a replay of old ones.

Replay keeps what was learned from earlier rows at a fraction of their cost (Robins 1995; for language models
de Masson d'Autume et al. 2019, section 3), and so does, at no cost, the mean of the champion's weights and the new ones
(Wortsman et al. 2022, section 3).
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy

from staytuned.data.sides import are_new
from staytuned.errors import DataError, ParamsError
from staytuned.files import read_json
from staytuned.modelling.examples import Examples
from staytuned.params import Params
from staytuned.sections import Train
from staytuned.tasks import Task
from staytuned.workspace import Workspace

if TYPE_CHECKING:  # what a training costs is asked without torch
    from staytuned.training.state import Weights


def champion_to_start_from(workspace: Workspace) -> Path | None:
    """Folder of the champion that training goes on from; None where it starts from the base model."""
    folder = workspace.pin / "start"
    return folder if (folder / "model.safetensors").is_file() else None


def continued(options: Train) -> Train:
    """The options where training goes on: a lower rate forgets less, and the head does not start from nothing."""
    rate = (options.head_learning_rate if options.frozen else options.learning_rate) * options.continued_rate
    return options.model_copy(update={"learning_rate": rate, "head_learning_rate": rate})


def mean_with(champion: "Weights", learned: "Weights", share: float) -> "Weights":
    """The champion's weights at ``share``, those learned from them at the rest; whole numbers are the learned ones."""
    return {
        name: weight.lerp(champion[name], share) if weight.is_floating_point() else weight
        for name, weight in learned.items()
    }


def check_continues(champion: Path, params: Params, task: Task, base: str) -> None:
    """The champion must have learned the same task on the same base model, of SHA-256 ``base``.

    Raises:
        ParamsError: it learned something else.
    """
    about = read_json(champion / "staytuned.json")
    now = {
        "task.name": (about["class"], f"{type(task).__module__}:{type(task).__qualname__}"),
        "task": (about["task"], params.section("task")),
        "model.base": (about["base"]["sha256"], base),
        "encode.max_tokens": (about["max_tokens"], params.encode.max_tokens),
    }
    other = [key for key, (then, today) in now.items() if then != today]
    if other:
        raise ParamsError(
            f"train.start is 'champion', but the champion was trained with another {other[0]}; set train.start to "
            "'base', or set that back"
        )


def new_to(champion: Path, train: Examples) -> numpy.ndarray:
    """Which rows of the examples the champion has not learned, shape (rows,)."""
    return are_new([train.names[places[0]] for places in train.by_row], champion)


def with_replay(train: Examples, champion: Path, replay: float, seed: int) -> Examples:
    """The examples of all rows that are new to the champion, and of ``replay`` old rows for each of them.

    Raises:
        DataError: no row is new to it.
    """
    is_new = new_to(champion, train)
    if not is_new.any():
        raise DataError(
            f"none of the {len(is_new)} training rows is new to the champion, which training is to go on from; ingest "
            "new rows, or set train.start to 'base'"
        )
    return train.of_rows(chosen(is_new, replay, seed).tolist())


def chosen(is_new: numpy.ndarray, replay: float, seed: int) -> numpy.ndarray:
    """Places of all new rows, and of ``replay`` others for each of them, drawn at random; in order."""
    new, old = numpy.flatnonzero(is_new), numpy.flatnonzero(~is_new)
    count = min(len(old), round(replay * len(new)))
    again = numpy.random.default_rng([seed, len(new)]).choice(old, count, replace=False)
    return numpy.sort(numpy.concatenate([new, again]))
