"""``staytuned run`` with nothing to do, over a bare ``dvc status``; and with 500 batches, over the same with one.

usage: python benchmarks/nothing_to_do.py [ROUNDS]
"""

import sys
import tempfile
from pathlib import Path

from measure import BIN, in_turn, meets, ratios, wall
from tiny import make_rows, make_workspace, set_params, write_csv

from staytuned import pipeline
from staytuned.data import batches
from staytuned.data.readers import Reader
from staytuned.params import Params
from staytuned.registry import pin
from staytuned.workspace import Workspace

OVER_STATUS, OVER_ONE_BATCH = 3.0, 2.0
MANY, ROWS = 500, 100


def main(rounds: int) -> bool:
    """Whether both bounds are met."""
    with tempfile.TemporaryDirectory() as scratch:
        few = finished_road(Path(scratch) / "one", 1, 4 * ROWS)
        many = finished_road(Path(scratch) / "many", MANY, ROWS)
        measured = in_turn(
            rounds,
            lambda: wall([str(BIN / "staytuned"), "run"], few.root),
            lambda: wall([str(BIN / "dvc"), "status"], few.root),
            lambda: wall([str(BIN / "staytuned"), "run"], many.root),
        )
    run, status, run_many = measured
    met = meets("staytuned run with nothing to do, over a bare dvc status", ratios(run, status), OVER_STATUS)
    what = f"staytuned run with nothing to do, {MANY} batches of {ROWS} rows over one batch"
    return meets(what, ratios(run_many, run), OVER_ONE_BATCH) and met


def finished_road(folder: Path, count: int, rows: int) -> Workspace:
    """A workspace with ``count`` batches of ``rows`` rows, whose road has been run."""
    workspace = make_workspace(folder)
    set_params(workspace, train__epochs=1, train__evaluations_per_epoch=1, gate__bounds={})
    params = Params.read(workspace.params)
    file = folder / "data" / "rows.csv"
    for number in range(count):  # as `staytuned ingest` does, but DVC is told once, of all
        write_csv(file, make_rows(rows, seed=number))
        batches.add(workspace, Reader(file, params.ingest.columns, params.ingest.encodings))
    file.unlink()
    pin.refresh(workspace, params, arrived=True)
    pipeline.track(workspace, workspace.batches, workspace.pin)
    print(f"running the road on {count} batches of {rows} rows", flush=True)
    wall([str(BIN / "staytuned"), "run"], workspace.root)
    return workspace


if __name__ == "__main__":
    sys.exit(not main(int(sys.argv[1]) if len(sys.argv) > 1 else 9))
