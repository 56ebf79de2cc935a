"""The model registry on MLflow: runs, versions, aliases. SQLite in the workspace, or any MLflow server."""

import importlib
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from staytuned.errors import RegistryError, StaytunedError
from staytuned.files import read_json, replacing_folder
from staytuned.params import Params
from staytuned.registry.alias import CHAMPION, alias_now
from staytuned.registry.local_store import database, failed, make, settle, wait_for_locks
from staytuned.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from pandas import DataFrame

KEY = "staytuned.key"  # tag on runs and versions: the decision that they belong to
WEIGHTS = "staytuned.weights"
HEAD = "staytuned.ledger"  # tag on versions: number and seal of the ledger's last entry
HOLDER = "staytuned.workspace"  # tag on runs: whose they are, where several workspaces share a registry
CARD = 5000  # characters of a description that MLflow has room for, where its store looks at lengths
EXACT = (
    *("mlflow", "torch", "transformers", "tokenizers", "safetensors"),
    *("numpy", "pandas", "pyarrow", "pydantic", "ruamel.yaml"),
)

os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")


def holder_of(workspace: Workspace) -> str:
    """Who is at work: one workspace on one machine, where only one run at a time is."""
    return f"{socket.gethostname()}:{workspace.root}"


def tracking_uri(workspace: Workspace, params: Params) -> str:
    """Where MLflow keeps its records."""
    return params.registry.tracking_uri or f"sqlite:///{database(workspace)}"


@contextmanager
def answering() -> Iterator[None]:
    """Turn MLflow's errors into ours: for a decorator, or a block."""
    import mlflow
    import requests
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (mlflow.MlflowException, requests.RequestException, SQLAlchemyError) as error:
        raise failed(mlflow.get_tracking_uri(), error) from error


class Registry:
    """MLflow under the workspace's params; every failure to reach it is a RegistryError."""

    def __init__(self, workspace: Workspace, params: Params) -> None:
        if params.registry.tracking_uri:
            alias_now(workspace, params, CHAMPION)  # an answer within seconds, where MLflow would try for minutes
        else:
            settle(workspace)
            wait_for_locks()
        import mlflow

        logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # what it logs as an error, it raises too
        self.workspace = workspace
        self.params = params
        self.model = params.registry.model
        self.mlflow = mlflow
        uri = tracking_uri(workspace, params)
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        self.client, self.experiment = self._open(local=params.registry.tracking_uri is None)

    @answering()
    def _open(self, local: bool) -> tuple["MlflowClient", str]:
        """The client, and the id of the experiment, which is made if it is not there."""
        if local:
            make(self.workspace)
        client = self.mlflow.MlflowClient()
        found = client.get_experiment_by_name(self.model)
        if found:
            return client, str(found.experiment_id)
        place = (self.workspace.var / "mlflow-artifacts").as_uri() if local else None
        return client, str(client.create_experiment(self.model, artifact_location=place))

    @contextmanager
    def run(self) -> Iterator[str]:
        """A new MLflow run, finished or failed as the block ends."""
        with answering():
            tags = {HOLDER: holder_of(self.workspace)}
            run_id = str(self.client.create_run(self.experiment, run_name="retrain", tags=tags).info.run_id)
            try:
                yield run_id
            except BaseException:
                with suppress(StaytunedError), answering():  # what ended the block is what must be told
                    self.client.set_terminated(run_id, "FAILED")
                raise
            self.client.set_terminated(run_id, "FINISHED")

    @answering()
    def end_what_was_cut_off(self) -> None:
        """Mark runs of this workspace as killed that nobody ended; in a registry of its own all are."""
        own = self.params.registry.tracking_uri is None
        for left in self.client.search_runs([self.experiment], "attributes.status = 'RUNNING'"):
            if own or left.data.tags.get(HOLDER) == holder_of(self.workspace):
                self.client.set_terminated(left.info.run_id, "KILLED")

    @answering()
    def version_of(self, key: str) -> int | None:
        """The version that was registered for a decision, so that a cut road does not register twice."""
        found = self.client.search_model_versions(f"name = '{self.model}' and tags.`{KEY}` = '{key}'")
        return max((int(version.version) for version in found), default=None)

    @answering()
    def versions(self) -> dict[int, dict[str, str]]:
        """The tags of each version that there is."""
        found = self.client.search_model_versions(f"name = '{self.model}'")
        return {int(version.version): dict(version.tags) for version in found}

    @answering()
    def tag(self, version: int, name: str, value: str) -> None:
        """Set a version's tag."""
        self.client.set_model_version_tag(self.model, str(version), name, value)

    @answering()
    def register(
        self, run_id: str, key: str, weights: str, inputs: "DataFrame", outputs: "DataFrame", card: str
    ) -> int:
        """Log the candidate as a model from code and register it; returns the version.

        Args:
            run_id: Run that it is logged to.
            key: Decision that it belongs to.
            weights: Their SHA-256.
            inputs: A few rows.
            outputs: What the candidate predicts for them.
            card: Its description, Markdown.
        """
        from mlflow.entities import LoggedModelOutput, Metric
        from mlflow.models import Model, infer_signature
        from mlflow.types import ColSpec, Schema

        told = self.client.get_run(run_id).data
        tags = {WEIGHTS: weights}
        model = self.client.create_logged_model(self.experiment, "model", run_id, tags, told.params).model_id
        histories = (self.client.get_metric_history(run_id, name) for name in told.metrics)
        measured = [Metric(m.key, m.value, m.timestamp, 0, model) for found in histories for m in found if m.step == 0]
        self.client.log_batch(run_id, measured)  # the report's metrics, on the model's page too
        signature = infer_signature(inputs, outputs, params={"output": "predictions"})
        label = ColSpec("string", "label", required=False)  # some models say how well they expect it
        signature.inputs = Schema([*signature.inputs.inputs, label])
        # not by log_model: that loads the model once more, here, which its reload in a fresh process proves better
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            self.mlflow.pyfunc.save_model(
                folder,
                mlflow_model=Model(run_id=run_id, model_id=model, model_uuid=model, metadata={KEY: key}),
                python_model=str(Path(__file__).with_name("pyfunc_model.py")),
                code_paths=_own_code(self.workspace, Path(scratch)),
                artifacts={"model": str(self.workspace.candidate)},
                signature=signature,
                input_example=inputs,
                pip_requirements=[f"{name}=={_installed(name)}" for name in EXACT],
            )
            try:
                self.client.log_model_artifacts(model, str(folder))
            except Exception:
                self._forget(model)
                raise
        self.client.finalize_logged_model(model, "READY")
        self.client.log_outputs(run_id, [LoggedModelOutput(model, step=0)])
        if not self.client.search_registered_models(f"name = '{self.model}'"):
            self.client.create_registered_model(self.model)
        return self._new_version(model, run_id, {KEY: key, WEIGHTS: weights}, card)

    def _forget(self, model: str) -> None:
        """Remove what was written of a model before it failed: each further try would leave as much again."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with suppress(Exception):  # what failed is what must be told
            get_artifact_repository(self.client.get_logged_model(model).artifact_location).delete_artifacts()
            self.client.finalize_logged_model(model, "FAILED")

    @answering()
    def register_again(self, key: str | None, weights: str) -> int | None:
        """Register a model anew whose version was deleted; None where nothing of it is left."""
        found = self.client.search_logged_models([self.experiment], f"tags.`{WEIGHTS}` = '{weights}'")
        if not found or not self.client.search_registered_models(f"name = '{self.model}'"):
            return None
        tags = {WEIGHTS: weights} | ({KEY: key} if key else {})
        return self._new_version(found[0].model_id, found[0].source_run_id, tags, "Its former version was deleted.")

    def _new_version(self, model: str, run_id: str, tags: dict[str, str], card: str) -> int:
        version = self.client.create_model_version(
            self.model, f"models:/{model}", run_id=run_id, tags=tags, description=card[:CARD], model_id=model
        )
        return int(version.version)

    @answering()
    def fetch(self, version: int, folder: Path) -> Path:
        """Download a registered version into ``folder``; returns where it lies."""
        uri = f"models:/{self.model}/{version}"
        return Path(self.mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))

    @answering()
    def lineage(self, version: int, folder: Path) -> tuple[Path, dict[str, float]]:
        """What the run of a version says about how to build it again, fetched into ``folder``; and its metrics."""
        run_id = self.client.get_model_version(self.model, str(version)).run_id
        place = self.mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="lineage", dst_path=str(folder))
        return Path(place), dict(self.client.get_run(run_id).data.metrics)

    def model_folder(self, version: int) -> Path:
        """A local copy of a version's model folder, fetched when it is not there yet.

        Raises:
            RegistryError: the registry does not answer, or somebody else registered that version.
        """
        kept = self.workspace.version(version)
        if not kept.exists():
            with replacing_folder(kept) as folder:
                scratch = folder / ".fetched"
                scratch.mkdir()
                about = next(self.fetch(version, scratch).rglob("staytuned.json"), None)
                if about is None:
                    raise RegistryError(f"version {version} of {self.model!r} holds no model of staytuned's")
                for path in about.parent.iterdir():
                    path.rename(folder / path.name)
                shutil.rmtree(scratch)
        return kept

    @answering()
    def set_alias(self, alias: str, version: int) -> None:
        """Let ``alias`` name ``version``."""
        self.client.set_registered_model_alias(self.model, alias, version)

    @answering()
    def take_alias(self, alias: str, version: int) -> None:
        """Let ``alias`` no longer name ``version``, if it does."""
        if alias in self.client.get_model_version(self.model, str(version)).aliases:
            self.client.delete_registered_model_alias(self.model, alias)

    @answering()
    def delete_alias(self, alias: str) -> None:
        """Let ``alias`` name nothing."""
        self.client.delete_registered_model_alias(self.model, alias)


def _own_code(workspace: Workspace, folder: Path) -> list[str]:
    """The source of this package, and of the candidate's task where it is another's: what the model is run by."""
    package = Path(__file__).parents[1]
    copied = folder / package.name
    shutil.copytree(package, copied, ignore=shutil.ignore_patterns("__pycache__", "template"))
    name = read_json(workspace.candidate / "staytuned.json")["class"].split(":")[0].split(".")[0]
    if name == package.name:
        return [str(copied)]
    source = Path(str(importlib.import_module(name).__file__))
    return [str(copied), str(source.parent if source.name == "__init__.py" else source)]


def _installed(name: str) -> str:
    from importlib.metadata import version

    return version(name).split("+")[0]
