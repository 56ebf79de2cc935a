"""A trained classifier out of its folder. Stands alone: the registered model carries this very file."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel

BATCH_TOKENS = 4096  # texts of like length are scored together, up to this many tokens


class PooledClassifier(torch.nn.Module):
    """An encoder, the mean of its last hidden states over the tokens of a text, and a linear head.

    The mean is what sentence encoders were trained to put their meaning into (Reimers & Gurevych 2019, section 3).
    """

    def __init__(self, encoder: torch.nn.Module, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # type: ignore[assignment]  # of the first token: not used
        self.encoder = encoder
        self.dropout = torch.nn.Dropout(dropout)
        self.head = torch.nn.Linear(encoder.config.hidden_size, classes)  # type: ignore[union-attr, arg-type]
        torch.nn.init.normal_(self.head.weight, std=0.02)
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits, shape (rows, classes), of token ids and their mask, both of shape (rows, tokens)."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        logits: torch.Tensor = self.head(self.dropout(mean_of_tokens(states, attention_mask)))
        return logits


def mean_of_tokens(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the tokens that are not padding, shape (rows, hidden), of states of shape (rows, tokens, hidden)."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


class Classifier:
    """Labels and logits for texts, from a folder with config.json, model.safetensors and tokenizer.json."""

    def __init__(self, folder: Path | str) -> None:
        folder = Path(folder)
        about = json.loads((folder / "staytuned.json").read_text(encoding="utf-8"))
        self.labels: list[str] = about["labels"]
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(about["max_tokens"])
        encoder = AutoModel.from_config(AutoConfig.from_pretrained(folder, local_files_only=True))
        self.model = PooledClassifier(encoder, len(self.labels)).eval()
        self.model.load_state_dict(load_file(folder / "model.safetensors"))

    @torch.inference_mode()
    def logits(self, texts: list[str]) -> numpy.ndarray:
        """Logits of each text, shape (texts, labels), float32."""
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        found = numpy.zeros((len(ids), len(self.labels)), numpy.float32)
        for places in batches_by_length([len(row) for row in ids], BATCH_TOKENS):
            inputs, mask = padded([ids[place] for place in places])
            found[places] = self.model(input_ids=inputs, attention_mask=mask).numpy()
        return found

    def predict(self, texts: list[str]) -> tuple[list[str], numpy.ndarray]:
        """The likeliest label of each text, and the probabilities of all, shape (texts, labels)."""
        probabilities = torch.from_numpy(self.logits(texts)).double().softmax(dim=1).numpy()
        return [self.labels[best] for best in probabilities.argmax(axis=1)], probabilities


def padded(rows: Sequence[Sequence[int] | numpy.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, shape (rows, longest row); padding is id 0, masked out."""
    inputs = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    mask = torch.zeros_like(inputs)
    for place, row in enumerate(rows):
        inputs[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = 1
    return inputs, mask


def batches_by_length(lengths: list[int], tokens: int) -> list[list[int]]:
    """Places of rows, longest first, in batches whose padded size is at most ``tokens`` (or one row)."""
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= tokens:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches
