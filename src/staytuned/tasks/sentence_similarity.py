"""Similarity of pairs of texts: how much one means what the other does, as a number."""

from staytuned.tasks.text_regression import TextRegression


class SentenceSimilarity(TextRegression):
    """Both texts of a pair through the encoder at once, and a number for the two.

    Semantic textual similarity (Cer et al. 2017, section 2), by the cross-encoder of Devlin et al. 2019, section 4.1.
    """

    columns = ("text", "text_pair", "label")
    can_be_part = False
    start = {
        "task": {"low": 0.0, "high": 5.0, "levels": None},
        "ingest": {"columns": {"text_pair": "text_pair"}},
        "train": {"epochs": 4, "sharpness": 0.0},
        "gate": {"bounds": {"mae": 1.0, "spearman": 0.4}},
    }
