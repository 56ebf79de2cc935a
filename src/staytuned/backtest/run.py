"""Run policies on the workspace's history and set quality against cost. Each run is kept, so that it goes on."""

import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from transformers.utils import logging

from staytuned import pipeline
from staytuned.backtest.history import History
from staytuned.backtest.pages import show, write_pages
from staytuned.backtest.policies import Policy, policy_of
from staytuned.backtest.simulate import simulate
from staytuned.errors import ParamsError
from staytuned.files import read_json, sha256, write_json
from staytuned.modelling.device import pick_device
from staytuned.models import fingerprint
from staytuned.params import Params
from staytuned.pieces import made_by
from staytuned.processes import die_with_parent
from staytuned.progress import bar
from staytuned.workspace import Workspace

LOOK = 1  # seconds between two looks at how far the runs are
NEEDED = ("validate", "split", "encode")  # stages whose outputs a backtest reads
LEARNING = ("task", "model", "encode", "train")  # sections that every policy reads
JUDGING = ("evaluate", "gate", "drift", "triggers")  # those that the gated one reads too
GOING_ON = ("start", "replay", "continued_rate", "champion_share")  # of the train section: for the champion alone
CODE = ("backtest", "data", "drift", "modelling", "registry/gate.py", "stages", "tasks", "training")
_told: Any = None  # in a process that simulates: where it says how many policies have seen one more arrival


def backtest(workspace: Workspace, names: list[str], seeds: list[int]) -> dict[str, Any]:
    """Print quality and cost of each policy, and write them with a chart to ``reports/backtest``.

    Args:
        workspace: Whose batches are the arrivals.
        names: Of the policies.
        seeds: Of the trainings; each policy runs once with each.

    Raises:
        ParamsError: a policy is not known.
        DataError: there are fewer than two batches.
    """
    _quiet()
    params = Params.read(workspace.params)
    policies = [policy_of(name, params.train.start) for name in names]
    with workspace.hold():
        pipeline.pin_code(workspace)
        for stage in NEEDED:
            pipeline.run_stage(workspace, stage)
        history = History.read(workspace, params)
        runs = list(_runs(workspace, history, policies, seeds))
    metrics = [metric._asdict() for metric in history.task.metrics]
    report = {"arrivals": history.arrivals, "metrics": metrics, "seeds": seeds, "runs": runs}
    write_json(workspace.reports / "backtest" / "backtest.json", report)
    write_pages(workspace.reports / "backtest", report)
    show(report)
    return report


def _runs(workspace: Workspace, history: History, policies: list[Policy], seeds: list[int]) -> Iterator[dict[str, Any]]:
    runs = [(policy, seed) for seed in seeds for policy in policies]
    folder = workspace.var / "backtest"
    files = {run: folder / f"{_key(workspace, history, *run)}.json" for run in runs}
    done, each = sum(path.exists() for path in files.values()), len(history.arrivals)
    with bar() as display:
        shown = display.add_task("arrivals of all runs", total=len(runs) * each, completed=done * each)
        for seen in _simulated(workspace, history.params, files):
            display.advance(shown, seen)
    for policy, seed in runs:
        yield {"policy": policy.name, "seed": seed, "arrivals": read_json(files[policy, seed])}


def _simulated(workspace: Workspace, params: Params, files: dict[tuple[Policy, int], Path]) -> Iterator[int]:
    """Make the files that are not there, as many side by side as the processors allow.

    What retrains from the base model comes first: it takes longest, and shares its models.

    Yields:
        How many policies have seen one more arrival, whenever some have.
    """
    missing = {run: path for run, path in files.items() if not path.exists()}
    parts = sorted({(policy.gated, seed) for policy, seed in missing})
    gpu = pick_device(params.train.device).type == "cuda"
    beside = 1 if gpu else max(1, len(os.sched_getaffinity(0)) // params.train.threads)
    fresh = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads
    told = fresh.SimpleQueue()
    pool = ProcessPoolExecutor(beside, fresh, _prepare, (told,))
    try:
        jobs = set()
        for gated, seed in parts:
            here = {run[0]: path for run, path in missing.items() if (run[0].gated, run[1]) == (gated, seed)}
            jobs.add(pool.submit(_simulate, workspace, here, seed))
        while jobs:
            done, jobs = wait(jobs, LOOK)
            for job in done:
                job.result()
            while not told.empty():
                yield told.get()
    finally:
        pool.shutdown(cancel_futures=True)


def _simulate(workspace: Workspace, files: dict[Policy, Path], seed: int) -> None:
    history = History.read(workspace, Params.read(workspace.params))
    if any(path.stem != _key(workspace, history, policy, seed) for policy, path in files.items()):
        raise ParamsError("params.yaml was changed while the backtest ran; start it again, it keeps what is done")
    arrivals = []
    for lines in simulate(history, list(files), seed):
        arrivals.append(lines)
        _told.put(len(lines))
    for policy, path in files.items():
        write_json(path, [lines[policy.name] for lines in arrivals])


def _prepare(told: Any) -> None:
    global _told
    _told = told
    die_with_parent()
    _quiet()


def _quiet() -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _key(workspace: Workspace, history: History, policy: Policy, seed: int) -> str:
    """What a run depends on: rows, base model, code, the policy, the seed and the params that it looks at."""
    sections = LEARNING + JUDGING if policy.gated else LEARNING
    params = {name: history.params.section(name) for name in sections}
    if policy.start == "base":
        params["train"] = {name: value for name, value in params["train"].items() if name not in GOING_ON}
    encoded = [sha256(path) for path in sorted(workspace.encoded.glob("*.arrow"))]
    made = [made_by(*CODE), fingerprint(history.base), sha256(workspace.manifest)]
    facts = [policy.name, policy.start, seed, params, encoded, history.arrivals, *made]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
