"""Policies on one history: at each arrival each may retrain, and what then serves is judged."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy

from staytuned.backtest.history import History, Version, learn
from staytuned.backtest.policies import Policy
from staytuned.backtest.situation import Trained, situation_of
from staytuned.data.sides import TEST, TRAIN
from staytuned.drift.triggers import Answer, decide
from staytuned.registry.evidence import Standing
from staytuned.registry.gate import Decision
from staytuned.registry.gate import decide as gate
from staytuned.stages.evaluate import compare, slices
from staytuned.training.continual import chosen

Line = dict[str, Any]


@dataclass
class State:
    """What a policy has so far."""

    champion: Version
    best: Version
    trained: list[Trained]  # promoted or not
    alarms: list[bool] = field(default_factory=list)  # of the champion's windows


def simulate(history: History, policies: list[Policy], seed: int) -> Iterator[dict[str, Line]]:
    """What happens at each arrival: whether it retrained and why, the tokens read, the metrics of what serves then.

    The policies go from arrival to arrival together: those that train from the base model on the same rows share it.

    Yields:
        For each arrival a line of each policy, by its name.
    """
    first = _from_base(history, 0, seed)
    states = {policy: State(first, first, [Trained(0, first.tokens)]) for policy in policies}
    why = ["the first arrival"]
    yield {policy.name: _line(history, state, 0, first, why, None) for policy, state in states.items()}
    for arrival in range(1, len(history.arrivals)):
        afresh = cache(lambda arrival=arrival: _from_base(history, arrival, seed))
        yield {policy.name: _arrive(history, policy, state, arrival, seed, afresh) for policy, state in states.items()}


def _from_base(history: History, arrival: int, seed: int) -> Version:
    return learn(history, history.until(TRAIN, arrival), arrival, None, 1, seed)


def _arrive(
    history: History, policy: Policy, state: State, arrival: int, seed: int, afresh: Callable[[], Version]
) -> Line:
    answer = _asked(history, policy, state, arrival)
    if answer.retrain and policy.start == "champion" and not _is_new(history, state, arrival).any():
        answer = Answer(False, [], ["no training row is new to the champion"], 0)
    candidate, decision = None, None
    if answer.retrain:
        candidate = _candidate(history, policy, state, arrival, seed, afresh)
        decision = _judged(history, policy, state, candidate, arrival)
        state.trained.append(Trained(arrival, candidate.tokens))
        if decision is None or decision.outcome == "PROMOTE":
            _promote(history, state, candidate, arrival)
    reasons = (answer.reasons if answer.retrain else answer.waiting) + (decision.reasons if decision else [])
    return _line(history, state, arrival, candidate, reasons, decision)


def _asked(history: History, policy: Policy, state: State, arrival: int) -> Answer:
    if policy.every is None:
        situation = situation_of(history, state.champion, state.alarms, state.trained, arrival)
        state.alarms = list(situation.alarms)
        return decide(situation, history.params.triggers)
    due = policy.every > 0 and arrival % policy.every == 0
    return Answer(due, [f"every {policy.every} arrivals"], ["its turn" if policy.every else "nothing"], 0)


def _candidate(
    history: History, policy: Policy, state: State, arrival: int, seed: int, afresh: Callable[[], Version]
) -> Version:
    number = len(state.trained) + 1
    if policy.start == "base":
        return replace(afresh(), number=number)
    rows, is_new = history.until(TRAIN, arrival), _is_new(history, state, arrival)
    taken = chosen(is_new, history.params.train.replay, seed)
    return learn(history, rows[taken], arrival, state.champion, number, seed)


def _is_new(history: History, state: State, arrival: int) -> numpy.ndarray:
    """Which of the training rows that have come the champion has not learned."""
    found: numpy.ndarray = ~numpy.isin(history.until(TRAIN, arrival), state.champion.learned)
    return found


def _judged(history: History, policy: Policy, state: State, candidate: Version, arrival: int) -> Decision | None:
    """What the gate says, on the test rows that are there."""
    if not policy.gated:
        return None
    rows = history.until(TEST, arrival)
    models = {"base": candidate, "candidate": candidate, "champion": state.champion, "best": state.best}
    if state.best is state.champion:
        del models["best"]
    said = {name: [version.said[row] for row in rows] for name, version in models.items()}
    report = compare(history.task, said, history.some(TEST, rows).frame, history.params.evaluate)
    for name in ("champion", "best"):
        if name in models:
            report["models"][name]["version"] = models[name].number
    report["behaviour"] = {}  # not checked here
    # what is the same for all policies: the budgets, and the gain over a base that is not judged here
    left_out = {"max_megabytes": None, "max_milliseconds": None, "min_gain": 0.0}
    policy_of_gate = history.params.gate.model_copy(update=left_out)
    return gate(report, Standing(state.champion.number, state.best.number), policy_of_gate)


def _promote(history: History, state: State, candidate: Version, arrival: int) -> None:
    rows, first = history.until(TEST, arrival), history.task.metrics[0]
    frame = history.some(TEST, rows).frame
    score = {
        version.number: history.task.score(frame, [version.said[row] for row in rows])[first.name]
        for version in (state.best, candidate)
    }
    gain = score[candidate.number] - score[state.best.number]
    if (gain if first.higher_is_better else -gain) > 0:
        state.best = candidate
    state.champion, state.alarms = candidate, []


def _line(
    history: History, state: State, arrival: int, trained: Version | None, reasons: list[str], decision: Decision | None
) -> dict[str, Any]:
    judged, said = history.judged(arrival), state.champion.said
    frame = history.sides[TEST].frame
    of_source = slices(history.task, history.task.statistics(frame, said), frame["source"])
    here = numpy.flatnonzero(judged)
    return {
        "arrival": history.arrivals[arrival],
        "version": state.champion.number,
        "trained": trained.number if trained else None,
        "tokens": trained.tokens if trained else 0,
        "outcome": decision.outcome if decision else None,
        "reasons": reasons,
        "rows": len(here),
        "metrics": history.task.score(frame.iloc[here].reset_index(drop=True), [said[row] for row in here]),
        "sources": {source: found["metrics"] for source, found in of_source.items()},
    }
