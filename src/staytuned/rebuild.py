"""Build a registered version again, from what it carries and the data in the DVC remote, in a workspace of its own."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from staytuned import pipeline
from staytuned.errors import DataError, MissingError, RegistryError, StageError
from staytuned.files import read_json, sha256, write_text
from staytuned.params import Params
from staytuned.processes import DRIVER
from staytuned.progress import busy
from staytuned.registry.lineage import PACKAGES, installed
from staytuned.registry.tracking import name_of
from staytuned.registry.versions import WEIGHTS, Registry
from staytuned.start import change
from staytuned.surroundings import surroundings
from staytuned.workspace import Workspace

FILES = {name: name for name in ("dvc.yaml", "params.yaml", "behaviour.yaml")} | {
    "manifest.jsonl": "data/manifest.jsonl"
}


def rebuild(workspace: Workspace, version: int, folder: Path | None) -> None:
    """Train a version again and compare: weights where all is as it was, else what they are worth.

    Args:
        workspace: Where the registry and the DVC remote are known; nothing in it is changed.
        version: Of the registry.
        folder: To build in, new or empty; None: one that is gone afterwards.

    Raises:
        MissingError: the version, its lineage or its data is not there.
        RegistryError: what came out is not what was registered.
    """
    if folder and folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty; name a new folder")
    registry = Registry(workspace, Params.read(workspace.params))
    tags = registry.versions().get(version)
    if tags is None or WEIGHTS not in tags:
        raise MissingError(f"the registry has no version {version} of {registry.model!r} that staytuned registered")
    with tempfile.TemporaryDirectory() as scratch:
        place = Workspace((folder or Path(scratch) / "workspace").resolve())
        with busy(f"fetching version {version}, its lineage and its data"):
            lineage, metrics = registry.lineage(version, Path(scratch))
            code = registry.fetch(version, Path(scratch) / "model") / "code"
            _furnish(workspace, place, lineage)
        _train(place, code, "train")
        changed = _changed(lineage, place)
        if not changed:
            print(_compared_weights(version, tags[WEIGHTS], sha256(place.candidate / "model.safetensors")))
        else:
            print(f"the weights may differ here, so the metrics are compared: {'; '.join(changed)}")
            _train(place, code, "evaluate", known=_before(place, "train"))
            tolerance = read_json(lineage / "lineage.json")["tolerance"]
            print(_compared_metrics(version, metrics, place, tolerance))


def _furnish(workspace: Workspace, place: Workspace, lineage: Path) -> None:
    """Lay out the workspace: the version's own files, this one's base models and DVC remote, the data."""
    for name, target in FILES.items():
        (place.root / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(lineage / name, place.root / target)
    write_text(place.root / ".gitignore", "*\n")  # it may lie in a repository, which is to take none of it
    for pointer in lineage.glob("*.dvc"):
        shutil.copy(pointer, place.root / "data")
    folders = _yaml(place.params)["model"]["folders"]  # its params may not be what this code calls valid
    change(place.params, {"model": {"folders": [str((workspace.root / folder).resolve()) for folder in folders]}})
    shutil.copytree(workspace.root / ".dvc", place.root / ".dvc", ignore=lambda *_: {"cache", "tmp", "config.local"})
    with pipeline.opened(workspace) as repo:
        remotes = {name: dict(remote) for name, remote in repo.config["remote"].items()}
    with pipeline.opened(place) as repo, repo.config.edit("local") as settings:
        settings["remote"] = remotes  # with what stands in the local settings alone, as passwords do
    pipeline.pull(place, sorted(str(path) for path in (place.root / "data").glob("*.dvc")))


def _before(place: Workspace, last: str) -> list[str]:
    """The stages of dvc.yaml that a stage needs, each after those that it needs, and itself."""
    stages = _yaml(place.root / "dvc.yaml")["stages"]
    kinds = ("outs", "metrics", "plots")
    makes = {_name(out): stage for stage in stages for kind in kinds for out in stages[stage].get(kind, [])}
    found = list[str]()

    def add(stage: str) -> None:
        for dep in stages[stage]["deps"]:
            if dep in makes:
                add(makes[dep])
        if stage not in found:
            found.append(stage)

    add(last)
    return found


def _yaml(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path)


def _name(out: Any) -> str:
    return out if isinstance(out, str) else str(next(iter(out)))


def _train(place: Workspace, code: Path, last: str, known: Sequence[str] = ()) -> None:
    """Run the stages up to ``last`` by the code that the version carries."""
    environment = os.environ | {"PYTHONPATH": str(code), DRIVER: str(os.getpid())}
    for stage in _before(place, last):
        if stage in known:
            continue
        command = [sys.executable, "-m", "staytuned.stages", stage]
        done = subprocess.run(command, cwd=place.root, env=environment)
        if done.returncode:
            raise StageError(stage, done.returncode)


def _changed(lineage: Path, place: Workspace) -> list[str]:
    """What is not as it was when the version was trained, and may change its bits."""
    recorded = read_json(lineage / "lineage.json")
    found = [
        f"{name} is {now}, not {recorded.get(name)}"
        for name, now in surroundings().items()
        if recorded.get(name) != now
    ]
    trained = read_json(place.candidate / "staytuned.json")
    if trained["base"] != recorded["base"]:
        found.append("the base model is another")
    if trained.get("device") != recorded.get("device"):  # versions of before this was recorded have none
        found.append(f"the device is {trained['device']}, not {recorded['device']}")
    packages = set((lineage / PACKAGES).read_text().split()) ^ set(installed())
    return found + ([f"packages differ ({', '.join(sorted(packages)[:4])})"] if packages else [])


def _compared_weights(version: int, registered: str, rebuilt: str) -> str:
    if registered != rebuilt:
        raise RegistryError(
            f"version {version} cannot be built again: the SHA-256 of the weights is {rebuilt}, not {registered}, "
            "though Python, processor and packages are the same; something else has a part in training"
        )
    return f"version {version} was built again: the SHA-256 of the weights is the same, {rebuilt}"


def _compared_metrics(version: int, registered: dict[str, float], place: Workspace, tolerance: dict[str, float]) -> str:
    report, said, off = read_json(place.evaluation / "evaluation.json"), list[str](), False
    for metric in report["metrics"]:
        name = metric["name"]
        rebuilt, before = report["models"]["candidate"]["metrics"][name], registered[name_of(f"candidate.{name}")]
        said.append(f"{metric['title']} {rebuilt:.4f}, registered {before:.4f}, tolerance {tolerance[name]:.2g}")
        off |= not abs(rebuilt - before) <= tolerance[name]
    if off:
        raise RegistryError(f"version {version} cannot be built again: {'; '.join(said)}")
    return f"version {version} was built again, and is worth the same: {'; '.join(said)}"
