"""The demo for people: a table, and a chart of what serves beside a model that is never trained again."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

NEVER, TUNED = "never retrained", "staytuned"


def happened(line: dict[str, Any]) -> str:
    """What became of the model that an arrival set off."""
    names = {None: "not due", "PROMOTE": "promoted", "HOLD": "held", "BLOCK": "blocked"}
    return names[line["outcome"]]


def totals(report: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Of each policy: the mean of the first two metrics over arrivals, tokens read and seconds of training."""
    lines = report["arrivals"]
    found = {}
    for title, model, trained in ((NEVER, "first", lines[:1]), (TUNED, "champion", lines)):
        means = {
            metric["name"]: sum(line[model][metric["name"]] for line in lines) / len(lines)
            for metric in report["metrics"][:2]
        }
        cost = {name: sum(line[name] for line in trained) for name in ("tokens", "training_seconds")}
        found[title] = means | cost
    return found


def overhead(report: dict[str, Any]) -> float:
    """Mean seconds of an arrival that are not training."""
    lines = report["arrivals"]
    seconds: float = sum(line["seconds"] - line["training_seconds"] for line in lines) / len(lines)
    return seconds


def show(report: dict[str, Any]) -> None:
    """Print the table."""
    metrics = report["metrics"][:2]
    table = Table(title="demo", title_justify="left", box=SIMPLE)
    for column in ("arrival", "candidate", "seconds", *(metric["title"] for metric in metrics)):
        table.add_column(column, justify="left" if column in ("arrival", "candidate") else "right")
    for line in report["arrivals"]:
        values = [f"{line['first'][metric['name']]:.3f} → {line['champion'][metric['name']]:.3f}" for metric in metrics]
        training = line["training_seconds"]
        seconds = f"{training:.0f} + {line['seconds'] - training:.0f}"
        table.add_row(Path(line["arrival"]).stem, happened(line), seconds, *values)
    console = Console(markup=False)
    console.print(table)
    console.print("seconds: of training + of all else")
    console.print(f"{metrics[0]['title']} and {metrics[1]['title']}: {NEVER} → {TUNED}, on all test rows so far\n")
    for name, found in totals(report).items():
        means = ", ".join(f"{metric['title']} {found[metric['name']]:.3f}" for metric in metrics)
        cost = f"{found['tokens']:,.0f} training tokens, {found['training_seconds']:.0f} s of training"
        console.print(f"{name}: {means} on average; {cost}")
    console.print(f"an arrival takes {overhead(report):.0f} s besides training, on average")


def write_pages(folder: Path, report: dict[str, Any]) -> None:
    """Write ``demo.png``."""
    lines = report["arrivals"]
    places = range(1, len(lines) + 1)
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for axes, metric in zip(panels, report["metrics"][:2], strict=True):
        axes.plot(places, [line["first"][metric["name"]] for line in lines], color="0.6", label=NEVER)
        tuned = [line["champion"][metric["name"]] for line in lines]
        axes.plot(places, tuned, color="C0", label=TUNED)
        marks = {"PROMOTE": "o", "HOLD": "s", "BLOCK": "X"}
        for outcome, marker in marks.items():
            at = [place for place, line in zip(places, lines, strict=True) if line["outcome"] == outcome]
            if at:
                axes.scatter(
                    at,
                    [tuned[place - 1] for place in at],
                    marker=marker,
                    color="C0",
                    label=happened({"outcome": outcome}),
                    zorder=3,
                )
        axes.set_xticks(places, [Path(line["arrival"]).stem for line in lines], rotation=45, ha="right")
        axes.set_ylabel(f"{metric['title']} on all test rows so far")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    figure.savefig(folder / "demo.png", dpi=110, metadata={"Software": None})
    pyplot.close(figure)
