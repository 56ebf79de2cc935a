"""Classification of pairs of texts: does one follow from the other, do they match."""

from typing import Annotated

from pydantic import Field, field_validator

from staytuned.sections import Name, TaskOptions, distinct
from staytuned.tasks import Task
from staytuned.tasks.text_classification import TextClassification


class Options(TaskOptions):
    """Labels in their order."""

    labels: Annotated[list[Name], Field(min_length=2)]

    @field_validator("labels")
    @classmethod
    def _once(cls, value: list[str]) -> list[str]:
        return distinct(value)


class SentencePairs(TextClassification):
    """Both texts of a pair through the encoder at once, so that each word of one sees each of the other.

    The cross-encoder of Devlin et al. 2019, BERT, section 4.1. What is too long loses tokens of its longer text first.
    """

    Options = Options
    columns = ("text", "text_pair", "label")
    can_be_part = False
    labels = Task.labels
    start = {
        "task": {"labels": ["entailment", "neutral", "contradiction"]},
        "ingest": {"columns": {"text_pair": "text_pair"}},
        "train": {"epochs": 3},
    }
