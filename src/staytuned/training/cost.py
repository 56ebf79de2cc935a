"""What a training costs, in tokens that pass through the model."""

from staytuned.files import read_json
from staytuned.params import Params
from staytuned.workspace import Workspace


def expected_tokens(workspace: Workspace, params: Params) -> int:
    """Tokens of the training side times epochs, twice with sharpness-aware steps; early stopping may save some."""
    tokens: int = read_json(workspace.reports / "encoding.json")["sides"]["train"]["tokens"]
    return tokens * params.train.epochs * (2 if params.train.sharpness else 1)
