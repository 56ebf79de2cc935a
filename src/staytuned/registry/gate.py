"""The gate: one pure function from evidence and policy to a decision with its reasons."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from staytuned.policy import Gate
from staytuned.registry.evidence import GROUPS, Standing, asks_class, asks_source, at, missing, numbers, rivals, too_few

Outcome = Literal["PROMOTE", "HOLD", "BLOCK"]


@dataclass(frozen=True)
class Decision:
    """PROMOTE: the candidate becomes champion. HOLD: it is kept as challenger. BLOCK: it is not kept."""

    outcome: Outcome
    reasons: list[str]


@dataclass
class Found:
    """What the evidence says, in words."""

    blocks: list[str] = field(default_factory=list)
    holds: list[str] = field(default_factory=list)
    passes: list[str] = field(default_factory=list)


class Margin(NamedTuple):
    """What may be lost: the key of params.yaml, its value, and from what a confirmed loss on blocks."""

    key: str
    value: float
    confirmed: float


def decide(report: dict[str, Any], standing: Standing, policy: Gate) -> Decision:
    """Decide on the candidate.

    Missing evidence, a missed bound or budget, failed behaviour and a loss that the interval confirms block. A
    candidate that is not shown to be at most ``policy.margin`` worse than the champion and than the best version ever,
    by the task's first metric, is held. So no chain of small losses, each within the margin, leads away from the best.
    On a source, by a further metric or in a class a loss within its margin may be confirmed: what is gained elsewhere
    may be worth it. Further metrics and classes vary much on few rows: there a loss that is merely not ruled out does
    not hold the candidate.

    Args:
        report: What the evaluate stage wrote, with the versions of champion and best.
        standing: From the ledger, never from the report.
        policy: The gate section of params.yaml.
    """
    lacking, few = missing(report, standing, policy), too_few(at(report, "test"), policy)
    if lacking:
        return Decision("BLOCK", lacking + few)
    missed, kept = _bounds(report, policy)
    blocks = few + missed + _budgets(report, policy) + _behaviour(report)  # all at once, so that all can be mended
    found, first = Found(blocks, passes=kept), report["metrics"][0]
    for name, version in rivals(standing).items():
        title = f"against {'champion' if name == 'champion' else 'best version'} {version}"
        whole = report["comparisons"][name][first["name"]]
        _not_inferior(first, whole, title, Margin("gate.margin", policy.margin, 0.0), found)
        for source, there in report["sources"].items():
            if asks_source(there, policy):
                margin = Margin("gate.sources.margin", policy.sources.margin, policy.sources.margin)
                _not_inferior(first, there[name], f"{title} on {source}", margin, found)
        _not_lost(report, name, title, policy, found)
    if standing.champion is not None:
        found.passes += _not_asked(report, policy)
    if found.blocks:
        return Decision("BLOCK", found.blocks)
    if found.holds:
        return Decision("HOLD", found.holds)
    return Decision("PROMOTE", found.passes)


def _not_asked(report: dict[str, Any], policy: Gate) -> list[str]:
    """Sources and classes with too few test rows to show what was forgotten of them, in words."""
    few = [
        f"{name} ({found['rows']} rows, {found['groups']} groups)"
        for name, found in report["sources"].items()
        if not asks_source(found, policy)
    ]
    rare = [name for name, found in report["classes"].items() if not asks_class(found, policy)]
    said = []
    if few:
        least = f"the {policy.sources.min_rows} test rows of gate.sources.min_rows, or {GROUPS} groups"
        said.append(f"under {least}, so not asked what was forgotten: {', '.join(few)}")
    if rare:
        least = f"gate.classes.min_support {policy.classes.min_support}, or {GROUPS} groups"
        said.append(f"under {least}, so not asked what was lost of a class: {', '.join(rare)}")
    return said


def _not_inferior(
    metric: dict[str, Any], difference: dict[str, Any], against: str, margin: Margin, found: Found
) -> None:
    """A confirmed loss blocks, one of more than the margin that is not ruled out holds."""
    worst, best = _ends(difference, metric["higher_is_better"])
    said = _said(metric["title"], difference, against)
    if best < -margin.confirmed:
        by_more = f" by more than {margin.key} {margin.value:g}" if margin.confirmed else ""
        found.blocks.append(f"{said}: worse{by_more}")
    elif worst < -margin.value:
        found.holds.append(f"{said}: a loss of more than {margin.key} {margin.value:g} is not ruled out")
    else:
        found.passes.append(f"{said}: no loss of more than {margin.key} {margin.value:g}")


def _not_lost(report: dict[str, Any], rival: str, against: str, policy: Gate, found: Found) -> None:
    """A confirmed loss of more than its margin, by a further metric or in a class, blocks."""
    known, differences = {metric["name"]: metric for metric in report["metrics"]}, report["comparisons"][rival]
    asked = [
        (known[name]["title"], differences[name], known[name]["higher_is_better"], f"gate.margins.{name}", margin)
        for name, margin in policy.margins.items()
    ]
    asked += [
        (f"F1 of {label!r}", there[rival], True, "gate.classes.margin", policy.classes.margin)
        for label, there in report["classes"].items()
        if asks_class(there, policy)
    ]
    for title, difference, higher_is_better, key, margin in asked:
        if _ends(difference, higher_is_better)[1] < -margin:
            found.blocks.append(f"{_said(title, difference, against)}: worse by more than {key} {margin:g}")
    if asked:
        metrics, classes = len(policy.margins), len(asked) - len(policy.margins)
        found.passes.append(
            f"{against}: no loss above its margin is shown by a further metric ({metrics} asked) or in a class "
            f"({classes} asked)"
        )


def _ends(difference: dict[str, Any], higher_is_better: bool) -> tuple[float, float]:
    """The interval's worse and its better end, each as a gain."""
    low, high = difference["interval"]
    return (low, high) if higher_is_better else (-high, -low)


def _said(title: str, difference: dict[str, Any], against: str) -> str:
    """A difference with its interval, in words."""
    low, high = difference["interval"]
    return f"{title} {difference['difference']:+.3f} {against} ({low:+.3f} to {high:+.3f})"


def _budgets(report: dict[str, Any], policy: Gate) -> list[str]:
    """Size and time that are above what is allowed, or not known."""
    found = []
    for name, most in (("megabytes", policy.max_megabytes), ("milliseconds", policy.max_milliseconds)):
        value = report.get(name, math.nan)
        if most is not None and not numbers(value):
            found.append(f"{name} of the candidate are not known: missing evidence")
        elif most is not None and value > most:
            found.append(f"{value:.1f} {name} > gate.max_{name} {most:g}")
    return found


def _behaviour(report: dict[str, Any]) -> list[str]:
    """Behavioural checks of which too few cases pass."""
    return [
        f"behaviour: {check['passed']} of {check['cases']} cases of {name!r} pass, under its share {check['share']:g}"
        for name, check in report["behaviour"].items()
        if check["cases"] and check["passed"] / check["cases"] < check["share"]  # not a product: 0.55 * 100 is above 55
    ]


def _bounds(report: dict[str, Any], policy: Gate) -> tuple[list[str], list[str]]:
    """Bounds that were missed, and those that were kept, in words."""
    first, known = report["metrics"][0], {metric["name"]: metric for metric in report["metrics"]}
    candidate, base = (report["models"][name]["metrics"] for name in ("candidate", "base"))
    sign = 1 if first["higher_is_better"] else -1
    gain = sign * (candidate[first["name"]] - base[first["name"]])
    checks = [
        (
            known[name]["title"],
            candidate[name],
            f"gate.bounds.{name}",
            bound,
            1 if known[name]["higher_is_better"] else -1,
        )
        for name, bound in policy.bounds.items()
    ]
    checks += [
        (
            f"{known[name]['title']} on {source}",
            found["metrics"][name],
            f"gate.sources.bounds.{name}",
            bound,
            1 if known[name]["higher_is_better"] else -1,
        )
        for name, bound in policy.sources.bounds.items()
        for source, found in report["models"]["candidate"]["slices"].items()
        if found["rows"] >= policy.sources.min_rows
    ]
    checks.append((f"gain in {first['title']} over {report['before']}", gain, "gate.min_gain", policy.min_gain, 1))
    missed, kept = list[str](), list[str]()
    for what, value, key, bound, direction in checks:
        good = direction * value >= direction * bound
        relation = ("≥" if good else "<") if direction > 0 else ("≤" if good else ">")
        (kept if good else missed).append(f"{what} {value:.3f} {relation} {key} {bound:g}")
    return missed, kept
