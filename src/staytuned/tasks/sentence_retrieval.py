"""Sentence retrieval: embeddings by which a text finds the passage that belongs to it among all others."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import pandas
import pyarrow

from staytuned.modelling.examples import Examples, list_array
from staytuned.sections import TaskOptions
from staytuned.tasks import Batch, Metric, Side, Task

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

SCALE = 20.0  # on cosines, which alone are too close to each other for a softmax
TOP = 10
QUERIES = 1000  # compared with all passages at a time


class SentenceRetrieval(Task):
    """One encoder for queries (``text``) and passages (``text_pair``); a prediction is the embeddings of both.

    A passage is judged among all passages of the rows that are judged with it: their number makes the metrics easy or
    hard. Where several queries have one passage, map ``ingest.columns.group``, so that it stands on one side alone.
    """

    Options = TaskOptions
    columns = ("text", "text_pair")
    labelled = False
    divisible = False
    metrics = (
        Metric("mrr", "mean reciprocal rank"),
        Metric("recall_at_1", "recall at 1"),
        Metric("recall_at_10", "recall at 10"),
    )
    before = "frozen embeddings"
    start = {
        "task": {},
        "ingest": {"columns": {"text_pair": "text_pair", "label": None}},
        "train": {"learning_rate": 5.0e-5, "batch_size": 64, "sharpness": 0.0},
        "gate": {"bounds": {"mrr": 0.3}},
    }

    def faults(self, frame: pandas.DataFrame) -> list[str | None]:
        """None: a pair needs no more than its two texts."""
        return [None] * len(frame)

    def encode(self, tokenizer: "Tokenizer", frame: pandas.DataFrame) -> pyarrow.Table:
        """Token ids of the passage, which is the longer one as a rule, and ``query_ids``."""
        queries, passages = (tokenizer.encode_batch_fast(frame[name].tolist()) for name in ("text", "text_pair"))
        cut = [bool(query.overflowing or passage.overflowing) for query, passage in zip(queries, passages, strict=True)]
        columns = {
            "place": numpy.arange(len(cut)),
            "input_ids": list_array([passage.ids for passage in passages]),
            "truncated": numpy.array(cut, bool),
            "query_ids": list_array([query.ids for query in queries]),
        }
        return pyarrow.table(columns)

    def batch(self, examples: Examples, places: list[int], random: numpy.random.Generator | None) -> Batch:
        """Token ids of both and their masks; for each row, the first row of the batch with the same passage."""
        import torch

        from staytuned.modelling.heads import mask_of, padded

        queries, passages = examples.lists("query_ids", places), examples.lists("input_ids", places)
        first: dict[bytes, int] = {}
        own = [first.setdefault(passage.tobytes(), place) for place, passage in enumerate(passages)]
        inputs = {"query_ids": padded(queries), "query_mask": mask_of(queries)}
        inputs |= {"input_ids": padded(passages), "attention_mask": mask_of(passages)}
        return Batch(inputs, torch.tensor(own))

    def model(self, backbone: Any, dropout: float) -> "torch.nn.Module":
        """The encoder alone."""
        from staytuned.modelling.heads import BiEncoder

        return BiEncoder(backbone)

    def loss(self, outputs: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
        """Cross-entropy of each query's own passage among those of the batch, each of which counts once.

        Multiple negatives ranking (Henderson et al. 2017, Efficient Natural Language Response Suggestion, section
        4.4), on scaled cosines.
        """
        import torch
        from torch.nn.functional import cross_entropy

        queries, passages = outputs.unbind(dim=1)
        repeated = targets != torch.arange(len(targets), device=targets.device)
        scores = SCALE * queries @ passages.T
        return cross_entropy(scores.masked_fill(repeated, -torch.inf), targets)

    def decode(self, frame: pandas.DataFrame, examples: Examples, outputs: list[numpy.ndarray]) -> list[Any]:
        """The embeddings of query and passage, shape (2, hidden), each of length 1."""
        return outputs

    def table(self, predictions: list[Any]) -> dict[str, list[Any]]:
        """The cosine of both."""
        return {"similarity": [float(query @ passage) for query, passage in predictions]}

    def say(self, prediction: Any) -> str:
        """The cosine of both."""
        return f"similarity\t{prediction[0] @ prediction[1]:.3f}"

    def predict_before(self, base: Path, train: Side, test: Side) -> list[Any]:
        """By the base model as it is."""
        from staytuned.modelling.heads import backbone

        encoder = self.model(backbone(self.kind, base, 0.0, pretrained=True), 0.0).eval()
        return self.decode(test.frame, test.examples, self.outputs_of(encoder, test.examples))

    def statistics(self, frame: pandas.DataFrame, predictions: list[Any]) -> numpy.ndarray:
        """Reciprocal rank, whether the rank is 1, whether it is at most 10; 1."""
        rank = ranks(numpy.stack(predictions), frame["text_pair"])
        return numpy.stack([1 / rank, rank == 1, rank <= TOP, numpy.ones(len(rank))], axis=1)

    def measure(self, sums: numpy.ndarray) -> dict[str, numpy.ndarray]:
        """Means over the rows."""
        return {metric.name: sums[..., i] / sums[..., -1] for i, metric in enumerate(self.metrics)}


def ranks(embeddings: numpy.ndarray, passages: pandas.Series) -> numpy.ndarray:
    """The rank of each row's passage by its cosine with the query, among the different passages; shape (rows,).

    Args:
        embeddings: Of query and passage, shape (rows, 2, hidden).
        passages: Their texts; one that stands in several rows is one candidate.

    Of equal cosines the row's own comes last: a model that says the same of all passages has found none.
    """
    _, first, own = numpy.unique(passages.to_numpy(object), return_index=True, return_inverse=True)
    queries, candidates = embeddings[:, 0], embeddings[first, 1]
    found = []
    for start in range(0, len(queries), QUERIES):
        scores = queries[start : start + QUERIES] @ candidates.T
        mine = scores[numpy.arange(len(scores)), own[start : start + QUERIES]]
        found.append((scores >= mine[:, None]).sum(axis=1))
    return numpy.concatenate(found)
