"""Task adaptation layers: one file a task."""

from staytuned.params import Params
from staytuned.tasks.text_classification import TextClassification


def load(params: Params) -> TextClassification:
    """The task that ``task.name`` names."""
    return TextClassification(params)
