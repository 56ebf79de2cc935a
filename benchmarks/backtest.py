"""Quality and cost of policies over twelve arrivals of four sources: is staying tuned worth what it costs?

usage: python benchmarks/backtest.py FOLDER [SEEDS]     FOLDER keeps what is done, run by run, so that it can be resumed

Bounds, on the mean over arrivals of macro-F1 on all test rows of the sources seen so far, with 3 seeds: staytuned is at
most 0.005 below training from scratch at every arrival, reads at most 35 % of its training tokens, and is above
retraining every third arrival from scratch, which reads about as many.
"""

import sys
from pathlib import Path

from staytuned import road, start
from staytuned.backtest.pages import difference, rows_of
from staytuned.backtest.run import backtest
from staytuned.cli import POLICIES
from staytuned.data.arrivals import arrivals
from staytuned.demo import CHANGES
from staytuned.workspace import Workspace

ROWS = 1_000  # of an arrival


def main() -> None:
    folder, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3
    if not (folder / "params.yaml").exists():
        params = start.make(folder).params
        start.change(params, CHANGES)  # of the demo
        start.change(params, {"train": {"threads": 1}})  # a run on each processor
    workspace = Workspace(folder.resolve())
    for file in arrivals(workspace.root / "data" / "arrivals", ROWS):
        road.ingest(workspace, file)
    report = backtest(workspace, POLICIES, list(range(1, count + 1)))
    share = {row["policy"]: row["share"] for row in rows_of(report)}
    met = share["staytuned"] <= 0.35
    print(f"training tokens over those of scratch: {share['staytuned']:.3f}, at most 0.35")
    for other, bound in (("scratch", -0.005), ("periodic-3", 0.0), ("never", 0.0)):
        mean, low, high = difference(report, "staytuned", other, "macro_f1")
        met &= mean >= bound
        print(f"macro-F1 against {other}: {mean:+.4f} ({low:+.4f} to {high:+.4f}), at least {bound:g}")
    sys.exit(not met)


if __name__ == "__main__":
    main()
