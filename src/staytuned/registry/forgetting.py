"""Forgetting, seen: what each version knew of each source and batch, and how far the candidate is below the best.

Versions that this run scored (candidate, champion, best) stand with today's figures. Of older ones the ledger kept what
was measured when they were candidates. A batch never changes and no row changes sides, so a figure on as many rows of a
batch is one on the same rows; where a source has grown since, its old figure is shown and not compared.
"""

from dataclasses import dataclass
from typing import Any

from staytuned.registry.ledger import CHALLENGE, DECISION, PROMOTION, Entry

Figures = dict[str, list[float]]  # by source or batch: rows, value of the task's first metric
KINDS = {"sources": "slices", "batches": "batches"}  # in the ledger, and in the report
TODAY = {"champion": "champion", "best": "best version", "candidate": "candidate"}


@dataclass(frozen=True)
class Column:
    """One version."""

    title: str
    when: str  # the day, or "today"
    figures: dict[str, Figures]  # of KINDS


def measured(report: dict[str, Any], model: str = "candidate") -> dict[str, Figures]:
    """What the report says of a model, short enough for the ledger."""
    metric = report["metrics"][0]["name"]
    return {
        kind: {
            name: [found["rows"], round(found["metrics"][metric], 4)]
            for name, found in report["models"][model].get(key, {}).items()
        }
        for kind, key in KINDS.items()
    }


def columns(entries: list[Entry], report: dict[str, Any]) -> list[Column]:
    """Every version, the oldest first, and the candidate."""
    models = report["models"]
    of_today = {models[name]["version"]: name for name in ("champion", "best") if name in models}
    versions = {entry.facts["key"]: entry.facts["version"] for entry in entries if entry.kind in (PROMOTION, CHALLENGE)}
    found = dict[int, Column]()
    for entry in entries:
        version = versions.get(entry.facts["key"]) if entry.kind == DECISION else None
        if version is not None and "measured" in entry.facts:
            found[version] = Column(f"version {version}", entry.when[:10], entry.facts["measured"])
    for version, name in of_today.items():
        found[version] = Column(f"version {version}, {TODAY[name]}", "today", measured(report, name))
    return [*(found[version] for version in sorted(found)), Column("candidate", "today", measured(report))]


def falls(kind: str, matrix: list[Column], higher_is_better: bool) -> dict[str, tuple[float, str]]:
    """How far the candidate is below the best of all others on the same rows, and which that is.

    Args:
        kind: Of KINDS.
        matrix: From ``columns``.
        higher_is_better: Of the task's first metric.
    """
    *others, candidate = matrix
    sign, found = 1 if higher_is_better else -1, dict[str, tuple[float, str]]()
    for name, (rows, value) in candidate.figures[kind].items():
        rivals = [
            (sign * (cell[1] - value), other.title)
            for other in others
            if (cell := other.figures[kind].get(name)) and cell[0] == rows
        ]
        if rivals:
            found[name] = max(rivals)
    return found
