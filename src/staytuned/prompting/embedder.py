"""Texts to vectors."""

from pathlib import Path

import numpy
import pyarrow
from tokenizers import Tokenizer

from staytuned.errors import MissingError
from staytuned.modelling.embeddings import embeddings, encoder_of
from staytuned.modelling.examples import Examples, list_array


class Embedder:
    """A base model out of its folder, with weights of its own: the mean of its last hidden states, of length 1.

    Of an encoder-decoder it is the encoder.
    """

    def __init__(self, folder: Path, max_tokens: int) -> None:
        self.tokenizer = tokenizer_of(folder)
        self.tokenizer.enable_truncation(max_tokens)
        self.encoder = encoder_of(folder)

    def __call__(self, texts: list[str]) -> numpy.ndarray:
        """Vectors of texts, shape (texts, hidden)."""
        return embeddings(self.encoder, encoded(self.tokenizer, texts))


def encoded(tokenizer: Tokenizer, texts: list[str]) -> Examples:
    """Texts as token ids."""
    ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]
    names = pyarrow.array([str(place) for place in range(len(texts))], pyarrow.string())
    return Examples(pyarrow.table({"row": names, "input_ids": list_array(ids)}))


def tokenizer_of(folder: Path) -> Tokenizer:
    """A base model's own tokenizer, without padding.

    Raises:
        MissingError: it has none.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise MissingError(f"{folder} has no tokenizer.json; name a model with one")
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    return tokenizer
