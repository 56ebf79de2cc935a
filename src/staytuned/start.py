"""A new workspace, from the files of the project's own."""

import shutil
from importlib.resources import as_file, files
from pathlib import Path

from ruamel.yaml import YAML

from staytuned.errors import DataError
from staytuned.pipeline import SOURCE, pin_code
from staytuned.workspace import Workspace

HIDDEN = {
    "gitignore": ".gitignore",
    "dvcignore": ".dvcignore",
    "dvc/gitignore": "dvc/.gitignore",
    "dvc": ".dvc",
}


def init(folder: Path) -> Workspace:
    """Make a workspace in ``folder``, which may hold other things, but no workspace.

    Raises:
        DataError: there is one already.
    """
    if (folder / "params.yaml").exists() or (folder / "dvc.yaml").exists():
        raise DataError(f"{folder} is a workspace already; nothing was changed")
    with as_file(files("staytuned") / "template") as template:
        shutil.copytree(template, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name, hidden in HIDDEN.items():
        (folder / name).replace(folder / hidden)
    workspace = Workspace(folder.resolve())
    _for_own_data(workspace.params)
    _for_installed_code(folder / "dvc.yaml")
    (folder / "data").mkdir(exist_ok=True)
    pin_code(workspace)
    return workspace


def _for_own_data(path: Path) -> None:
    """The example's params, less the example: a label column, no further columns, nothing to fetch."""
    yaml = YAML()
    yaml.preserve_quotes = True
    params = yaml.load(path)
    params["task"]["label_from_rating"] = None
    params["ingest"]["example"] = None
    columns: dict[str, object] = {
        "text": "text",
        "label": "label",
        "id": None,
        "source": None,
        "group": None,
        "keep": [],
    }
    params["ingest"]["columns"].update(columns)
    yaml.dump(params, path)


def _for_installed_code(path: Path) -> None:
    """The modules of the stages are not in the workspace: their hashes in ``code.yaml`` stand for them."""
    yaml = YAML(typ="rt")
    pipeline = yaml.load(path)
    for name, stage in pipeline["stages"].items():
        stage["deps"] = [dep for dep in stage["deps"] if not dep.startswith(SOURCE)]
        stage["params"].append({"code.yaml": [name]})
    yaml.dump(pipeline, path)
