"""What a base model can do before fine-tuning: its frozen embeddings, and a logistic regression on them."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy
import torch
from sklearn.linear_model import LogisticRegression

from staytuned.modelling.examples import Examples
from staytuned.modelling.heads import backbone, mask_of, mean_of_tokens, padded
from staytuned.modelling.kept import name_of, said_of_texts
from staytuned.modelling.steady import read_steadily
from staytuned.models import fingerprint
from staytuned.pieces import made_by
from staytuned.progress import track
from staytuned.surroundings import surroundings


def probabilities_before(
    base: Path, train: Examples, labels: numpy.ndarray, test: Examples, classes: int, pieces: Path | None
) -> numpy.ndarray:
    """Probabilities on ``test`` by a logistic regression on the embeddings of ``train``, shape (examples, classes).

    Args:
        base: Folder of the base model.
        train: Examples to fit on.
        labels: Their class numbers.
        test: Examples to judge.
        classes: How many there are; one that ``labels`` lacks gets probability 0.
        pieces: Folder in which embeddings are kept; None: they are not.
    """
    found = numpy.zeros((len(test), classes))
    if len(set(labels.tolist())) == 1:  # a regression takes two
        found[:, labels[0]] = 1
        return found
    known, asked = kept_embeddings(base, [train, test], pieces)
    regression = LogisticRegression(max_iter=1000).fit(known, labels)
    found[:, regression.classes_] = regression.predict_proba(asked)
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


def kept_embeddings(base: Path, parts: Sequence[Examples], pieces: Path | None) -> list[numpy.ndarray]:
    """The same by a base model for each part, made once for each distinct text, shape (examples, hidden).

    No digit of one depends on the others, so none does on what was kept already (``read_steadily``).

    Args:
        base: Folder of the base model.
        parts: Its token ids.
        pieces: Folder in which embeddings are kept; None: they are not.
    """
    rows = [part.lists("input_ids", range(len(part))) for part in parts]
    names = [[name_of(ids) for ids in part] for part in rows]
    texts = dict(zip(chain(*names), chain(*rows), strict=True))
    key = f"{fingerprint(base)} {surroundings()} {made_by('modelling')}"
    vectors = said_of_texts(pieces, key, texts, partial(_ask, base))
    return [numpy.stack([vectors[name] for name in part]) for part in names]


def _ask(base: Path, texts: list[numpy.ndarray]) -> Iterator[numpy.ndarray]:
    def read(states: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(states.mean(dim=1), dim=1)[0]

    return read_steadily(encoder_of(base), [ids[None] for ids in texts], read, "embedding")


def encoder_of(base: Path) -> Any:
    """A base model without a head; of an encoder-decoder, its encoder."""
    model = backbone("AutoModel", base, 0.0, pretrained=True).eval()
    return model.get_encoder() if model.config.is_encoder_decoder else model
