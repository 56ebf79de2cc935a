"""What there must be before the gate can decide: test rows, figures, comparisons with champion and best version."""

import math
from dataclasses import dataclass
from typing import Any

from staytuned.policy import Gate

GROUPS = 5  # with test rows: intervals draw groups, and of one or two each draw is much the same, as if nothing varied


@dataclass(frozen=True)
class Standing:
    """Versions that the candidate must be compared with; None where there is none yet."""

    champion: int | None
    best: int | None


def missing(report: dict[str, Any], standing: Standing, policy: Gate) -> list[str]:
    """What the report lacks to decide on, in words."""
    metrics = [metric["name"] for metric in report.get("metrics", [])]
    found = [
        f"no {metric} of the {name}: missing evidence"
        for name in ("candidate", "base")
        for metric in dict.fromkeys([*metrics[:1], *policy.bounds])
        if not numbers(at(report, "models", name, "metrics", metric))
    ]
    if not metrics:
        found.append("no metrics: missing evidence")
    found += [
        f"no {path[-1]}: missing evidence"
        for path in (("sources",), ("classes",), ("behaviour",), ("models", "candidate", "slices"))
        if not isinstance(at(report, *path), dict)
    ]
    if not numbers(at(report, "test", "rows"), at(report, "test", "groups")):
        found.append("no count of the test rows, or of their groups: missing evidence")
    for name, version in rivals(standing).items():
        if at(report, "models", name, "version") != version:
            found.append(
                f"version {version}, the {name}, was not scored beside the candidate; `staytuned sync` pins it"
            )
            continue
        found += [
            f"no difference in {metric} to the {name}: missing evidence"
            for metric in [*metrics[:1], *policy.margins]
            if not _is_difference(at(report, "comparisons", name, metric))
        ]
        found += _missing_of_parts(report, name, policy)
    return found


def _missing_of_parts(report: Any, name: str, policy: Gate) -> list[str]:
    """Sources and classes that must be asked about and of which there is no difference to a rival."""
    sources, classes = (there if isinstance(there := at(report, kind), dict) else {} for kind in ("sources", "classes"))
    lacking = [
        f"on {source}"
        for source, found in sources.items()
        if not numbers(at(found, "rows"), at(found, "groups"))
        or (asks_source(found, policy) and not _is_difference(at(found, name)))
    ]
    lacking += [
        f"in class {label}"
        for label, found in classes.items()
        if not numbers(at(found, "support"), at(found, "groups"))
        or (asks_class(found, policy) and not _is_difference(at(found, name)))
    ]
    return [f"no difference to the {name} {where}: missing evidence" for where in lacking]


def too_few(test: Any, policy: Gate) -> list[str]:
    """Whether there are fewer test rows than the policy asks for, or fewer groups of them than it takes, in words."""
    rows, groups = at(test, "rows"), at(test, "groups")
    found = list[str]()
    if numbers(rows) and rows < policy.min_test_rows:
        found.append(
            f"{rows} test rows, under gate.min_test_rows {policy.min_test_rows}: missing evidence; ingest more rows, "
            "raise split.test, or lower gate.min_test_rows"
        )
    if numbers(groups) and groups < GROUPS:
        found.append(
            f"the {rows} test rows are of {groups} groups, and it takes {GROUPS} to say how far figures vary: missing "
            "evidence; ingest rows of more groups (ingest.columns.group)"
        )
    return found


def rivals(standing: Standing) -> dict[str, int]:
    """The versions that the candidate is compared with; a champion that is the best is one of them once."""
    found = {"champion": standing.champion}
    if standing.best != standing.champion:
        found["best"] = standing.best
    return {name: version for name, version in found.items() if version is not None}


def asks_source(source: dict[str, Any], policy: Gate) -> bool:
    """Whether a source has test rows enough to show what was forgotten of it."""
    return bool(source["rows"] >= policy.sources.min_rows and source["groups"] >= GROUPS)


def asks_class(found: dict[str, Any], policy: Gate) -> bool:
    """Whether a class occurs often enough to show what was lost of it."""
    return bool(found["support"] >= policy.classes.min_support and found["groups"] >= GROUPS)


def _is_difference(found: Any) -> bool:
    """Whether it is a difference with its interval."""
    interval = at(found, "interval")
    whole = isinstance(interval, list) and len(interval) == 2
    return whole and numbers(at(found, "difference"), *interval)


def at(report: Any, *path: str) -> Any:
    """What stands at a path of the report; None where nothing does."""
    for key in path:
        report = report.get(key) if isinstance(report, dict) else None
    return report


def numbers(*values: Any) -> bool:
    """Whether all of them are numbers, and finite."""
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)
