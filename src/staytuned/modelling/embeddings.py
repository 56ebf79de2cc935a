"""What a base model can do before fine-tuning: its frozen embeddings under a logistic regression."""

from pathlib import Path

import numpy
import torch
from sklearn.linear_model import LogisticRegression

from staytuned.modelling.examples import Examples
from staytuned.modelling.heads import backbone, mask_of, mean_of_tokens, padded
from staytuned.progress import track


def probabilities_before(
    base: Path, train: Examples, labels: numpy.ndarray, test: Examples, classes: int
) -> numpy.ndarray:
    """Probabilities on ``test`` by a logistic regression on the embeddings of ``train``, shape (examples, classes).

    Args:
        base: Folder of the base model.
        train: Examples to fit on.
        labels: Their class numbers.
        test: Examples to judge.
        classes: How many there are; one that ``labels`` lacks gets probability 0.
    """
    encoder = backbone("AutoModel", base, 0.0, pretrained=True).eval()
    regression = LogisticRegression(max_iter=1000).fit(embeddings(encoder, train), labels)
    found = numpy.zeros((len(test), classes))
    found[:, regression.classes_] = regression.predict_proba(embeddings(encoder, test))
    return found


@torch.inference_mode()
def embeddings(encoder: torch.nn.Module, examples: Examples) -> numpy.ndarray:
    """Mean of the last hidden states of each example, of length 1, shape (examples, hidden)."""
    found: dict[int, numpy.ndarray] = {}
    batches = examples.batches_by_length()
    for places in track(batches, len(batches), "embedding"):
        rows = examples.lists("input_ids", places)
        mask = mask_of(rows)
        states = encoder(input_ids=padded(rows), attention_mask=mask).last_hidden_state
        unit = torch.nn.functional.normalize(mean_of_tokens(states, mask), dim=1).numpy()
        found.update(zip(places, unit, strict=True))
    return numpy.stack([found[place] for place in range(len(examples))])
