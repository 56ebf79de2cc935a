"""The gate: one pure function from evidence and policy to a decision with its reasons."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from staytuned.policy import Gate

Outcome = Literal["PROMOTE", "HOLD", "BLOCK"]
GROUPS = 5  # with test rows: intervals draw groups, and of one or two each draw is much the same, as if nothing varied


@dataclass(frozen=True)
class Decision:
    """PROMOTE: the candidate becomes champion. HOLD: it is kept as challenger. BLOCK: it is not kept."""

    outcome: Outcome
    reasons: list[str]


@dataclass(frozen=True)
class Standing:
    """Versions that the candidate must be compared with; None where there is none yet."""

    champion: int | None
    best: int | None


def decide(report: dict[str, Any], standing: Standing, policy: Gate) -> Decision:
    """Decide on the candidate.

    Missing evidence, a missed bound or budget, failed behaviour and a loss that the interval confirms block. A
    candidate that is not shown to be at most ``policy.margin`` worse than the champion and than the best version ever,
    by the task's first metric, is held. So no chain of small losses, each within the margin, leads away from the best.
    By a further metric, on a source or in a class a loss within its margin may be confirmed: what is gained elsewhere
    may be worth it. Of a class rows are few, and a loss that is only not ruled out holds nobody. A bound that the
    champion misses by as much or more holds: a candidate that would be an improvement can be promoted by hand.

    Args:
        report: What the evaluate stage wrote, with the versions of champion and best.
        standing: From the ledger, never from the report.
        policy: The gate section of params.yaml.
    """
    missing, few = _missing(report, standing, policy), too_few(_at(report, "test"), policy)
    if missing:
        return Decision("BLOCK", missing + few)
    missed, holds, passes = _bounds(report, policy)
    blocks = few + missed + _budgets(report, policy) + _behaviour(report)  # all at once, so that all can be mended
    known = {metric["name"]: metric for metric in report["metrics"]}
    first, said = report["metrics"][0], (blocks, holds, passes)
    for name, version in _rivals(standing).items():
        title = f"against {'champion' if name == 'champion' else 'best version'} {version}"
        differences = report["comparisons"][name]
        _not_inferior(first, differences[first["name"]], title, ("gate.margin", policy.margin, 0.0), said)
        for metric, margin in policy.margins.items():
            _not_inferior(known[metric], differences[metric], title, (f"gate.margins.{metric}", margin, margin), said)
        for source, found in report["sources"].items():
            if _is_asked(found, policy):
                asked = ("gate.sources.margin", policy.sources.margin, policy.sources.margin)
                _not_inferior(first, found[name], f"{title} on {source}", asked, said)
        _classes(report["classes"], name, title, policy, said)
    if standing.champion is not None:
        passes += _not_asked(report["sources"], policy)
    if blocks:
        return Decision("BLOCK", blocks)
    if holds:
        return Decision("HOLD", holds)
    return Decision("PROMOTE", passes)


def _not_asked(sources: dict[str, Any], policy: Gate) -> list[str]:
    """Sources with too few test rows to show what was forgotten of them, in words."""
    few = [
        f"{name} ({found['rows']} rows, {found['groups']} groups)"
        for name, found in sources.items()
        if not _is_asked(found, policy)
    ]
    if not few:
        return []
    least = f"the {policy.sources.min_rows} test rows of gate.sources.min_rows, or {GROUPS} groups"
    return [f"under {least}, so not asked what was forgotten: {', '.join(few)}"]


def _is_asked(source: dict[str, Any], policy: Gate) -> bool:
    """Whether a source has test rows enough to show what was forgotten of it."""
    return bool(source["rows"] >= policy.sources.min_rows and source["groups"] >= GROUPS)


Said = tuple[list[str], list[str], list[str]]  # what blocks, what holds, what passes


def _not_inferior(
    metric: dict[str, Any], difference: dict[str, Any], against: str, asked: tuple[str, float, float], said: Said
) -> None:
    """Put what the difference shows where it belongs.

    A loss of more than is allowed, the last of ``asked``, blocks where the interval confirms it; one of more than the
    margin, before it, holds where it is not ruled out.
    """
    (blocks, holds, passes), (key, margin, allowed) = said, asked
    low, high = difference["interval"]
    found = f"{metric['title']} {difference['difference']:+.3f} {against} ({low:+.3f} to {high:+.3f})"
    worst, best = (low, high) if metric["higher_is_better"] else (-high, -low)
    if best < -allowed:
        blocks.append(f"{found}: worse")
    elif worst < -margin:
        holds.append(f"{found}: a loss of more than {key} {margin:g} is not ruled out")
    else:
        passes.append(f"{found}: no loss of more than {key} {margin:g}")


def _classes(classes: dict[str, Any], name: str, title: str, policy: Gate, said: Said) -> None:
    """Put classes whose F1 fell by more than the margin, as the interval confirms, among what blocks."""
    (blocks, _, passes), margin = said, policy.classes.margin
    asked = {label: found[name] for label, found in classes.items() if found["support"] >= policy.classes.min_support}
    lost = {label: found for label, found in asked.items() if found["interval"][1] < -margin}
    for label, found in lost.items():
        low, high = found["interval"]
        difference = f"F1 of {label!r} {found['difference']:+.3f} {title} ({low:+.3f} to {high:+.3f})"
        blocks.append(f"{difference}: a loss of more than gate.classes.margin {margin:g}")
    if asked and not lost:
        passes.append(f"F1 {title}: in none of {len(asked)} classes a loss of more than gate.classes.margin {margin:g}")


def _budgets(report: dict[str, Any], policy: Gate) -> list[str]:
    """Size and time that are above what is allowed, or not known."""
    found = []
    for name, most in (("megabytes", policy.max_megabytes), ("milliseconds", policy.max_milliseconds)):
        value = report.get(name, math.nan)
        if most is not None and not _numbers(value):
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


def _rivals(standing: Standing) -> dict[str, int]:
    """The versions that the candidate is compared with; a champion that is the best is one of them once."""
    found = {"champion": standing.champion}
    if standing.best != standing.champion:
        found["best"] = standing.best
    return {name: version for name, version in found.items() if version is not None}


def _missing(report: dict[str, Any], standing: Standing, policy: Gate) -> list[str]:
    """What the report lacks to decide on, in words."""
    metrics = [metric["name"] for metric in report.get("metrics", [])]
    found = [
        f"no {metric} of the {name}: missing evidence"
        for name in ("candidate", "base")
        for metric in dict.fromkeys([*metrics[:1], *policy.bounds])
        if not _numbers(_at(report, "models", name, "metrics", metric))
    ]
    if not metrics:
        found.append("no metrics: missing evidence")
    found += [
        f"no {path[-1]}: missing evidence"
        for path in (("sources",), ("classes",), ("behaviour",), ("models", "candidate", "slices"))
        if not isinstance(_at(report, *path), dict)
    ]
    if not _numbers(_at(report, "test", "rows"), _at(report, "test", "groups")):
        found.append("no count of the test rows, or of their groups: missing evidence")
    for name, version in _rivals(standing).items():
        if _at(report, "models", name, "version") != version:
            found.append(
                f"version {version}, the {name}, was not scored beside the candidate; `staytuned sync` pins it"
            )
        found += [
            f"no difference in {metric} to the {name}: missing evidence"
            for metric in [*metrics[:1], *policy.margins]
            if not _is_difference(_at(report, "comparisons", name, metric))
        ]
        found += _missing_of_parts(report, name, policy)
    return found


def _missing_of_parts(report: Any, name: str, policy: Gate) -> list[str]:
    """Sources and classes that must be asked about and of which there is no difference to a rival."""
    sources, classes = (_at(report, kind) or {} for kind in ("sources", "classes"))
    missing = [
        f"on {source}"
        for source, found in sources.items()
        if not _numbers(_at(found, "rows"), _at(found, "groups"))
        or (_is_asked(found, policy) and not _is_difference(_at(found, name)))
    ]
    missing += [
        f"in class {label}"
        for label, found in classes.items()
        if not _numbers(_at(found, "support"))
        or (found["support"] >= policy.classes.min_support and not _is_difference(_at(found, name)))
    ]
    return [f"no difference to the {name} {where}: missing evidence" for where in missing]


def _is_difference(found: Any) -> bool:
    """Whether it is a difference with its interval."""
    interval = _at(found, "interval")
    whole = isinstance(interval, list) and len(interval) == 2
    return whole and _numbers(_at(found, "difference"), *interval)


def too_few(test: Any, policy: Gate) -> list[str]:
    """Whether there are fewer test rows than the policy asks for, or fewer groups of them than it takes, in words."""
    rows, groups = _at(test, "rows"), _at(test, "groups")
    found = list[str]()
    if _numbers(rows) and rows < policy.min_test_rows:
        found.append(
            f"{rows} test rows, under gate.min_test_rows {policy.min_test_rows}: missing evidence; ingest more rows, "
            "raise split.test, or lower gate.min_test_rows"
        )
    if _numbers(groups) and groups < GROUPS:
        found.append(
            f"the {rows} test rows are of {groups} groups, and it takes {GROUPS} to say how far figures vary: missing "
            "evidence; ingest rows of more groups (ingest.columns.group)"
        )
    return found


def _at(report: Any, *path: str) -> Any:
    """What stands at a path of the report; None where nothing does."""
    for key in path:
        report = report.get(key) if isinstance(report, dict) else None
    return report


def _numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)


def _bounds(report: dict[str, Any], policy: Gate) -> Said:
    """Bounds that were missed, those that the champion misses too and by no less, and those that were kept."""
    first, known = report["metrics"][0], {metric["name"]: metric for metric in report["metrics"]}
    metrics = {name: model["metrics"] for name, model in report["models"].items()}
    slices = {name: model.get("slices", {}) for name, model in report["models"].items()}
    candidate, champion = metrics["candidate"], metrics.get("champion", {})
    gain = _sign(first) * (candidate[first["name"]] - metrics["base"][first["name"]])
    said: Said = ([], [], [])
    for name, bound in policy.bounds.items():
        metric, values = known[name], (candidate[name], champion.get(name))
        _bounded(metric["title"], values, f"gate.bounds.{name}", bound, _sign(metric), said)
    for name, bound in policy.sources.bounds.items():
        for source, found in slices["candidate"].items():
            if found["rows"] >= policy.sources.min_rows:
                metric, theirs = known[name], _at(slices, "champion", source, "metrics", name)
                what, values = f"{metric['title']} on {source}", (found["metrics"][name], theirs)
                _bounded(what, values, f"gate.sources.bounds.{name}", bound, _sign(metric), said)
    what = f"gain in {first['title']} over {report['before']}"
    _bounded(what, (gain, None), "gate.min_gain", policy.min_gain, 1, said)
    return said


def _sign(metric: dict[str, Any]) -> int:
    return 1 if metric["higher_is_better"] else -1


def _bounded(what: str, values: tuple[float, float | None], key: str, bound: float, sign: int, said: Said) -> None:
    """Put a value of the candidate, with the champion's if there is one, where its bound has it."""
    (value, champion), (blocks, holds, passes) = values, said
    good = sign * value >= sign * bound
    relation = ("≥" if good else "<") if sign > 0 else ("≤" if good else ">")
    found = f"{what} {value:.3f} {relation} {key} {bound:g}"
    if good:
        passes.append(found)
    elif champion is not None and sign * champion <= sign * value:  # so the champion misses it too
        holds.append(f"{found}, but the champion has {champion:.3f}: `staytuned promote` can put it in its place")
    else:
        blocks.append(found)
