"""Texts to vectors."""

from pathlib import Path

import numpy
import pyarrow
import torch
from tokenizers import Tokenizer

from staytuned.errors import MissingError
from staytuned.modelling.embeddings import embeddings
from staytuned.modelling.examples import Examples, list_array
from staytuned.modelling.heads import backbone, mean_of_tokens


class Embedder:
    """A base model out of its folder, with weights of its own: the mean of its last hidden states, of length 1.

    Of an encoder-decoder it is the encoder.
    """

    def __init__(self, folder: Path, max_tokens: int) -> None:
        self.tokenizer = tokenizer_of(folder)
        self.tokenizer.enable_truncation(max_tokens)
        model = backbone("AutoModel", folder, 0.0, pretrained=True).eval()
        self.encoder = model.get_encoder() if model.config.is_encoder_decoder else model

    def examples(self, texts: list[str]) -> Examples:
        """Texts as token ids."""
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts)]
        names = pyarrow.array([str(place) for place in range(len(texts))], pyarrow.string())
        return Examples(pyarrow.table({"row": names, "input_ids": list_array(ids)}))

    def __call__(self, texts: list[str]) -> numpy.ndarray:
        """Vectors of texts, shape (texts, hidden)."""
        return embeddings(self.encoder, self.examples(texts))

    @torch.inference_mode()
    def alone(self, text: str) -> numpy.ndarray:
        """The vector of one text, whatever other texts there are, shape (hidden,)."""
        ids = torch.tensor([self.tokenizer.encode(text).ids])
        mask = torch.ones_like(ids)
        states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        unit: numpy.ndarray = torch.nn.functional.normalize(mean_of_tokens(states, mask), dim=1)[0].numpy()
        return unit


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
