"""Lineage: everything that it takes to build a version again, as files."""

import importlib.metadata
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from staytuned.files import read_json, write_json
from staytuned.params import Params
from staytuned.surroundings import surroundings
from staytuned.workspace import Workspace

PACKAGES = "packages.txt"
BUT_PARAMS = (".", ":(exclude,glob)**/params.yaml")  # to git: they may hold secrets, and are copied without


def installed() -> list[str]:
    """Name and version of every package here."""
    return sorted({f"{dist.name}=={dist.version}" for dist in importlib.metadata.distributions()})


def collect(workspace: Workspace, params: Params, folder: Path) -> dict[str, Any]:
    """Write the files into ``folder`` and return the short record, which is among them as ``lineage.json``."""
    pointers = sorted(workspace.root.glob("data/*.dvc"))
    _without_addresses(workspace.params, params, folder)
    for path in (
        workspace.behaviour,
        workspace.lock,
        workspace.root / "dvc.yaml",
        workspace.manifest,
        *pointers,
    ):
        if path.exists():
            shutil.copy(path, folder)
    (folder / PACKAGES).write_text("\n".join(installed()) + "\n")
    commit, dirty = git_state(workspace.root, folder / "dirty.patch")
    candidate = read_json(workspace.candidate / "staytuned.json")
    record = {
        "commit": commit,
        "dirty": dirty,
        "seed": params.train.seed,
        "threads": params.train.threads,
        "base": candidate["base"],
        "device": candidate["device"],
        "tolerance": tolerances(read_json(workspace.evaluation / "evaluation.json"), params.gate.margin),
        **surroundings(),
    }
    write_json(folder / "lineage.json", record)
    return record


def _without_addresses(path: Path, params: Params, folder: Path) -> None:
    """Copy the params, but not who is alerted: an address may hold a secret, and no build looks at it."""
    if not params.alerts.urls:
        shutil.copy(path, folder)
        return
    yaml = YAML()
    values = yaml.load(path)
    values["alerts"]["urls"] = []
    yaml.dump(values, folder / path.name)


def tolerances(report: dict[str, Any], margin: float) -> dict[str, float]:
    """How far each metric of a version that is built again may be off, where it cannot be the same bit for bit.

    The first one by the gate's margin; the others by half the width of their interval.
    """
    first, *others = (metric["name"] for metric in report["metrics"])
    intervals = report["models"]["candidate"]["intervals"]
    return {first: margin} | {name: (intervals[name][1] - intervals[name][0]) / 2 for name in others}


def git_state(root: Path, patch: Path) -> tuple[str | None, bool]:
    """The commit, and whether anything differs from it, new files included; (None, False) outside git.

    All that differs is written to ``patch``, but for params. It is found by way of an index of its own: the user's is
    not touched.
    """
    patch.touch()

    def git(*words: str, index: str | None = None) -> subprocess.CompletedProcess[bytes]:
        environment = os.environ | ({"GIT_INDEX_FILE": index} if index else {})
        return subprocess.run(["git", *words], cwd=root, capture_output=True, env=environment)

    if shutil.which("git") is None or git("rev-parse", "--git-dir").returncode:
        return None, False
    head = git("rev-parse", "--verify", "--quiet", "HEAD")
    commit = head.stdout.decode().strip() or None
    with tempfile.TemporaryDirectory() as scratch:
        index = str(Path(scratch) / "index")
        against = commit or git("hash-object", "-t", "tree", "/dev/null").stdout.decode().strip()
        git("read-tree", against, index=index)
        git("add", "--all", ".", index=index)
        differs = ["diff-index", "--cached", "--no-ext-diff"]  # unlike `diff`, whatever the user's settings are
        patch.write_bytes(git(*differs, "--patch", "--binary", against, "--", *BUT_PARAMS, index=index).stdout)
        return commit, bool(git(*differs, "--quiet", against, index=index).returncode)
