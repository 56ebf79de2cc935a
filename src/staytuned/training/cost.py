"""What a training costs, in tokens that pass through the model."""

from staytuned.data.sides import TRAIN
from staytuned.errors import DataError
from staytuned.modelling.examples import Examples
from staytuned.params import Params
from staytuned.sections import Train
from staytuned.training.continual import champion_to_start_from, with_replay
from staytuned.workspace import Workspace


def tokens_of(examples: Examples, options: Train) -> int:
    """Tokens of all epochs, twice with sharpness-aware steps; early stopping may save some.

    A frozen encoder reads each text once, or was asked about it before.
    """
    if options.frozen:
        return int(examples.lengths.sum())
    return int(examples.lengths.sum()) * options.epochs * (2 if options.sharpness else 1)


def expected_tokens(workspace: Workspace, params: Params) -> int:
    """What a training of the rows as they are encoded now would take."""
    examples, champion = Examples.read(workspace.encoded / f"{TRAIN}.arrow"), champion_to_start_from(workspace)
    if champion:
        try:
            examples = with_replay(examples, champion, params.train.replay, params.train.seed)
        except DataError:  # nothing is new to it
            return 0
    return tokens_of(examples, params.train)
