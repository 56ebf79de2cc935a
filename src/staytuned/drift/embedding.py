"""Texts to vectors by the base model, so that they are the same whichever champion answers."""

from pathlib import Path

import numpy


def embedded(texts: list[str], base: Path, max_tokens: int, pieces: Path) -> numpy.ndarray:
    """The mean of the base model's last hidden states of each text, of length 1, shape (texts, hidden).

    Of an encoder-decoder those of the encoder.

    Args:
        texts: Any.
        base: Folder of the base model.
        max_tokens: What follows in a text is not looked at.
        pieces: Folder in which embeddings are kept.
    """
    from staytuned.modelling.embeddings import kept_embeddings
    from staytuned.prompting.embedder import encoded, tokenizer_of

    tokenizer = tokenizer_of(base)
    tokenizer.enable_truncation(max_tokens)
    (vectors,) = kept_embeddings(base, [encoded(tokenizer, texts)], pieces)
    return vectors
