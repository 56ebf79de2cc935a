"""The gate: one pure function from evidence and policy to a decision with its reasons."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from staytuned.sections import Gate

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
    On each source by itself a loss within its margin may be confirmed: what is gained on another may be worth it.

    Args:
        report: What the evaluate stage wrote, with the versions of champion and best.
        standing: From the ledger, never from the report.
        policy: The gate section of params.yaml.
    """
    missing, few = _missing(report, standing, policy), too_few(_at(report, "test"), policy)
    if missing:
        return Decision("BLOCK", missing + few)
    missed, passes = _bounds(report, policy)
    blocks = few + missed + _budgets(report, policy) + _behaviour(report)  # all at once, so that all can be mended
    holds = list[str]()
    for name, version in _rivals(standing).items():
        title = f"against {'champion' if name == 'champion' else 'best version'} {version}"
        whole = report["comparisons"][name][report["metrics"][0]["name"]]
        _not_inferior(report, whole, title, "gate.margin", policy.margin, 0.0, (blocks, holds, passes))
        for source, found in report["sources"].items():
            if _is_asked(found, policy):
                key, margin = "gate.sources.margin", policy.sources.margin
                _not_inferior(report, found[name], f"{title} on {source}", key, margin, margin, (blocks, holds, passes))
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


def _not_inferior(
    report: dict[str, Any],
    difference: dict[str, Any],
    against: str,
    key: str,
    margin: float,
    allowed: float,
    said: tuple[list[str], list[str], list[str]],
) -> None:
    """Put what the difference shows among what blocks, holds or passes: a loss of more than ``allowed``, confirmed by
    the interval, blocks; one of more than ``margin`` that is not ruled out holds.
    """
    blocks, holds, passes = said
    metric, (low, high) = report["metrics"][0], difference["interval"]
    found = f"{metric['title']} {difference['difference']:+.3f} {against} ({low:+.3f} to {high:+.3f})"
    worst, best = (low, high) if metric["higher_is_better"] else (-high, -low)
    if best < -allowed:
        blocks.append(f"{found}: worse")
    elif worst < -margin:
        holds.append(f"{found}: a loss of more than {key} {margin:g} is not ruled out")
    else:
        passes.append(f"{found}: no loss of more than {key} {margin:g}")


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
        for path in (("sources",), ("behaviour",), ("models", "candidate", "slices"))
        if not isinstance(_at(report, *path), dict)
    ]
    if not _numbers(_at(report, "test", "rows"), _at(report, "test", "groups")):
        found.append("no count of the test rows, or of their groups: missing evidence")
    for name, version in _rivals(standing).items():
        difference = _at(report, "comparisons", name, *metrics[:1])
        interval = _at(difference, "interval")
        if _at(report, "models", name, "version") != version:
            found.append(
                f"version {version}, the {name}, was not scored beside the candidate; `staytuned sync` pins it"
            )
        elif not (isinstance(interval, list) and len(interval) == 2):
            found.append(f"no interval of the difference to the {name}: missing evidence")
        elif not _numbers(_at(difference, "difference"), *interval):
            found.append(f"the difference to the {name} is no number: missing evidence")
        found += _missing_of_sources(_at(report, "sources"), name, policy)
    return found


def _missing_of_sources(sources: Any, name: str, policy: Gate) -> list[str]:
    """Sources that must be asked about and of which there is no difference to a rival."""
    return [
        f"no difference to the {name} on {source}: missing evidence"
        for source, found in (sources or {}).items()
        if not _numbers(_at(found, "rows"), _at(found, "groups"))
        or (
            _is_asked(found, policy)
            and not _numbers(_at(found, name, "difference"), *(_at(found, name, "interval") or [None]))
        )
    ]


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
