"""What a run leaves in MLflow: params, the live learning curve, metrics, reports, lineage."""

import csv
import json
import re
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from staytuned.errors import StaytunedError
from staytuned.files import read_json
from staytuned.params import Params
from staytuned.registry.lineage import collect
from staytuned.registry.versions import Registry, answering
from staytuned.workspace import Workspace

NAME = 250  # characters that MLflow has room for
POLL = 0.5  # seconds between looks at the curve


class Tracker:
    """Logs one run. Curves are tailed while stages run; a run whose stages were all cached is still complete."""

    def __init__(self, workspace: Workspace, params: Params, registry: Registry, run_id: str) -> None:
        self.workspace = workspace
        self.client = registry.client
        self.run_id = run_id
        self.params = params
        self._logged = Counter[Path]()  # lines of the learning curve and of the losses

    def start(self) -> None:
        """Log the params, flat, as they stand in params.yaml."""
        from mlflow.entities import Param

        values = json.loads(self.params.model_dump_json(by_alias=True))
        flat = {name_of(name): str(value)[:6000] for name, value in _flat(values)}
        self.client.log_batch(self.run_id, params=[Param(name, value) for name, value in flat.items()])

    @contextmanager
    def following(self) -> Iterator[None]:
        """Log the points of the learning curve, and losses, as they are written, if they are written anew."""
        curve = self.workspace.curve
        before = _identity(curve)
        over = threading.Event()

        def follow() -> None:
            with suppress(StaytunedError), answering():  # `evidence` logs what is missing, or says why it cannot
                while not over.wait(POLL):
                    if _identity(curve) not in (None, before):
                        self._log_curve()

        thread = threading.Thread(target=follow, name="learning curve", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def evidence(self) -> None:
        """Log what the stages reported, and what it takes to build the candidate again.

        Before anything is registered: wherever a road is cut, the run of a registered version has all of this.
        """
        from mlflow.entities import Metric

        self._log_curve()
        report = read_json(self.workspace.evaluation / "evaluation.json")
        now = int(time.time() * 1000)
        metrics = [
            Metric(name_of(f"{model}.{name}"), value, now, 0)
            for model, found in report["models"].items()
            for name, value in found["metrics"].items()
        ]
        self.client.log_batch(self.run_id, metrics)
        for name in ("validation", "split", "encoding"):
            self.client.log_artifact(self.run_id, str(self.workspace.reports / f"{name}.json"), "reports")
        self.client.log_artifacts(self.run_id, str(self.workspace.evaluation), "reports/evaluation")
        with tempfile.TemporaryDirectory() as scratch:
            record = collect(self.workspace, self.params, Path(scratch))
            self.client.log_artifacts(self.run_id, scratch, "lineage")
        self._tag({f"lineage.{key}": value for key, value in record.items()})

    def finish(self, outcome: dict[str, Any]) -> None:
        """Log the decision."""
        self.client.log_artifact(self.run_id, str(self.workspace.reports / "decision.json"), "reports")
        self._tag(outcome)

    def _tag(self, values: dict[str, Any]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(
            self.run_id, tags=[RunTag(f"staytuned.{name}", str(value)) for name, value in values.items()]
        )

    def _log_curve(self) -> None:
        for table in (self.workspace.curve, self.workspace.step_losses):
            if table.exists():  # a workspace's own dvc.yaml may be older than the second
                self._log_lines(table)

    def _log_lines(self, table: Path) -> None:
        from mlflow.entities import Metric

        with table.open(encoding="utf-8", newline="") as handle:
            lines = [line for line in handle if line.endswith("\n")]  # a line may be half written
        rows = list(csv.DictReader(lines))
        now = int(time.time() * 1000)
        points = [
            Metric(name, float(value), now, int(row["step"]))
            for row in rows[self._logged[table] :]
            for name, value in row.items()
            if name != "step"
        ]
        self.client.log_batch(self.run_id, metrics=points)
        self._logged[table] = len(rows)


def name_of(own: str) -> str:
    """A name that MLflow takes; one that holds a label of the user's may have to be written by codes."""
    return re.sub(r"[^\w.\- :]", lambda sign: f"_{ord(sign[0]):x}_", own)[:NAME]


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
