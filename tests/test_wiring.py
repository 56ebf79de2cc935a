"""dvc.yaml, params.yaml and the code agree: what a stage imports, reads and writes is what it declares."""

import ast
import importlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import grimp
import pytest
from ruamel.yaml import YAML
from tiny import make_rows, make_workspace, write_csv

from staytuned import cli
from staytuned.data import batches, example
from staytuned.data.readers import Reader
from staytuned.data.sides import TRAINED_ON, row_hashes, rows_of
from staytuned.files import read_json, sha256, write_json
from staytuned.params import Params
from staytuned.registry import pin
from staytuned.sections import Ingest, Section
from staytuned.workspace import Workspace

pytestmark = pytest.mark.xdist_group("great expectations")  # one worker imports it

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "staytuned"
STAGES: dict[str, Any] = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
VIEWS = "reports/data-docs"  # for people; no output, since its pages hold times
PIECES = "var/pieces"  # what was dear to make; no output, since it changes nothing but the time that a stage takes


# What a stage imports

FOLDERS = ["src/staytuned/tasks", "src/staytuned/modelling"]  # tasks come and go, and are made of the second


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("staytuned", include_external_packages=True, cache_dir=None)


def file_of(module: str) -> Path:
    path = ROOT.joinpath("src", *module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def holds_code(path: Path) -> bool:
    """Whether there is more in a file than a docstring."""
    return any(not isinstance(node, ast.Expr) for node in ast.parse(path.read_text(encoding="utf-8")).body)


def closure(graph: grimp.ImportGraph, module: str) -> set[str]:
    """The module, all of the project that it imports, directly or not, and the packages that they are in."""
    modules = {module, *graph.find_upstream_modules(module)}
    own = {name for name in modules if name.split(".")[0] == "staytuned"}
    packages = {name.rsplit(".", depth)[0] for name in own for depth in range(1, name.count(".") + 1)}
    return own | packages


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_modules_that_a_stage_imports(imports: grimp.ImportGraph, stage: str) -> None:
    """A stage that loads the task may load any of them."""
    modules = closure(imports, f"staytuned.stages.{stage}")
    if "staytuned.tasks" in modules:
        installed = [name for name in imports.modules if within(name, ["staytuned.tasks"], ".")]
        modules.update(*(closure(imports, name) for name in installed))
    files = {file_of(module) for module in modules}
    paths = {str(path.relative_to(ROOT)) for path in files if holds_code(path)}
    folders = {folder for folder in FOLDERS if any(within(path, [folder], "/") for path in paths)}
    expected = folders | {path for path in paths if not within(path, FOLDERS, "/")}
    assert [dep for dep in STAGES[stage]["deps"] if dep.startswith("src/")] == sorted(expected)


def test_stages_are_modules_that_are_run_by_their_name() -> None:
    modules = {path.stem for path in (SOURCE / "stages").glob("*.py") if not path.stem.startswith("__")}
    assert set(STAGES) <= modules
    for name, stage in STAGES.items():
        assert stage["cmd"] == f"exec python -m staytuned.stages {name}"
        assert callable(importlib.import_module(f"staytuned.stages.{name}").run)


NEEDS: dict[str, set[str]] = {
    "validate": set(),  # Great Expectations comes as soon as it is at work
    "split": set(),
    "encode": set(),
    "train": {"torch", "transformers"},
    "evaluate": {"torch", "transformers"},
    "drift": set(),  # torch comes as soon as there is a champion
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_loads_only_what_it_needs(stage: str) -> None:
    """The task is loaded with it, as ``params.yaml`` names it."""
    look = f"""import sys; from pathlib import Path; import staytuned.stages.{stage}
from staytuned.params import Params
Params.read(Path({str(ROOT / "params.yaml")!r}))
print(*{{"torch", "transformers", "mlflow", "prefect", "great_expectations", "dvc"}} & set(sys.modules))"""
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == NEEDS[stage]


# What a stage reads and writes


@dataclass
class Ran:
    """What a stage did in a folder that held its declared inputs and nothing else."""

    params: set[str]  # that it looked at
    written: set[str]


class Watched:
    """Params, or a section of them, that notes by dotted name what is looked at."""

    def __init__(self, section: Section, seen: set[str], prefix: str = "") -> None:
        self._section, self._seen, self._prefix = section, seen, prefix

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._section, name)
        field = type(self._section).model_fields.get(name)
        if field is None:  # a method, such as Params.section: it is asked for a whole section
            return lambda section: [self._seen.add(section), value(section)][1]
        key = f"{self._prefix}{field.alias or name}"
        if isinstance(value, Section):
            return Watched(value, self._seen, f"{key}.")
        self._seen.add(key)
        return value


def copy(name: str, here: Path, there: Path) -> None:
    source, target = here / name, there / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy(source, target)


def names(items: list[Any]) -> list[str]:
    """Paths or params of dvc.yaml, which come bare or with options."""
    return [name for item in items for name in ([item] if isinstance(item, str) else item)]


def outputs(stage: str) -> list[str]:
    declared = STAGES[stage]
    return names([*declared["outs"], *declared.get("metrics", []), *declared.get("plots", [])])


def test_git_is_to_ignore_what_dvc_keeps() -> None:
    """Else an output that somebody commits stops every later run."""
    ignored = [line for line in (ROOT / ".gitignore").read_text().splitlines() if line.startswith("/")]
    kept = {
        f"/{name}" for stage in STAGES.values() for kind in ("outs", "plots") for name in names(stage.get(kind, []))
    }
    assert [out for out in sorted(kept) if not any(f"{out}/".startswith(f"{line}/") for line in ignored)] == []


def files(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): sha256(path) for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    """Each stage, run alone on what it declares."""
    folder = tmp_path_factory.mktemp("wiring")
    whole = make_workspace(folder / "whole")
    params = Params.read(whole.params)
    for seed, count in enumerate((120, 40)):
        rows = write_csv(folder / "rows.csv", make_rows(count, seed=seed))
        batches.add(whole, Reader(rows, params.ingest.columns, params.ingest.encodings))
    pin.refresh(whole, params, arrived=True)
    outcome = {}
    for stage, declared in STAGES.items():
        alone = folder / stage
        inputs = [dep for dep in declared["deps"] if not dep.startswith("src/")]
        for name in ["params.yaml", "base-models", *inputs]:
            copy(name, whole.root, alone)
        before, seen = files(alone), set[str]()
        run = importlib.import_module(f"staytuned.stages.{stage}").run
        run(Workspace(alone), Watched(params, seen))
        after = files(alone)
        assert {name: after.get(name) for name in before} == before, f"{stage} changed its inputs"
        outcome[stage] = Ran(seen, set(after) - set(before))
        for name in outputs(stage):
            copy(name, alone, whole.root)
        if stage == "train":
            make_champion(whole)
    return outcome


def make_champion(workspace: Workspace) -> None:
    """Pin the candidate as a champion that never saw the last batch."""
    shutil.copytree(workspace.candidate, workspace.pin / "champion")
    about = read_json(workspace.pin / "champion" / "staytuned.json")
    first = batches.manifest(workspace)[0].batch[:16]
    write_json(workspace.pin / "champion" / "staytuned.json", about | {"batches": [first]})
    rows = rows_of(workspace, "train")
    row_hashes(rows[rows["batch"] == first]).tofile(workspace.pin / "champion" / TRAINED_ON)
    write_json(workspace.pin / "pin.json", {"champion": {"version": 1, "weights": "its hash"}, "best": None})


def within(name: str, declared: list[str], mark: str) -> bool:
    return any(name == one or name.startswith(one + mark) for one in declared)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_writes_what_it_declares_and_nothing_else(ran: dict[str, Ran], stage: str) -> None:
    undeclared = {name for name in ran[stage].written if not within(name, [*outputs(stage), VIEWS, PIECES], "/")}
    assert undeclared == set()
    for name in outputs(stage):
        assert any(within(written, [name], "/") for written in ran[stage].written), f"{name} was not written"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_looks_only_at_params_that_dvc_tracks_for_it(ran: dict[str, Ran], stage: str) -> None:
    tracked = names(STAGES[stage]["params"])
    assert {name for name in ran[stage].params if not within(name, tracked, ".")} == set()


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_tracks_no_params_that_the_stage_never_looks_at(ran: dict[str, Ran], stage: str) -> None:
    for tracked in names(STAGES[stage]["params"]):
        assert any(within(name, [tracked], ".") for name in ran[stage].params), tracked


@pytest.mark.parametrize("stage", STAGES)
def test_tracked_params_exist(stage: str) -> None:
    values = YAML(typ="safe").load(ROOT / "params.yaml")
    for name in names(STAGES[stage]["params"]):
        place = values
        for key in name.split("."):
            assert key in place, f"dvc.yaml tracks {name} for {stage}"
            place = place[key]


# What stands in two places


def test_a_new_workspace_is_made_of_the_projects_own_files() -> None:
    links = [path for path in (SOURCE / "template").rglob("*") if path.is_symlink()]
    assert {path.name for path in links} >= {"dvc.yaml", "params.yaml", "retrain.py"}
    for link in links:
        assert link.is_file(), f"{link} leads nowhere"
        assert ROOT in link.resolve().parents
        assert "template" not in link.resolve().parts


def test_the_sources_of_the_example_are_the_same_everywhere() -> None:
    options = {option for one in get_args(Ingest.model_fields["example"].annotation) for option in get_args(one)}
    assert set(cli.SOURCES) == set(example.FILES) == options


REPORTING = """
import staytuned, dvc.analytics, huggingface_hub.constants, mlflow.telemetry.utils, prefect.settings
print(
    dvc.analytics.is_enabled(),
    not huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY,
    not mlflow.telemetry.utils.is_telemetry_disabled(),
    prefect.settings.get_current_settings().server.analytics_enabled,
)
"""


def test_no_tool_reports_its_usage() -> None:
    """By each tool's own word, in a process whose environment says nothing about it."""
    environment = {"PATH": str(Path(sys.executable).parent), "HOME": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", REPORTING], env=environment, capture_output=True, text=True)
    assert done.stdout == "False False False False\n", done.stderr
