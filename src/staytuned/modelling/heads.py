"""Models out of transformers, and the heads that are put on encoders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
import transformers
from safetensors import SafetensorError

from staytuned.errors import MissingError
from staytuned.modelling.dropout import Dropout
from staytuned.modelling.products import Linear
from staytuned.modelling.unpadded import UnpaddedModel, last_states


def backbone(kind: str, folder: Path, dropout: float, pretrained: bool) -> Any:
    """A model of transformers out of its folder.

    Args:
        kind: One of its classes, such as ``AutoModel`` or ``AutoModelForCausalLM``.
        folder: With config.json and, where ``pretrained``, weights as safetensors.
        dropout: Wherever the model has dropout.
        pretrained: With its weights, in float32; else with random ones, to be loaded over.

    Raises:
        MissingError: transformers cannot load it.
    """
    maker = getattr(transformers, kind)
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:  # of an architecture that transformers does not know, say
        raise _unusable(folder, error) from error
    for name in list(config.to_dict()):
        if name.endswith(("dropout", "dropout_prob", "dropout_rate", "pdrop")):
            setattr(config, name, dropout)
    if not pretrained:
        return maker.from_config(config)
    own = {"config": config, "local_files_only": True, "use_safetensors": True, "dtype": torch.float32}
    try:
        model = maker.from_pretrained(folder, **own)
    except (OSError, ValueError, SafetensorError) as error:
        raise _unusable(folder, error) from error
    if model.can_generate():  # by its config alone, as a model that was trained here does
        model.generation_config = transformers.GenerationConfig.from_model_config(config)
    return with_quick_layers(model)


def _unusable(folder: Path, error: Exception) -> MissingError:
    said = str(error).splitlines()[0]
    return MissingError(
        f"the model in {folder} cannot be loaded: {said}; fetch it again, or name another in model.base"
    )


def load_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Load weights into a model with random ones.

    transformers ties the output of a T5 to its embeddings, in those too whose weights differ (T5 1.1, Flan-T5), which
    it notices where it loads a checkpoint itself; here they part again.
    """
    model.load_state_dict(weights)
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        if not torch.equal(parameter, weights[name]):
            owner, _, own_name = name.rpartition(".")
            setattr(model.get_submodule(owner), own_name, torch.nn.Parameter(weights[name].clone()))


def with_quick_layers(model: Any) -> Any:
    """The model, its layers of dropout and its linear ones exchanged for staytuned's."""
    quick: dict[type, type] = {torch.nn.Dropout: Dropout, torch.nn.Linear: Linear}
    for layer in model.modules():
        layer.__class__ = quick.get(type(layer), type(layer))
    return model


class TokenHead(UnpaddedModel):
    """An encoder and a linear head on every token."""

    def __init__(self, encoder: Any, width: int, dropout: float) -> None:
        super().__init__()
        self.encoder = without_pooler(encoder)
        self.dropout = Dropout(dropout)
        self.head = fresh_linear(encoder.config.hidden_size, width)

    def forward(self, attention_mask: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        """Logits, shape (rows, tokens, width), of the encoder's inputs, each of shape (rows, tokens)."""
        return self.top(self.read(last_states(self.encoder, attention_mask, **inputs), attention_mask))

    def read(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What the head reads of the last hidden states, shape (rows, tokens, hidden)."""
        return states

    def top(self, read: torch.Tensor) -> torch.Tensor:
        """Logits of what the head reads."""
        logits: torch.Tensor = self.head(self.dropout(read))
        return logits


class PooledHead(TokenHead):
    """A linear head on the mean of the encoder's last hidden states over the tokens of a text: logits (rows, width).

    The mean is what sentence encoders were trained to put their meaning into (Reimers & Gurevych 2019, section 3).
    """

    def read(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The mean, shape (rows, hidden)."""
        return mean_of_tokens(states, mask)


class SpanHead(TokenHead):
    """An encoder with start and end logits on every token; those that no span may touch get the lowest number."""

    def __init__(self, encoder: Any, dropout: float) -> None:
        super().__init__(encoder, 2, dropout)

    def forward(  # type: ignore[override]
        self, attention_mask: torch.Tensor, allowed: torch.Tensor, **inputs: torch.Tensor
    ) -> torch.Tensor:
        """Logits, shape (windows, tokens, 2); ``allowed`` is true where a span may start or end."""
        return self.top(last_states(self.encoder, attention_mask, **inputs), allowed)

    def top(self, read: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Logits of what the head reads."""
        logits = super().top(read)
        return logits.masked_fill(~allowed.unsqueeze(-1), torch.finfo(logits.dtype).min)


class EntityHead(UnpaddedModel):
    """An encoder of a text in which two entities are marked, and a linear head on the states at their opening markers.

    "Entity markers – entity start" of Baldini Soares et al. 2019, Matching the Blanks, section 3. The vectors of the
    four markers, which no vocabulary has, are weights of the head: the encoder stays as large as it was.
    """

    def __init__(self, encoder: Any, width: int, dropout: float) -> None:
        super().__init__()
        self.encoder = without_pooler(encoder)
        self.dropout = Dropout(dropout)
        words = encoder.get_input_embeddings()
        markers = torch.nn.Embedding(4, words.embedding_dim)
        torch.nn.init.normal_(markers.weight, std=float(words.weight.detach().std()))
        linear = fresh_linear(2 * encoder.config.hidden_size, width)
        self.head = torch.nn.ModuleDict({"markers": markers, "linear": linear})

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, markers: torch.Tensor) -> torch.Tensor:
        """Logits, shape (rows, width), of token ids and their mask, both of shape (rows, tokens).

        ``markers``, shape (rows, 4), says where the markers of the first and of the second entity stand, each opening
        and closing; what the token ids hold there does not matter.
        """
        rows = torch.arange(len(markers), device=markers.device).unsqueeze(1)
        words = self.encoder.get_input_embeddings()(input_ids)
        vectors = self.head["markers"](torch.arange(4, device=markers.device).expand_as(markers))
        marked = words.index_put((rows, markers), vectors)
        states = last_states(self.encoder, attention_mask, inputs_embeds=marked)
        entities = states[rows, markers[:, [0, 2]]].flatten(1)
        logits: torch.Tensor = self.head["linear"](self.dropout(entities))
        return logits


class BiEncoder(UnpaddedModel):
    """One encoder for two texts, each the mean of its last hidden states, of length 1; there is no head to train."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = without_pooler(encoder)

    def forward(
        self, query_ids: torch.Tensor, query_mask: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """Embeddings of queries and passages, shape (rows, 2, hidden), of token ids and masks, each (rows, tokens)."""
        found = []
        for ids, mask in ((query_ids, query_mask), (input_ids, attention_mask)):
            states = last_states(self.encoder, mask, input_ids=ids)
            found.append(torch.nn.functional.normalize(mean_of_tokens(states, mask), dim=1))
        return torch.stack(found, dim=1)


def without_pooler(encoder: Any) -> Any:
    """The encoder without the layer on its first token, which no head here uses."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    return encoder


def fresh_linear(inputs: int, outputs: int) -> torch.nn.Linear:
    """A linear layer that starts near nothing."""
    layer = torch.nn.Linear(inputs, outputs)
    torch.nn.init.normal_(layer.weight, std=0.02)
    torch.nn.init.zeros_(layer.bias)
    return layer


def mean_of_tokens(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the tokens that are not padding, shape (rows, hidden), of states of shape (rows, tokens, hidden)."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


def padded(rows: Sequence[Sequence[int] | numpy.ndarray], filler: int = 0) -> torch.Tensor:
    """Lists of numbers as one tensor, shape (rows, longest row), filled up on the right."""
    numbers = numpy.full((len(rows), max(map(len, rows))), filler, numpy.int64)
    for place, row in enumerate(rows):
        numbers[place, : len(row)] = row
    return torch.from_numpy(numbers)


def mask_of(rows: Sequence[Sequence[int] | numpy.ndarray]) -> torch.Tensor:
    """1 where ``padded`` holds a number of a row, 0 where it is filled up; of the same shape."""
    lengths = numpy.fromiter(map(len, rows), numpy.int64, len(rows))
    return torch.from_numpy((numpy.arange(lengths.max()) < lengths[:, None]).astype(numpy.int64))
