"""The short table at the end of a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from staytuned.files import read_json
from staytuned.params import Params
from staytuned.registry.alias import CHAMPION
from staytuned.registry.release import Release
from staytuned.workspace import Workspace

if TYPE_CHECKING:
    from staytuned.drift.triggers import Answer


def summary(workspace: Workspace, params: Params, release: Release) -> None:
    """The short table at the end of a run."""
    split = read_json(workspace.reports / "split.json")
    report = read_json(workspace.evaluation / "evaluation.json")
    models = report["models"]
    table = _table(workspace)
    sides = ", ".join(f"{count} {side}" for side, count in split["sides"].items())
    table.add_row("split", f"{sides}; {split['bridging_rows_kept_out']} kept out")
    encoding = read_json(workspace.reports / "encoding.json")
    examples, cut = (sum(side[count] for side in encoding["sides"].values()) for count in ("examples", "truncated"))
    if cut:
        table.add_row("cut", f"{cut} of {examples} examples, to what params.yaml allows")
    titles = {
        "base": "before fine-tuning",
        "candidate": "candidate",
        "champion": "champion",
        "best": "best before",
    }
    for name, title in titles.items():
        if name in models:
            table.add_row(title, _line(models[name], report["metrics"]))
    table.add_row("gate", "\n".join([release.decision.outcome, *release.decision.reasons]))
    if release.version:
        alias = f"alias {release.alias}" if release.alias else "no longer champion: see `staytuned history`"
        if release.alias == CHAMPION and not release.moved:
            alias += ", as before"
        table.add_row("registered", f"{params.registry.model} version {release.version}, {alias}")
    ui = "make ui" if (workspace.root / "Makefile").exists() else "staytuned ui"
    where = [
        ("decision", workspace.decision_page),
        ("evaluation", workspace.evaluation / "report.html"),
        ("Data Docs", workspace.data_docs / "index.html"),
        ("what drifted", workspace.drift / "report.html"),
        ("MLflow, Prefect", f"`{ui}`: http://127.0.0.1:5000 and http://127.0.0.1:4200"),
    ]
    for name, place in where:
        shown = place.relative_to(workspace.root) if isinstance(place, Path) else place
        table.add_row(name, str(shown))
    Console(markup=False).print(table)


def not_due(workspace: Workspace, answer: "Answer") -> None:
    """The short table at the end of a run that found no retraining due."""
    table = _table(workspace)
    table.add_row("retraining", "not due")
    table.add_row("fired", "\n".join(answer.reasons) or "nothing")
    table.add_row("waits for", "\n".join(answer.waiting))
    table.add_row("expected cost", f"{answer.expected_cost:,} training tokens")
    Console(markup=False).print(table)


def _table(workspace: Workspace) -> Table:
    rows = read_json(workspace.reports / "validation.json")
    table = Table(show_header=False, title="staytuned", title_justify="left")
    mended = f", {rows['readmitted']} of them corrected since" if rows["readmitted"] else ""
    table.add_row("rows in", f"{rows['rows']}: {rows['accepted']} accepted, {rows['quarantined']} quarantined{mended}")
    if rows["batches"][-1]["said"]:
        table.add_row("not accepted", "of the last batch:\n" + "\n".join(rows["batches"][-1]["said"]))
    if rows["quarantined"]:
        table.add_row("why, row by row", str(workspace.quarantine.relative_to(workspace.root)))
    drift = read_json(workspace.drift / "drift.json")
    if drift["enough"]:
        table.add_row("drift", drift["said"].split(". ")[0])
    return table


def _line(model: dict[str, Any], metrics: list[dict[str, Any]]) -> str:
    """The first metric with its interval, and the second."""
    version = f"version {model['version']}, " if "version" in model else ""
    said = [f"{metric['title']} {model['metrics'][metric['name']]:.3f}" for metric in metrics[:2]]
    low, high = model["intervals"][metrics[0]["name"]]
    return f"{version}{said[0]} ({low:.3f} to {high:.3f})" + "".join(f", {one}" for one in said[1:])
