"""Texts to vectors."""

from pathlib import Path

import numpy
import pyarrow
from tokenizers import Tokenizer

from staytuned.errors import MissingError
from staytuned.modelling.embeddings import embeddings
from staytuned.modelling.examples import Examples, list_array
from staytuned.modelling.heads import backbone


class Embedder:
    """An encoder out of its folder, with weights of its own: the mean of its last hidden states, of length 1."""

    def __init__(self, folder: Path, max_tokens: int) -> None:
        self.tokenizer = tokenizer_of(folder)
        self.tokenizer.enable_truncation(max_tokens)
        self.encoder = backbone("AutoModel", folder, 0.0, pretrained=True).eval()

    def examples(self, texts: list[str]) -> Examples:
        """Texts as token ids."""
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts)]
        names = pyarrow.array([str(place) for place in range(len(texts))], pyarrow.string())
        return Examples(pyarrow.table({"row": names, "input_ids": list_array(ids)}))

    def __call__(self, texts: list[str]) -> numpy.ndarray:
        """Vectors of texts, shape (texts, hidden)."""
        return embeddings(self.encoder, self.examples(texts))


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
