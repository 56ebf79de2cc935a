"""Seconds of training to the same validation score, each side at its best: staytuned and transformers' Trainer.

usage: python benchmarks/sweep.py DATA [FOLDER] [--rows ROWS] [--seeds SEEDS]

DATA/arxiv/titles.csv.gz holds titles of papers. FOLDER keeps what is done, run by run, so that it can be resumed.

Trainer with its defaults goes first: the score that all have to reach is 0.97 of the best that it comes to. Then, for
each side, one setting after the other is varied, twice around, and the value kept that is quickest on three seeds
together: sampling, batch, learning rate, epochs of the schedule, optimiser, threads, compile. staytuned has a sampling
of its own, is never compiled, and its other optimiser is AdamW with sharpness-aware steps. A setting is given up as its
runs have taken 1.2 times as long as the quickest of its side. At last both, and Trainer with its defaults, learn with
each of the other seeds in turn.

A run is a process of its own, ends as it reaches the score, and has its side's settings in daily use. Scores are taken
every 320 rows, by the same code for both sides, while the clock stands still.
"""

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import ENVIRONMENT, ratios, spread
from sweep_run import Setting
from top_only import encoded
from training import said

from staytuned.files import read_json
from staytuned.workspace import Workspace

RUN = Path(__file__).with_name("sweep_run.py")
SHARE = 0.97  # of the best score of Trainer's defaults
PATIENCE = 1.2  # times the seconds of the quickest setting of a side
SEARCHED = (101, 102, 103)  # seeds of the search, of which none learns at last
AROUND = 2  # times that each setting is varied

DEFAULTS = {  # of TrainingArguments
    "sampling": "random",
    "batch": 8,
    "rate": 5e-5,
    "epochs": 3,
    "optimiser": "adamw_torch_fused",
    "threads": 2,
    "compile": False,
}
START = {"sampling": "group_by_length", "batch": 32, "rate": 1e-4, "epochs": 2}  # where each search begins
GRIDS = {
    "trainer": {
        "sampling": ["group_by_length", "random"],
        "batch": [8, 16, 32, 64],
        "rate": [1e-4, 2e-4, 4e-4],
        "epochs": [1, 2, 3],
        "optimiser": ["adamw_torch_fused", "adamw_torch", "adafactor"],
        "threads": [1, 2],
        "compile": [False, True],
    },
    "staytuned": {
        "batch": [8, 16, 32, 64],
        "rate": [1e-4, 2e-4, 4e-4],
        "epochs": [1, 2, 3],
        "optimiser": ["adamw", "sharpness-aware"],
        "threads": [1, 2],
    },
}


class Sweep:
    """All runs on the same rows, each in a process of its own and kept in the folder."""

    def __init__(self, folder: Path, space: Workspace) -> None:
        self.folder, self.space, self.target = folder, space, math.inf

    def run(self, side: str, setting: Setting, seed: int, limit: float = math.inf) -> dict[str, Any]:
        """How long a run took, and whether it reached the score."""
        done = self.folder / f"{side} {' '.join(map(str, setting.values()))} {seed}.json"
        if not done.exists():
            what = [str(self.space.root), side, setting, seed, self.target, limit, str(done)]
            settings = os.environ if side == "staytuned" else ENVIRONMENT  # as they were before staytuned was imported
            subprocess.run([sys.executable, str(RUN), json.dumps(what)], env=settings, check=True)
            print(f"{done.stem}: {done.read_text()}", flush=True)
        return read_json(done)

    def best(self, side: str) -> Setting:
        """The quickest setting of a side on the seeds of the search."""
        grid, setting = GRIDS[side], DEFAULTS | START
        setting = {name: setting[name] if setting[name] in values else values[0] for name, values in grid.items()}
        quickest = self.together(side, setting)
        for _, (name, values) in itertools.product(range(AROUND), grid.items()):
            for value in values:
                found = self.together(side, setting | {name: value}, PATIENCE * quickest)
                if found < quickest:
                    quickest, setting = found, setting | {name: value}
        return setting

    def together(self, side: str, setting: Setting, limit: float = math.inf) -> float:
        """Seconds of the runs with all seeds of the search; without end if one does not reach the score in time."""
        seconds = 0.0
        for seed in SEARCHED:
            run = self.run(side, setting, seed, limit - seconds)
            seconds += run["seconds"]
            if not run["reached"]:
                return math.inf
        return seconds


def main(data: Path, folder: Path, rows: int, seeds: int) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    space = Workspace(folder / "workspace")
    if not space.root.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            encoded(Path(scratch), data, rows, split__validation=0.2, train__frozen=None).root.rename(space.root)
    sweep = Sweep(folder, space)
    sweep.target = SHARE * sweep.run("trainer", DEFAULTS, 0)["best"]
    print(f"the score to reach is {sweep.target:.3f}")
    sides = {side: (side, sweep.best(side)) for side in GRIDS} | {"defaults": ("trainer", DEFAULTS)}
    for name, (_, setting) in sides.items():
        print(f"{name}: {setting}")
    found: dict[str, list[float]] = {name: [] for name in sides}
    missed = set[str]()
    for seed, (name, (side, setting)) in itertools.product(range(1, seeds + 1), sides.items()):
        run = sweep.run(side, setting, seed)
        found[name].append(run["seconds"])
        if not run["reached"]:
            missed.add(name)
            print(f"{name}, seed {seed}: the score was not reached; {run['seconds']:.0f} s is the least it would take")
    met = "staytuned" not in missed
    for name, bound in (("trainer", 1.5), ("defaults", 3.0)):
        ratio = ratios(found[name], found["staytuned"])
        is_met = sorted(ratio)[len(ratio) // 2] >= bound
        met &= is_met
        print(f"seconds of {name} over staytuned at its best: {spread(ratio)}, at least {bound}: {said(is_met)}")
    return met


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--rows", type=int, default=2500, help="titles; a fifth of them score")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    sys.exit(not main(given.data, given.folder or Path(tempfile.mkdtemp()), given.rows, given.seeds))
