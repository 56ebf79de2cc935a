"""What a base model can do before fine-tuning: its frozen embeddings, and a logistic regression on them."""

import hashlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.compute
import torch
from sklearn.linear_model import LogisticRegression

from staytuned.modelling.examples import Examples
from staytuned.modelling.heads import backbone, mask_of, mean_of_tokens, padded
from staytuned.models import fingerprint
from staytuned.pieces import made_by, read_piece, write_piece
from staytuned.progress import track

NAME = 16  # bytes of a text's hash


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
    known, asked = kept_embeddings(base, [train, test], pieces)
    regression = LogisticRegression(max_iter=1000).fit(known, labels)
    found = numpy.zeros((len(test), classes))
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

    Each text goes through the model alone: beside others its last digits would depend on what was kept already. That
    takes a third more time, once.

    Args:
        base: Folder of the base model.
        parts: Its token ids.
        pieces: Folder in which embeddings are kept; None: they are not.
    """
    rows = [[ids.astype("<i4") for ids in part.lists("input_ids", range(len(part)))] for part in parts]
    names = [[hashlib.blake2b(ids.tobytes(), digest_size=NAME).digest() for ids in part] for part in rows]
    texts = dict(zip(chain(*names), chain(*rows), strict=True))
    key = f"{fingerprint(base)} {torch.get_num_threads()} {made_by('modelling')}"
    vectors = _kept(pieces, key, list(texts)) if pieces else {}
    missing = {name: ids for name, ids in texts.items() if name not in vectors}
    if missing:
        encoder = encoder_of(base)
        new = {name: _alone(encoder, ids) for name, ids in track(missing.items(), len(missing), "embedding")}
        if pieces:
            stacked = numpy.stack([*new.values()])
            columns = {
                "name": pyarrow.array([*new], pyarrow.binary(NAME)),
                "vector": pyarrow.FixedSizeListArray.from_arrays(stacked.ravel(), stacked.shape[1]),
            }
            write_piece(
                pieces / f"{hashlib.blake2b(b''.join(new)).hexdigest()[:32]}.arrow", key, pyarrow.table(columns)
            )
        vectors |= new
    return [numpy.stack([vectors[name] for name in part]) for part in names]


def _kept(pieces: Path, key: str, names: list[bytes]) -> dict[bytes, numpy.ndarray]:
    """The embeddings that are kept of some texts. Pieces of another model, and torn ones, go."""
    found = dict[bytes, numpy.ndarray]()
    wanted = pyarrow.array(names, pyarrow.binary(NAME))
    for piece in sorted(pieces.glob("*")):
        table = read_piece(piece, key)
        if table is None:
            piece.unlink()
            continue
        table = table.filter(pyarrow.compute.is_in(table["name"], wanted)).combine_chunks()
        vectors = table["vector"].combine_chunks().flatten().to_numpy()
        found |= zip(table["name"].to_pylist(), vectors.reshape(len(table), -1), strict=True) if len(table) else {}
    return found


def encoder_of(base: Path) -> Any:
    """A base model without a head; of an encoder-decoder, its encoder."""
    model = backbone("AutoModel", base, 0.0, pretrained=True).eval()
    return model.get_encoder() if model.config.is_encoder_decoder else model


@torch.inference_mode()
def _alone(encoder: torch.nn.Module, ids: numpy.ndarray) -> numpy.ndarray:
    row = torch.from_numpy(ids).long()[None]
    mask = torch.ones_like(row)
    states = encoder(input_ids=row, attention_mask=mask).last_hidden_state
    unit: numpy.ndarray = torch.nn.functional.normalize(mean_of_tokens(states, mask), dim=1)[0].numpy()
    return unit
