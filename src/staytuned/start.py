"""A new workspace, from the files of the project's own."""

import shutil
import tempfile
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from staytuned.entry_points import task_class
from staytuned.errors import DataError
from staytuned.params import Params
from staytuned.pipeline import SOURCE, pin_code
from staytuned.workspace import Workspace

HIDDEN = {
    "gitignore": ".gitignore",
    "dvcignore": ".dvcignore",
    "dvc/gitignore": "dvc/.gitignore",
    "dvc": ".dvc",
}
JOINED = (".gitignore", ".dvcignore")  # with what a folder has under that name
REPLACED = ("bounds", "margins", "descriptions")  # whole, since their keys are a task's own
NULL = "tag:yaml.org,2002:null"
OWN_DATA = {  # the example's params, less the example: a label column, no further columns, nothing to fetch
    "ingest": {
        "example": None,
        "columns": {"text": "text", "label": "label", "id": None, "source": None, "group": None, "keep": []},
    },
    "split": {"validation": 0.08},  # few rows need a larger share to choose by
    "gate": {"margins": {}, "sources": {"bounds": {}}},
    "compare": {"descriptions": {}},
}


def init(folder: Path, task: str = "text-classification") -> Workspace:
    """Make a workspace for data of one's own in ``folder``, which may hold other things, but no workspace.

    Raises:
        DataError: there is one already, or something that a workspace has of its own.
        MissingError: no installed package brings the task.
    """
    differences = task_class(task).start

    def own(workspace: Workspace) -> None:
        change(workspace.params, OWN_DATA | {"registry": {"model": task}})
        change(workspace.params, differences | {"task": {"name": task} | differences["task"]})
        keep_checks_for_any_label(workspace)

    return make(folder, own)


def make(folder: Path, furnish: Callable[[Workspace], None] = lambda workspace: None) -> Workspace:
    """Make a workspace with the example's params, or as ``furnish`` changes it; params.yaml and dvc.yaml come last.

    Raises:
        DataError: there is one already, or something that a workspace has of its own.
    """
    if (folder / "params.yaml").exists() or (folder / "dvc.yaml").exists():
        raise DataError(f"{folder} is a workspace already; nothing was changed")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".init-") as scratch:
        workspace = Workspace(Path(scratch).resolve() / "workspace")
        _lay_out(workspace)
        furnish(workspace)
        made = sorted(workspace.root.iterdir(), key=lambda path: path.name in ("params.yaml", "dvc.yaml"))
        taken = [path.name for path in made if (folder / path.name).exists() and path.name not in JOINED]
        if taken:
            raise DataError(f"{folder} holds {', '.join(taken)} already; nothing was changed: name another folder")
        for path in made:
            if (folder / path.name).is_file():  # the user's stands first
                path.write_text(f"{(folder / path.name).read_text(encoding='utf-8')}\n{path.read_text()}", "utf-8")
            path.replace(folder / path.name)
    (folder / "data").mkdir(exist_ok=True)
    return Workspace(folder.resolve())


def _lay_out(workspace: Workspace) -> None:
    """The template's files, each under its name."""
    with as_file(files("staytuned") / "template") as template:
        shutil.copytree(template, workspace.root, ignore=shutil.ignore_patterns("__pycache__"))
    for name, hidden in HIDDEN.items():
        (workspace.root / name).replace(workspace.root / hidden)
    _for_installed_code(workspace.root / "dvc.yaml")
    pin_code(workspace)


def keep_checks_for_any_label(workspace: Workspace) -> None:
    """Of the example's behavioural checks, those that ask for none of its labels, where the task can use them."""
    from staytuned import tasks

    task = tasks.load(Params.read(workspace.params))
    usable = "change:" if task.can_be_part and task.classes else None
    lines = workspace.behaviour.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.startswith("#") or (usable and usable in line)]
    workspace.behaviour.write_text("\n".join([*kept, *([] if usable else ["[]"])]) + "\n", encoding="utf-8")


def change(path: Path, differences: dict[str, Any]) -> None:
    """Change values of a params.yaml; its comments stay."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.representer.add_representer(type(None), lambda writer, _: writer.represent_scalar(NULL, "null"))
    params = yaml.load(path)
    _update(params, differences)
    yaml.dump(params, path)


def _update(params: Any, differences: dict[str, Any]) -> None:
    """Change values in place."""
    for name, value in differences.items():
        whole = name in REPLACED or (name == "task" and value.get("name", params[name]["name"]) != params[name]["name"])
        if isinstance(value, dict) and name in params and not whole:
            _update(params[name], value)
            continue
        params[name] = value
        if name == "task":  # the blank line after it was a part of it
            params.yaml_set_comment_before_after_key("model", before="\n")


def _for_installed_code(path: Path) -> None:
    """The modules of the stages are not in the workspace: their hashes in ``code.yaml`` stand for them."""
    yaml = YAML(typ="rt")
    pipeline = yaml.load(path)
    for name, stage in pipeline["stages"].items():
        stage["deps"] = [dep for dep in stage["deps"] if not dep.startswith(SOURCE)]
        stage["params"].append({"code.yaml": [name]})
    yaml.dump(pipeline, path)
