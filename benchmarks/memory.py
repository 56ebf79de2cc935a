"""Peak memory of validate and of encode, above their imports: 1,000,000 rows over 100,000 rows.

usage: python benchmarks/memory.py [ROUNDS]

Each measurement has a process of its own: it imports the stage, notes its resident memory, has the kernel forget the
peak of the imports, runs the stage, and reads the peak. One row in a hundred is bad, so that there is a quarantine.
"""

import importlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
from measure import ENVIRONMENT, meets, ratios
from tiny import make_rows, set_params

from staytuned.data import batches
from staytuned.data.readers import Reader
from staytuned.data.sides import TEST, TRAIN, VALIDATION
from staytuned.files import PARQUET
from staytuned.params import Params
from staytuned.start import init
from staytuned.workspace import Workspace

BOUND = 1.5
FEW, MANY = 100_000, 1_000_000
# And what they import when they run. Encode goes first: validate writes the rows that encode reads.
STAGES = {"encode": ["pandas"], "validate": ["great_expectations"]}


def main(rounds: int) -> bool:
    """Whether both stages meet the bound."""
    met = True
    with tempfile.TemporaryDirectory() as scratch:
        workspaces = [make_inputs(Path(scratch) / str(count), count) for count in (FEW, MANY)]
        for stage in STAGES:
            found = [[peak(stage, workspace) for workspace in workspaces] for _ in range(rounds)]
            few, many = ([float(value) for value in values] for values in zip(*found, strict=True))
            print(f"{stage}: {FEW:,} rows {few} MB, {MANY:,} rows {many} MB")
            met &= meets(f"peak memory of {stage}, {MANY:,} rows over {FEW:,}", ratios(many, few), BOUND)
    return met


def make_inputs(folder: Path, count: int) -> Workspace:
    """A workspace with one batch of ``count`` rows for validate, and the inputs of encode as the stages leave them."""
    workspace = init(folder)
    set_params(workspace, ingest__columns__id="id", ingest__columns__source="source", ingest__columns__group="document")
    some = [f"{row['text']}, and {other['text']}" for row, other in zip(make_rows(500), make_rows(500, 1), strict=True)]
    texts = ["" if number % 100 == 0 else f"{some[number % 500]} {number}" for number in range(count)]
    numbers = [str(number) for number in range(count)]
    table = pyarrow.table(
        {
            "id": numbers,
            "text": texts,
            "label": [("negative", "neutral", "positive")[number % 3] for number in range(count)],
            "source": ["shop"] * count,
            "document": [str(number // 4) for number in range(count)],
        }
    )
    file = folder / "rows.parquet"
    pyarrow.parquet.write_table(table, file)
    params = Params.read(workspace.params)
    batches.add(workspace, Reader(file, params.ingest.columns, params.ingest.encodings))
    accepted = table.rename_columns(["row", "text", "label", "source", "group"])
    pyarrow.parquet.write_table(accepted, workspace.accepted, row_group_size=params.validate_.chunk_rows, **PARQUET)
    sides = [(TRAIN, TRAIN, TRAIN, VALIDATION, TEST)[number % 5] for number in range(count)]
    split = pyarrow.table({"row": numbers, "group": numbers, "side": sides})
    pyarrow.parquet.write_table(split, workspace.split, **PARQUET)
    return workspace


def peak(stage: str, workspace: Workspace) -> int:
    """Megabytes that a fresh process needs for a stage, above its imports."""
    shutil.rmtree(workspace.pieces, ignore_errors=True)  # or all but the first round would take its rows from there
    command = [sys.executable, __file__, stage, str(workspace.root)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"stage {stage} failed:\n{done.stderr[-4000:]}")
    return int(done.stdout)


def run_stage(stage: str, workspace: Workspace) -> int:
    """Run a stage in this process; its peak in megabytes."""
    module = importlib.import_module(f"staytuned.stages.{stage}")
    for name in STAGES[stage]:
        importlib.import_module(name)
    params = Params.read(workspace.params)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is the present from here on
    module.run(workspace, params)
    return status("VmHWM") - before


def status(name: str) -> int:
    """A value of /proc/self/status in megabytes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) // 1024


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(run_stage(sys.argv[1], Workspace(Path(sys.argv[2]))))
    else:
        sys.exit(not main(int(sys.argv[1]) if len(sys.argv) > 1 else 3))
