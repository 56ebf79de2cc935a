"""Run policies on the workspace's history and set quality against cost. Each run is kept, so that it goes on."""

import hashlib
import json
from typing import Any

from transformers.utils import logging

from staytuned import pipeline
from staytuned.backtest.history import History
from staytuned.backtest.pages import show, write_pages
from staytuned.backtest.policies import Policy, policy_of
from staytuned.backtest.simulate import simulate
from staytuned.files import read_json, sha256, write_json
from staytuned.params import Params
from staytuned.progress import bar
from staytuned.workspace import Workspace

NEEDED = ("validate", "split", "encode")  # stages whose outputs a backtest reads


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
    logging.set_verbosity_error()
    logging.disable_progress_bar()
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


def _runs(workspace: Workspace, history: History, policies: list[Policy], seeds: list[int]) -> Any:
    with bar() as display:
        shown = display.add_task("backtest", total=len(policies) * len(seeds))
        for seed in seeds:
            for policy in policies:
                display.update(shown, description=f"{policy.name}, seed {seed}")
                file = workspace.var / "backtest" / f"{_key(workspace, history, policy, seed)}.json"
                if not file.exists():
                    write_json(file, simulate(history, policy, seed))
                yield {"policy": policy.name, "seed": seed, "arrivals": read_json(file)}
                display.advance(shown)


def _key(workspace: Workspace, history: History, policy: Policy, seed: int) -> str:
    """What a run depends on: the rows as encoded, the policy, the seed and the params that it looks at."""
    sections = ("task", "model", "encode", "train", "evaluate", "gate", "drift", "triggers")
    params = {name: history.params.section(name) for name in sections if policy.gated or name not in sections[4:]}
    encoded = [sha256(path) for path in sorted(workspace.encoded.glob("*.arrow"))]
    facts = [policy.name, policy.start, seed, params, encoded, history.arrivals]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
