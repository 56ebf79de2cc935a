"""The backtest on titles of arXiv, quarter by quarter from 2008 to 2018: classes whose shares move, words that come.

usage: python benchmarks/backtest_titles.py DATA FOLDER [ROWS]     FOLDER keeps what is done, so that it can be resumed

DATA holds arxiv/titles.csv.gz, as docs/tasks.md has it. ROWS (100, or all there are) are drawn from each quarter, so
that the classes keep their shares; a year is a source, so that what is forgotten of it is seen. One seed. Prints the
table of the policies, and the accuracy on 2018 of a model that learned until 2012 and of one that learned until 2017.
"""

import csv
import gzip
import random
import sys
from collections import defaultdict
from pathlib import Path

from staytuned import road, start
from staytuned.backtest.run import backtest
from staytuned.workspace import Workspace

POLICIES = ["never", "staytuned", "periodic-4", "scratch"]  # four quarters are a year
COLUMNS = ["id", "year", "label", "text"]
TASK = "text-classification"
CHANGES = {
    "encode": {"max_tokens": 64},
    "split": {"test": 0.25},  # of a quarter's rows few would judge else
    "train": {"threads": 1, "start": "champion", "epochs": 3, "learning_rate": 2.0e-4, "sharpness": 0.0},
    "gate": {"margin": 0.04, "min_test_rows": 50, "bounds": {}},  # what some hundred rows can show
}


def make(data: Path, folder: Path, rows: int) -> None:
    """A workspace with a batch for each quarter."""
    batches = quarters(data / "arxiv" / "titles.csv.gz")
    workspace = start.init(folder, TASK)
    task = {"name": TASK, "labels": sorted({row["label"] for batch in batches.values() for row in batch})}
    columns = {"id": "id", "source": "year"}
    start.change(workspace.params, CHANGES | {"task": task, "ingest": {"columns": columns}})
    for name, batch in sorted(batches.items()):
        file = folder / "data" / "arrivals" / f"{name}.csv"
        write(file, random.Random(7).sample(batch, min(rows, len(batch))))
        road.ingest(workspace, file)


def quarters(path: Path) -> dict[str, list[dict[str, str]]]:
    """The rows of each."""
    found = defaultdict(list)
    with gzip.open(path, "rt", encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            year, month, _ = row["date"].split("-")
            about = {"id": row["arxiv_id"], "year": year, "label": row["label"], "text": row["title"]}
            found[f"{year}-{(int(month) + 2) // 3}"].append(about)
    return found


def write(path: Path, rows: list[dict[str, str]]) -> None:
    """The file of a batch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as handle:
        table = csv.DictWriter(handle, COLUMNS)
        table.writeheader()
        table.writerows(rows)


def main() -> None:
    data, folder = Path(sys.argv[1]), Path(sys.argv[2])
    if not (folder / "params.yaml").exists():
        make(data, folder, int(sys.argv[3]) if len(sys.argv) > 3 else 100)
    report = backtest(Workspace(folder.resolve()), POLICIES, [1])
    runs = {run["policy"]: run["arrivals"] for run in report["runs"]}
    for last in ("2012-4", "2017-4"):
        line = next(line for line in runs["scratch"] if Path(line["arrival"]).stem == last)
        print(f"accuracy on 2018, learned until {last}: {line['sources']['2018']['accuracy']:.3f}")


if __name__ == "__main__":
    main()
