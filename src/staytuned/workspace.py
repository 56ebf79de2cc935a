"""A workspace: the folder with params.yaml, dvc.yaml, pipelines/ and data/, and every path in it, once."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from staytuned.errors import BusyError, MissingError

LOCK = "lock"  # in var: held by the run that is at work


@dataclass(frozen=True)
class Workspace:
    """All paths start at ``root``, never at the working directory or the program's folder."""

    root: Path

    @classmethod
    def find(cls, start: Path | None = None) -> "Workspace":
        """The workspace that holds ``start`` (the working directory if None), or MissingError."""
        here = (start or Path.cwd()).resolve()
        for folder in (here, *here.parents):
            if (folder / "params.yaml").is_file() and (folder / "dvc.yaml").is_file():
                return cls(folder)
        raise MissingError(
            f"no workspace at {here} or above it: there is no params.yaml with a dvc.yaml beside it; "
            "make one with `staytuned init DIR`, or name one with --workspace DIR"
        )

    @property
    def params(self) -> Path:  # noqa: D102 - the names say it
        return self.root / "params.yaml"

    @property
    def behaviour(self) -> Path:
        """What a champion must be able to do."""
        return self.root / "behaviour.yaml"

    @property
    def flow(self) -> str:
        """Entry point of the flow, as Prefect writes it."""
        return f"{self.root / 'pipelines' / 'retrain.py'}:retrain"

    @property
    def lock(self) -> Path:
        """DVC's record of what was last run on what."""
        return self.root / "dvc.lock"

    # inputs, versioned by DVC through a pointer file
    @property
    def batches(self) -> Path:
        """Folder of immutable Parquet files, one a batch."""
        return self.root / "data" / "batches"

    @property
    def manifest(self) -> Path:
        """One JSON line a batch, in the order of arrival."""
        return self.root / "data" / "manifest.jsonl"

    @property
    def pin(self) -> Path:
        """Folder with the champion and the best version, as they were when rows last arrived."""
        return self.root / "data" / "champion"

    # outputs of the stages
    @property
    def accepted(self) -> Path:
        """Rows that may be used."""
        return self.root / "data" / "accepted.parquet"

    @property
    def quarantine(self) -> Path:
        """Rows that may not, each with its reasons."""
        return self.root / "data" / "quarantine.csv"

    @property
    def split(self) -> Path:
        """Side and group of each accepted row."""
        return self.root / "data" / "split.parquet"

    @property
    def encoded(self) -> Path:
        """Folder with one Arrow file a side."""
        return self.root / "data" / "encoded"

    @property
    def candidate(self) -> Path:
        """Folder of the model that was trained last."""
        return self.root / "models" / "candidate"

    @property
    def reports(self) -> Path:
        """Folder of what the stages report."""
        return self.root / "reports"

    @property
    def step_losses(self) -> Path:
        """The loss of each step, written at each evaluation."""
        return self.reports / "step_losses.csv"

    @property
    def curve(self) -> Path:
        """Learning curve, one line an evaluation, written as training goes."""
        return self.reports / "learning_curve.csv"

    @property
    def evaluation(self) -> Path:
        """Folder with the evaluation: JSON, tables, pictures, page."""
        return self.reports / "evaluation"

    @property
    def decision_page(self) -> Path:
        """What was decided last, and what each version knows of each source: a view, not an output."""
        return self.reports / "decision.html"

    @property
    def drift(self) -> Path:
        """Folder with what drifted since the champion: JSON, pictures, page."""
        return self.reports / "drift"

    def drift_of(self, name: str) -> Path:
        """Folder with what drifted in a file that was only looked at, by its name without ending: a view."""
        return self.reports / "drift-of" / name

    @property
    def data_docs(self) -> Path:
        """Folder of the validation's pages: a view, not an output."""
        return self.reports / "data-docs"

    # state that is not versioned
    @property
    def var(self) -> Path:
        """Registry, ledger, logs and local copies of versions."""
        return self.root / "var"

    @property
    def pieces(self) -> Path:
        """Folder of what was dear to make and can be made again."""
        return self.var / "pieces"

    @property
    def verdicts(self) -> Path:
        """Folder of what the data contract makes of rows, pieces too."""
        return self.pieces / "verdicts"

    @property
    def embeddings(self) -> Path:
        """Folder of embeddings by the base model, pieces too."""
        return self.pieces / "embeddings"

    @property
    def states(self) -> Path:
        """Folder of what frozen encoders said of texts, pieces too."""
        return self.pieces / "states"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints of the training under way, a folder a training."""
        return self.pieces / "checkpoints"

    @property
    def ledger(self) -> Path:
        """Append-only record of decisions and promotions."""
        return self.var / "ledger.db"

    @property
    def stage_error(self) -> Path:
        """What the stage that failed last said, for those who cannot see what it printed."""
        return self.var / "stage_error"

    @property
    def champion(self) -> Path:
        """Number of the version that answers while the ledger does not."""
        return self.var / "champion"

    def version(self, number: int) -> Path:
        """Folder of the local copy of a registered version."""
        return self.var / "versions" / str(number)

    def is_held(self) -> bool:
        """Whether a run is at work here, on whichever machine that locks the workspace's files for all."""
        with suppress(FileNotFoundError), (self.var / LOCK).open() as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    @contextmanager
    def hold(self, what: str = LOCK) -> Iterator[None]:
        """Hold the workspace for one run, or for one ``watch``; the kernel lets go when the process ends, however.

        Raises:
            BusyError: another process holds it.
        """
        self.var.mkdir(exist_ok=True)
        with (self.var / what).open("a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                holder = handle.read().strip() or "unknown"
                raise BusyError(
                    f"process {holder} is at work in {self.root}; wait until it ends, then try again"
                ) from None
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
            yield
