"""Classification of pairs of texts: does one follow from the other, do they match."""

from staytuned.tasks import Task
from staytuned.tasks.text_classification import LabelOptions, TextClassification


class SentencePairs(TextClassification):
    """Both texts of a pair through the encoder at once, so that each word of one sees each of the other.

    The cross-encoder of Devlin et al. 2019, BERT, section 4.1. What is too long loses tokens of its longer text first.
    """

    Options = LabelOptions
    columns = ("text", "text_pair", "label")
    can_be_part = False
    labels = Task.labels
    start = {
        "task": {"labels": ["entailment", "neutral", "contradiction"]},
        "ingest": {"columns": {"text_pair": "text_pair"}},
        "train": {"epochs": 3, "sharpness": 0.0},
        "gate": {"margins": {"calibration_error": 0.1}},
    }
