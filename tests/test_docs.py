"""The commands that the documentation shows do what it says: each is run on a copy of the finished road."""

import re
import shlex
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from shell import staytuned
from test_road import ENVIRONMENT, IDENTITY, in_git, run
from tiny import make_rows, write_csv

from staytuned import tasks
from staytuned.cli import parser
from staytuned.params import Params
from staytuned.registry.ledger import Ledger
from staytuned.registry.versions import Registry
from staytuned.workspace import Workspace

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "how-to").rglob("*.md"))]
MENTIONS = ("staytuned init", "staytuned predict", "staytuned readmit", "staytuned ingest")
PLACEHOLDERS = {"BATCH", "FILE", "DIR"}
SHOWN = re.compile(r"^(?:\$ )?((?:staytuned|dvc) [^\n#]*)$|`((?:staytuned|dvc) [^`\n]+)`", re.MULTILINE)
# Commands that go to the network, stay up, need a store that is not there, or only take longer than one that is run:
# their words are parsed (as all are), not run.
PARSED = (
    *("staytuned ui", "staytuned watch", "staytuned example", "staytuned demo", "staytuned backtest --policies"),
    "staytuned train",
    *("dvc remote", "dvc pull", "dvc gc"),
)


def shown() -> list[str]:
    """Every command with its arguments, once, in the order of the pages; a bare name is a mention, not a command."""
    texts = (page.read_text(encoding="utf-8") for page in COMMAND_PAGES)
    found = ((one or other).split("&&")[0].strip() for text in texts for one, other in SHOWN.findall(text))
    runnable = (command for command in found if command not in MENTIONS and not PLACEHOLDERS & set(command.split()))
    return list(dict.fromkeys(runnable))


@pytest.fixture
def prepared(road: Workspace) -> Workspace:
    """The finished road with the files that the pages name, inside git."""
    write_csv(road.root / "rows.csv", make_rows(200, seed=1))
    bad = make_rows(40, seed=2)
    bad[0]["text"] = ""
    for words in (["ingest", write_csv(road.root / "bad.csv", bad)], ["sync"]):
        assert staytuned(road, *words).returncode == 0
    ledger = Ledger(road.ledger).entries()
    Registry(road, Params.read(road.params)).register_again(None, ledger[0].facts["weights"])  # a version 2 to promote
    run(road, "dvc", "repro", "validate")
    mended = road.quarantine.read_text(encoding="utf-8").replace(",,", ",a lovely lamp,", 1)
    (road.root / "corrected.csv").write_text(mended, encoding="utf-8")
    return in_git(road)


def test_the_pages_show_commands() -> None:
    commands = shown()
    assert {"staytuned run", "dvc repro", "staytuned readmit corrected.csv"} <= set(commands)


def test_the_commands_shown_are_whole() -> None:
    for name, *words in map(shlex.split, shown()):
        if name == "staytuned":
            parser().parse_args(words)


@pytest.mark.slow
def test_each_command_shown_works(prepared: Workspace) -> None:
    ran = []
    for command in shown():
        if command.startswith(PARSED):
            continue
        words = shlex.split(command)
        interpreter = [sys.executable, "-m", "staytuned.cli"] if words[0] == "staytuned" else [words[0]]
        done = subprocess.run(
            [*interpreter, *words[1:]], cwd=prepared.root, capture_output=True, text=True, env=environment()
        )
        # 4: the gate blocked a candidate that was trained on other rows; the command worked
        good = (0, 4) if command.startswith("staytuned run") else (0,)
        assert done.returncode in good, f"{command}: {done.stdout}{done.stderr}"
        ran.append(command)
    assert len(ran) >= 8


def environment() -> dict[str, str]:
    """A git identity, for `dvc exp run`, and the tools of this interpreter."""
    return ENVIRONMENT | IDENTITY


def test_the_metrics_of_each_task_are_shown() -> None:
    told = {
        task: re.findall(r"`(\w+)`", metrics)
        for names, metrics in re.findall(
            r"^\| (`[a-z`, -]+`) \| (`\w+`.*) \|$", (ROOT / "docs/how-to/tasks.md").read_text(), re.MULTILINE
        )
        for task in re.findall(r"`([a-z-]+)`", names)
    }
    known = {name: tasks.task_class(name) for name in entry_points(group="staytuned.tasks").names}
    own = {name: [one.name for one in task.metrics] for name, task in known.items() if name != "several-tasks"}
    assert {name: told[name] for name in own} == own


def test_the_make_targets_shown_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        name for page in PAGES for name in re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)$", page.read_text(), re.M)
    }
    assert {one or other for one, other in named} <= targets


def test_links_between_the_pages_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page}: {link}"
