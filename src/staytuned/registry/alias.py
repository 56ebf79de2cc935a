"""Which version an alias of the registry names, asked without importing MLflow: it takes seconds."""

import base64
import http.client
import json
import os
import urllib.error
import urllib.parse
import urllib.request

from staytuned.errors import RegistryError
from staytuned.params import Params
from staytuned.registry.local_store import database, reading
from staytuned.workspace import Workspace

CHAMPION, CHALLENGER = "champion", "challenger"
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")  # seconds; MLflow's own are 120


def alias_now(workspace: Workspace, params: Params, alias: str) -> int | None:
    """The version that an alias names, asked without importing MLflow; None where there is none.

    Raises:
        RegistryError: the registry does not answer.
    """
    model = params.registry.model
    if params.registry.tracking_uri is None:
        if not database(workspace).exists():
            return None
        with reading(workspace) as db:
            query = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?"
            row = db.execute(query, (model, alias)).fetchone()
        return int(row[0]) if row else None
    query = urllib.parse.urlencode({"name": model, "alias": alias})
    url = f"{params.registry.tracking_uri}/api/2.0/mlflow/registered-models/alias?{query}"
    try:
        asked = urllib.request.Request(url)
        for name, value in _authorization().items():
            asked.add_unredirected_header(name, value)
        with urllib.request.urlopen(asked, timeout=float(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"])) as answer:
            return int(json.load(answer)["model_version"]["version"])
    except urllib.error.HTTPError as error:
        if error.code in (400, 404) and b"error_code" in error.read():  # MLflow's own way to say: there is none
            return None
        raise _silent(params, error) from error
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:  # silence, or another server
        raise _silent(params, error) from error


def _authorization() -> dict[str, str]:
    """As MLflow itself takes it from its environment variables."""
    name, password, token = (
        os.environ.get(f"MLFLOW_TRACKING_{what}", "") for what in ("USERNAME", "PASSWORD", "TOKEN")
    )
    if name and password:
        return {"Authorization": f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"}
    return {"Authorization": f"Bearer {token}"} if token else {}


def _silent(params: Params, error: Exception) -> RegistryError:
    return RegistryError(
        f"the registry at {params.registry.tracking_uri} (registry.tracking_uri) does not answer as MLflow does: "
        f"{error!r}; start it, or mend the address; the champion goes on answering, and `staytuned run` goes on from "
        "here"
    )
