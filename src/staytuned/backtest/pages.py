"""A backtest for people: a table, a chart of quality over arrivals, a chart of quality against cost."""

import csv
import math
import statistics
from pathlib import Path
from typing import Any

import matplotlib
import scipy.stats

matplotlib.use("Agg")
from matplotlib import pyplot
from rich.console import Console
from rich.table import Table

NAMED = 15  # arrivals that have their names below the chart; of more, every second or third


def rows_of(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each policy: the mean of each metric over arrivals and seeds, and what it cost."""
    names = list(dict.fromkeys(run["policy"] for run in report["runs"]))
    runs = {name: [run for run in report["runs"] if run["policy"] == name] for name in names}
    dearest = max(statistics.mean(_tokens(run) for run in of_policy) for of_policy in runs.values())
    rows = []
    for name, of_policy in runs.items():
        tokens = statistics.mean(_tokens(run) for run in of_policy)
        trainings = statistics.mean(sum(line["trained"] is not None for line in run["arrivals"]) for run in of_policy)
        means = {metric["name"]: [_mean(run, metric["name"]) for run in of_policy] for metric in report["metrics"]}
        rows.append(
            {"policy": name}
            | {metric: statistics.mean(values) for metric, values in means.items()}
            | {"trainings": trainings, "tokens": round(tokens), "share": tokens / dearest, "means": means}
        )
    return rows


def difference(report: dict[str, Any], one: str, other: str, metric: str) -> tuple[float, float, float]:
    """Mean over seeds of one policy's mean metric less the other's, and its 95 % interval by Student's t.

    The interval is as wide as the line of numbers where there is one seed.
    """
    means = {row["policy"]: row["means"][metric] for row in rows_of(report)}
    found = [a - b for a, b in zip(means[one], means[other], strict=True)]
    mean: float = statistics.mean(found)
    if len(found) < 2:
        return mean, float("-inf"), float("inf")
    half = float(scipy.stats.t.ppf(0.975, len(found) - 1)) * statistics.stdev(found) / math.sqrt(len(found))
    return mean, mean - half, mean + half


def _mean(run: dict[str, Any], metric: str) -> float:
    return statistics.mean(float(line["metrics"][metric]) for line in run["arrivals"])


def _tokens(run: dict[str, Any]) -> int:
    return sum(line["tokens"] for line in run["arrivals"])


def show(report: dict[str, Any]) -> None:
    """Print the table."""
    table = Table(title="backtest: mean over arrivals and seeds", title_justify="left")
    for column in (
        "policy",
        *(metric["title"] for metric in report["metrics"]),
        "trainings",
        "tokens",
        "of the dearest",
    ):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for row in rows_of(report):
        values = [f"{row[metric['name']]:.3f}" for metric in report["metrics"]]
        table.add_row(row["policy"], *values, f"{row['trainings']:.1f}", f"{row['tokens']:,}", f"{row['share']:.0%}")
    Console(markup=False).print(table)


def write_pages(folder: Path, report: dict[str, Any]) -> None:
    """Write ``backtest.csv`` and ``backtest.png``."""
    metrics = [metric["name"] for metric in report["metrics"]]
    with (folder / "backtest.csv").open("w", encoding="utf-8", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["policy", "seed", "arrival", "version", "trained", "tokens", "outcome", *metrics])
        for run in report["runs"]:
            for line in run["arrivals"]:
                about = [line[name] for name in ("arrival", "version", "trained", "tokens", "outcome")]
                values = [f"{line['metrics'][metric]:.6f}" for metric in metrics]
                table.writerow([run["policy"], run["seed"], *about, *values])
    _chart(folder / "backtest.png", report)


def _chart(path: Path, report: dict[str, Any]) -> None:
    first = report["metrics"][0]
    figure, (course, price) = pyplot.subplots(
        1, 2, figsize=(11, 4), layout="constrained", gridspec_kw={"width_ratios": [2, 1]}
    )
    for number, row in enumerate(rows_of(report)):
        colour, name = f"C{number}", row["policy"]
        runs = [run for run in report["runs"] if run["policy"] == name]
        lines = [[line["metrics"][first["name"]] for line in run["arrivals"]] for run in runs]
        course.plot(range(1, len(lines[0]) + 1), [statistics.mean(at) for at in zip(*lines, strict=True)], label=name)
        price.scatter([row["tokens"]], [row[first["name"]]], color=colour)
        beside = (5, 5 if number % 2 else -12)  # in turn above and below: policies of one cost stand close
        price.annotate(name, (row["tokens"], row[first["name"]]), xytext=beside, textcoords="offset points")
    every = math.ceil(len(report["arrivals"]) / NAMED)
    names = [Path(name).stem[:16] for name in report["arrivals"]][::every]
    course.set_xticks(range(1, len(report["arrivals"]) + 1, every), names, rotation=45, ha="right")
    course.set_ylabel(f"{first['title']} of what serves")
    course.legend(frameon=False)
    price.set_xlabel("training tokens")
    price.set_ylabel(f"mean {first['title']}")
    price.margins(0.25)
    for axes in (course, price):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
