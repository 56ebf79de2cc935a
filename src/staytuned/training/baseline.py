"""What the base model can do before fine-tuning: its frozen embeddings under a logistic regression."""

from pathlib import Path

import numpy
import torch
from sklearn.linear_model import LogisticRegression
from transformers import AutoModel

from staytuned.classifier import mean_of_tokens, padded
from staytuned.progress import track
from staytuned.training.rows import Rows


def baseline_logits(base: Path, train: Rows, test: Rows) -> numpy.ndarray:
    """Logits on ``test`` of a logistic regression fitted on the embeddings of ``train``, shape (rows, classes)."""
    encoder = AutoModel.from_pretrained(base, local_files_only=True, use_safetensors=True).eval()
    regression = LogisticRegression(max_iter=1000).fit(embeddings(encoder, train), train.labels)
    decided = regression.decision_function(embeddings(encoder, test))
    if decided.ndim == 1:  # two classes: one column of scores
        decided = numpy.stack([-decided / 2, decided / 2], axis=1)
    logits = numpy.full((len(test), train.classes), -numpy.inf)
    logits[:, regression.classes_] = decided
    numpy.nan_to_num(logits, copy=False, neginf=-1e9)  # a class without rows to train on
    return logits


@torch.inference_mode()
def embeddings(encoder: torch.nn.Module, rows: Rows) -> numpy.ndarray:
    """Mean of the last hidden states of each row, of length 1, shape (rows, hidden)."""
    found: dict[int, numpy.ndarray] = {}
    batches = rows.batches_by_length()
    for places in track(batches, len(batches), "embedding"):
        inputs, mask = padded([rows.ids(place) for place in places])
        states = encoder(input_ids=inputs, attention_mask=mask).last_hidden_state
        unit = torch.nn.functional.normalize(mean_of_tokens(states, mask), dim=1).numpy()
        found.update(zip(places, unit, strict=True))
    return numpy.stack([found[place] for place in range(len(rows))])
