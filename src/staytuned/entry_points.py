"""Tasks by name, from the entry-point group ``staytuned.tasks``: the package's own and those of other packages."""

import importlib
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from staytuned.errors import MissingError

GROUP = "staytuned.tasks"


@cache
def task_names() -> list[str]:
    """Names of all installed tasks, sorted."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


@cache
def task_class(name: str) -> Any:
    """The class of a task, a subclass of ``staytuned.tasks.Task``.

    Raises:
        MissingError: no installed package brings a task of that name, or its module does not go with this staytuned.
    """
    for entry in entry_points(group=GROUP, name=name):
        try:
            return entry.load()
        except ImportError as error:
            raise MissingError(
                f"the task {name!r} of {entry.value} cannot be imported: {error}; install a version of its package "
                "that goes with this staytuned"
            ) from error
    raise MissingError(f"there is no task {name!r}; installed are {', '.join(task_names())}")


def task_files() -> list[Path]:
    """Source files of all installed tasks, found without importing them."""
    modules = sorted({entry.module for entry in entry_points(group=GROUP)})
    return [Path(spec.origin) for module in modules if (spec := find_spec(module)) and spec.origin]


def class_at(place: str) -> Any:
    """The class at ``module:name``, for a model that was carried to where its package is not installed.

    Raises:
        MissingError: nor is its module on the path.
    """
    module, name = place.split(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0]:
            raise
        raise MissingError(
            f"the model is of the task {name}, whose module {module!r} is not installed here; install its package"
        ) from None
