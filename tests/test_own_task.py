"""A task from another package goes the whole road: the one that docs/how-to/add-a-task.md shows, word for word."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from tiny import make_base, make_rows, tiny_params, write_csv

from staytuned.entry_points import class_at
from staytuned.errors import MissingError
from staytuned.files import read_json
from staytuned.params import Params
from staytuned.workspace import Workspace

PAGE = (Path(__file__).parents[1] / "docs" / "how-to" / "add-a-task.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """The page's code in a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def test_a_model_whose_task_is_not_installed_is_refused_by_name() -> None:
    with pytest.raises(MissingError, match="task SpamFilter, whose module 'spam_filter' is not installed here"):
        class_at("spam_filter:SpamFilter")


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """An environment in which the page's package is installed, as pip would leave it."""
    site, project = tmp_path / "site", tomllib.loads(block("toml"))["project"]
    about = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir(parents=True)
    (site / "spam_filter.py").write_text(block("python"), encoding="utf-8")
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = "".join(f"{name} = {place}\n" for name, place in project["entry-points"]["staytuned.tasks"].items())
    (about / "entry_points.txt").write_text(f"[staytuned.tasks]\n{lines}")
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def staytuned(folder: Path, environment: dict[str, str], *words: str) -> str:
    command = [sys.executable, "-m", "staytuned.cli", "--workspace", str(folder), *words]
    done = subprocess.run(command, cwd=folder.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_task_of_another_package_goes_the_whole_road(
    installed: dict[str, str], prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "spam"
    command = [sys.executable, "-m", "staytuned.cli", "init", str(folder), "--task", "spam-filter"]
    subprocess.run(command, env=installed, check=True, capture_output=True)
    values = YAML().load(folder / "params.yaml")
    assert values["task"] == {"name": "spam-filter", "labels": ["spam", "mail"], "label_from_rating": None}
    make_base(folder / "base-models" / "tiny")
    workspace = Workspace(folder)
    tiny_params(workspace, gate__bounds={"f1": 0.4})
    rows = [row | {"label": {"negative": "spam"}.get(row["label"], "mail")} for row in make_rows(400)]
    staytuned(folder, installed, "ingest", str(write_csv(tmp_path / "rows.csv", rows)))
    said = staytuned(folder, installed, "run")
    assert "PROMOTE" in said and "F1 of spam" in said
    report = read_json(workspace.evaluation / "evaluation.json")
    assert [metric["name"] for metric in report["metrics"]] == ["f1", "precision", "recall"]
    assert report["models"]["candidate"]["metrics"]["f1"] > report["models"]["base"]["metrics"]["f1"]
    label, _, version = staytuned(folder, installed, "predict", "a broken lamp").strip().split("\t")
    assert label in ("spam", "mail") and version == "version 1"
    assert "nothing to do" in staytuned(folder, installed, "run")
    changed = Path(installed["PYTHONPATH"].split(os.pathsep)[0]) / "spam_filter.py"
    code = (folder / "code.yaml").read_text()
    changed.write_text(changed.read_text() + "# another line\n")
    staytuned(folder, installed, "ingest", str(tmp_path / "rows.csv"))  # any command that leads to the stages
    assert (folder / "code.yaml").read_text() != code


def test_a_task_that_was_made_for_another_staytuned_is_named(installed: dict[str, str], tmp_path: Path) -> None:
    module = Path(installed["PYTHONPATH"].split(os.pathsep)[0]) / "spam_filter.py"
    module.write_text("from staytuned.tasks import what_is_gone\n", encoding="utf-8")
    command = [sys.executable, "-m", "staytuned.cli", "init", str(tmp_path / "spam"), "--task", "spam-filter"]
    done = subprocess.run(command, env=installed, capture_output=True, text=True)
    assert done.returncode == 66 and "Traceback" not in done.stderr
    assert "the task 'spam-filter' of spam_filter:SpamFilter cannot be imported: cannot import name" in done.stderr


def test_without_its_package_the_task_is_not_known(tmp_path: Path) -> None:
    from staytuned.errors import MissingError
    from staytuned.start import init

    with pytest.raises(MissingError, match=r"there is no task 'spam-filter'; installed are .*text-classification"):
        init(tmp_path / "spam", "spam-filter")
    assert not (tmp_path / "spam").exists()
    assert Params.read(init(tmp_path / "plain").params).task.name == "text-classification"
