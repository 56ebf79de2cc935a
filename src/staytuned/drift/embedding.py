"""Texts to vectors by the base model, so that they are the same whichever champion answers."""

import hashlib
from pathlib import Path

import numpy

from staytuned.drift.pieces import read_piece, write_piece
from staytuned.models import fingerprint
from staytuned.progress import track


def embedded(texts: list[str], base: Path, max_tokens: int, folder: Path) -> numpy.ndarray:
    """The mean of the base model's last hidden states of each text, of length 1, shape (texts, hidden).

    Of an encoder-decoder those of the encoder. Each text goes through the model alone: beside others its last digits
    would depend on what was at hand already. That takes a third more time, once.

    Args:
        texts: Any.
        base: Folder of the base model.
        max_tokens: What follows in a text is not looked at.
        folder: Of the piece store, which keeps the vectors of these texts for the next call.
    """
    keys = [hashlib.blake2b(text.encode(), digest_size=16).hexdigest() for text in texts]
    model = f"{fingerprint(base)} {max_tokens}"
    file = folder / "embeddings.npz"
    kept = read_piece(file, model)
    vectors = dict(zip(kept["keys"].tolist(), kept["vectors"], strict=True)) if kept else {}
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in vectors}
    if missing:
        vectors |= _made(missing, base, max_tokens)
        now = list(dict.fromkeys(keys))
        write_piece(file, model, {"keys": numpy.array(now), "vectors": numpy.stack([vectors[key] for key in now])})
    return numpy.stack([vectors[key] for key in keys])


def _made(texts: dict[str, str], base: Path, max_tokens: int) -> dict[str, numpy.ndarray]:
    from staytuned.prompting.embedder import Embedder

    embed = Embedder(base, max_tokens)
    return {key: embed.alone(text) for key, text in track(texts.items(), len(texts), "embedding")}
