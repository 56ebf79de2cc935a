"""The command line: quick to answer, and its help is what its docstrings say."""

import argparse
import inspect
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from shell import command as words_of

from staytuned import cli, commands, errors

HEAVY = {"torch", "transformers", "mlflow", "prefect", "great_expectations", "dvc", "pandas", "numpy", "pyarrow"}
NAMES = [command.__name__ for command in commands.COMMANDS]

HELP = """
import sys
sys.argv = ["staytuned", *sys.argv[1:]]
from staytuned.cli import main
try:
    main()
except SystemExit:
    pass
print("loaded:", *sys.modules, file=sys.stderr)
"""


def loaded(*words: str) -> set[str]:
    """Top-level packages in a fresh process after it answered."""
    done = subprocess.run([sys.executable, "-c", HELP, *words], capture_output=True, text=True, check=True)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("loaded: ")]
    return {module.split(".")[0] for module in line.split()[1:]}


def say(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words_of(*words), cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"]])
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    assert HEAVY & loaded(*words) == set()


def test_help_names_every_command_with_the_first_line_of_its_docstring(tmp_path: Path) -> None:
    shown = " ".join(say(tmp_path, "--help").stdout.split())
    for command in commands.COMMANDS:
        first_line = inspect.getdoc(command).splitlines()[0]  # type: ignore[union-attr]
        assert f" {command.__name__} {first_line}" in shown


def example_of(command: commands.Command) -> list[str]:
    (line,) = [line for line in str(inspect.getdoc(command)).splitlines() if line.startswith("Example: ")]
    return shlex.split(line.removeprefix("Example: "))


@pytest.mark.parametrize("command", commands.COMMANDS, ids=NAMES)
def test_a_commands_docstring_is_its_help_and_its_example_parses(
    command: commands.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    program, *words = example_of(command)
    arguments = cli.parser().parse_args(words)
    assert program == "staytuned"
    assert arguments.command is command
    with pytest.raises(SystemExit):
        cli.parser().parse_args([words[0], "--help"])
    assert str(inspect.getdoc(command)) in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["fly"],
        ["predict"],
        ["predict", "a text", "--file", "rows.csv"],
        ["predict", "--file", "rows.csv"],
        ["predict", "a text", "--out", "out.csv"],
        ["predict", "--file", "rows.csv", "--out", "out.csv", "--pair", "another"],
        ["--workspace", "there", "init", "here"],
        ["demo", "--workspace", "there"],
        ["example", "poem"],
        ["ingest"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2_with_the_usage(tmp_path: Path, words: list[str]) -> None:
    done = say(tmp_path, *words)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: staytuned")
    assert done.stdout == ""


def test_the_version_can_be_asked_for_anywhere(tmp_path: Path) -> None:
    assert say(tmp_path, "--version").stdout == f"{version('staytuned')}\n"


def test_outside_a_workspace_the_error_says_how_to_get_one(tmp_path: Path) -> None:
    for words in (["run"], ["predict", "a text"], ["--workspace", str(tmp_path), "sync"]):
        done = say(tmp_path, *words)
        assert done.returncode == errors.MissingError.exit_status
        assert done.stderr.startswith(f"error: no workspace at {tmp_path} or above it")
        assert "staytuned init DIR" in done.stderr


def test_init_makes_a_workspace_once(tmp_path: Path) -> None:
    first, again = say(tmp_path, "init", "mine"), say(tmp_path, "init", "mine")
    assert first.returncode == 0
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {
        ".dvc",
        ".dvcignore",
        ".gitignore",
        "behaviour.yaml",
        "code.yaml",
        "data",
        "dvc.yaml",
        "params.yaml",
        "pipelines",
    }
    params = (tmp_path / "mine" / "params.yaml").read_text()  # null as the README writes it, and its comments
    assert "    id: null" in params and "# 0: the likeliest label" in params
    assert again.returncode == errors.DataError.exit_status
    assert again.stderr == "error: mine is a workspace already; nothing was changed\n"


@pytest.mark.parametrize("own", ["behaviour.yaml", ".dvc", "code.yaml"])
def test_init_overwrites_nothing(tmp_path: Path, own: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / own).write_text("of the user's\n")
    done = say(tmp_path, "init", "mine")
    assert done.returncode == errors.DataError.exit_status
    assert done.stderr == f"error: mine holds {own} already; nothing was changed: name another folder\n"
    (left,) = (tmp_path / "mine").iterdir()
    assert left.read_text() == "of the user's\n"


def test_what_git_ignores_in_a_folder_it_goes_on_to_ignore(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*.secret\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.csv").write_text("text,label\n")
    assert say(tmp_path, "init", ".").returncode == 0
    ignored = (tmp_path / ".gitignore").read_text().splitlines()
    assert ignored[0] == "*.secret" and "/var" in ignored
    assert (tmp_path / "data" / "rows.csv").exists() and (tmp_path / "params.yaml").exists()
    assert not list(tmp_path.glob(".init-*"))


def test_a_young_workspace_has_nothing_to_sync(tmp_path: Path) -> None:
    say(tmp_path, "init", "mine")
    done = say(tmp_path / "mine", "sync")
    assert done.returncode == 0, done.stderr


def test_a_workspace_of_another_task_has_its_sections_apart(tmp_path: Path) -> None:
    assert say(tmp_path, "init", "mine", "--task", "token-classification").returncode == 0
    assert "\n\nmodel:\n" in (tmp_path / "mine" / "params.yaml").read_text()


def test_every_error_has_the_exit_status_that_its_drawing_says() -> None:
    drawn = {}
    for line in (errors.__doc__ or "").splitlines():
        name, *rest = line.replace("│", " ").replace("├──", " ").replace("└──", " ").split() or [""]
        if name.endswith("Error") and rest and rest[0].isdigit():
            drawn[name] = int(rest[0])
    own = {
        name: error.exit_status
        for name, error in vars(errors).items()
        if isinstance(error, type) and issubclass(error, errors.StaytunedError) and error is not errors.StageError
    }
    assert drawn == own


def test_arguments_reach_their_command() -> None:
    found = cli.parser().parse_args(["--workspace", "w", "predict", "--file", "in.csv", "--out", "out.csv"])
    expected = {"file": Path("in.csv"), "out": Path("out.csv"), "text": None, "workspace": Path("w")}
    assert isinstance(found, argparse.Namespace)
    assert {name: getattr(found, name) for name in expected} == expected
    assert cli.parser().parse_args(["status", "--workspace", "w"]).workspace == Path("w")
