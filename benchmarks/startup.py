"""Starting: ``staytuned --help`` over a bare Python start, and the heavy packages that commands and stages load.

usage: python benchmarks/startup.py [ROUNDS]
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from measure import BIN, ENVIRONMENT, in_turn, meets, ratios, wall
from tiny import make_rows, make_workspace, write_csv

from staytuned import road
from staytuned.workspace import Workspace

BOUND = 3.0
# Packages that take a tenth of a second or more to import.
HEAVY = {
    "datasets", "datasketch", "dvc", "great_expectations", "matplotlib", "mlflow", "pandas", "prefect", "pyarrow",
    "scipy", "sklearn", "tokenizers", "torch", "transformers",
}  # fmt: skip
IMPORTS: dict[str, set[str]] = {"staytuned.cli": set(), "staytuned.road": {"pyarrow"}}
# What each stage has a use for, when it has done its work. pyarrow looks for pandas when it makes an array;
# great_expectations, datasketch, sklearn and the models of transformers load scipy.
STAGES = {
    "validate": {"great_expectations", "pandas", "pyarrow", "scipy"},
    "split": {"datasketch", "pandas", "pyarrow", "scipy"},
    "drift": {"pandas", "pyarrow"},  # there is no champion yet
    "encode": {"pandas", "pyarrow", "tokenizers"},
    "train": {"datasets", "pandas", "pyarrow", "scipy", "tokenizers", "torch", "transformers"},
    "evaluate": {
        "datasets", "matplotlib", "pandas", "pyarrow", "scipy", "sklearn", "tokenizers", "torch", "transformers",
    },
}  # fmt: skip
IMPORT = "import {what}"
STAGE = "import sys; sys.argv = ['', '{what}']; from staytuned.stages.__main__ import main; main()"


def main(rounds: int) -> bool:
    """Whether help is quick, and nothing loads a heavy package that it has no use for."""
    python = str(BIN / "python")
    help_, bare = in_turn(rounds, lambda: wall([str(BIN / "staytuned"), "--help"]), lambda: wall([python, "-c", ""]))
    met = meets("staytuned --help over a bare Python start", ratios(help_, bare), BOUND)
    for module, uses in IMPORTS.items():
        met &= needs_all(f"importing {module}", loaded(IMPORT.format(what=module)), uses)
    with tempfile.TemporaryDirectory() as scratch:
        workspace = tiny_workspace(Path(scratch))
        for stage, uses in STAGES.items():
            met &= needs_all(f"stage {stage}", loaded(STAGE.format(what=stage), workspace.root), uses)
    return met


def tiny_workspace(scratch: Path) -> Workspace:
    """A workspace with one batch and a tiny model."""
    workspace = make_workspace(scratch / "workspace")
    road.ingest(workspace, write_csv(scratch / "rows.csv", make_rows(400)))
    return workspace


def loaded(code: str, folder: Path | None = None) -> set[str]:
    """The heavy packages that a fresh process holds after running ``code`` in ``folder``."""
    command = [sys.executable, "-c", f"{code}; import sys; print(*{{name.split('.')[0] for name in sys.modules}})"]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{code!r} failed:\n{done.stderr[-4000:]}")
    return HEAVY.intersection(done.stdout.split())


def needs_all(what: str, found: set[str], uses: set[str]) -> bool:
    """Print what is loaded; whether there is a use for all of it."""
    needless = found - uses
    verdict = f"no use for {', '.join(sorted(needless))}: NOT MET" if needless else "met"
    print(f"{what} loads {', '.join(sorted(found)) or 'nothing heavy'}: {verdict}")
    return not needless


if __name__ == "__main__":
    sys.exit(not main(int(sys.argv[1]) if len(sys.argv) > 1 else 30))
