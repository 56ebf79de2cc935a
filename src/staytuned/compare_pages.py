"""The comparison for people: a table and a picture."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from rich import box
from rich.console import Console
from rich.table import Table


def show(report: dict[str, Any]) -> None:
    """Print the table, and below it what must be known to read it."""
    first, second = (metric["title"] for metric in report["metrics"][:2])
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    table.add_column("method", no_wrap=True)
    spent = ("s to\nmake", "s for\n1,000", "cost of\n1,000")
    for title in ("labels", first, f"{report['confidence']:.0%}", second, *spent):
        table.add_column(title, justify="right", no_wrap=True)
    for found in report["methods"]:
        table.add_row(*_cells(found, report["metrics"]))
    console = Console(markup=False)
    console.print(table)
    kept = f", {report['kept_from_judging']} kept from judging" if report["kept_from_judging"] else ""
    console.print(
        f"{report['rows']} test rows in {report['groups']} groups{kept}; {report['threads']} thread(s) of the "
        f"processor, at {report['cost_per_hour']:g} an hour",
        *report["notes"],
        sep="\n",
        highlight=False,
    )


def _cells(found: dict[str, Any], metrics: list[dict[str, Any]]) -> list[str]:
    first, second = (metric["name"] for metric in metrics[:2])
    low, high = found["intervals"][first]
    made = found["seconds_to_make"]
    return [
        found["method"],
        f"{found['labels']:,}",
        f"{found['metrics'][first]:.3f}",
        f"{low:.3f}–{high:.3f}",
        f"{found['metrics'][second]:.3f}",
        "–" if made is None else f"{made:.1f}",
        f"{found['seconds_per_1000']:.1f}",
        f"{found['cost_per_1000']:.5f}",
    ]


def write_picture(path: Path, report: dict[str, Any]) -> None:
    """Quality with its interval against the labels that it takes."""
    metric = report["metrics"][0]
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    counts = [found["labels"] for found in report["methods"]]
    for place, found in enumerate(report["methods"]):
        value, (low, high) = found["metrics"][metric["name"]], found["intervals"][metric["name"]]
        reach = [[max(0.0, value - low)], [max(0.0, high - value)]]  # a percentile interval need not hold the value
        earlier = counts[:place].count(counts[place])  # those of as many labels stand side by side
        axes.errorbar(counts[place] * 1.1**earlier + earlier, value, reach, fmt="o", capsize=4, label=found["method"])
    axes.set_xscale("symlog", linthresh=10)
    axes.set_xlim(left=-2)
    axes.set_xticks(sorted(set(counts)), [f"{count:,}" for count in sorted(set(counts))])
    axes.minorticks_off()
    axes.set_xlabel("labelled rows needed")
    axes.set_ylabel(f"{metric['title']} on {report['rows']:,} test rows")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Software": None})  # nothing of the machine in the file
    pyplot.close(figure)
