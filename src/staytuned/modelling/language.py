"""Models that predict tokens: the loss of each target token, and greedy generation."""

from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy
import torch
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig

from staytuned.modelling.examples import NOTHING, batches_by_length
from staytuned.modelling.heads import backbone, mask_of, padded

# Places of the labelled tokens in the batch that this thread is at; none where a model says what comes next.
_labelled: ContextVar[torch.Tensor | None] = ContextVar("labelled", default=None)


def _picked(_: torch.nn.Module, states: tuple[torch.Tensor]) -> torch.Tensor:
    """The states that the output layer reads."""
    places = _labelled.get()
    return states[0] if places is None else states[0].flatten(0, 1).index_select(0, places)


class TokenLoss(torch.nn.Module):
    """A model with a language-modelling head, which says how badly each target token was predicted.

    Logits are the size of the vocabulary for every token, so they stay in here, and are made of labelled tokens alone:
    of a summary's prompt there are none, of a masked text one in seven.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = model
        model.get_output_embeddings().register_forward_pre_hook(_picked)

    def forward(self, labels: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood in nats of each label, shape (rows, labels); 0 where it is ``NOTHING``.

        ``labels``, of the same shape, stand where they are predicted: in a decoder the label of a token is the next.
        """
        if self.encoder.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = self.encoder.prepare_decoder_input_ids_from_labels(labels)
        wanted = labels.flatten()
        places = (wanted != NOTHING).nonzero().squeeze(1)
        before = _labelled.set(places)
        try:
            logits = self.encoder(**inputs).logits
        finally:
            _labelled.reset(before)
        losses = cross_entropy(logits, wanted[places], reduction="none")
        return losses.new_zeros(wanted.shape).index_copy(0, places, losses).view(labels.shape)


def base_model(kind: str, folder: Path) -> TokenLoss:
    """A base model as it is, not fine-tuned."""
    return TokenLoss(backbone(kind, folder, 0.0, pretrained=True)).eval()


@torch.inference_mode()
def generate(model: Any, prompts: Sequence[numpy.ndarray], end: int | None, most: int) -> list[list[int]]:
    """The likeliest next token, again and again, up to ``most`` or to ``end``, which is left out.

    Args:
        model: Of transformers, on any device.
        prompts: Token ids; of an encoder-decoder, what its encoder reads.
        end: The token that ends an answer; None: the one that the model's config names.
        most: Tokens of an answer.
    """
    device, config = next(model.parameters()).device, model.config
    is_decoder = not config.is_encoder_decoder
    ends = config.eos_token_id if end is None else end
    options = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=most,
        eos_token_id=ends,
        pad_token_id=0,
        decoder_start_token_id=None if is_decoder else config.decoder_start_token_id,
    )
    found: dict[int, list[int]] = {}
    for places in batches_by_length([len(prompt) + most for prompt in prompts]):
        rows = [prompts[place][::-1] for place in places]  # a decoder is padded on the left: it goes on at the right
        ids, mask = padded(rows).flip(1), mask_of(rows).flip(1)
        if not is_decoder:
            ids, mask = padded([prompts[place] for place in places]), mask.flip(1)
        said = model.generate(input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=options)
        answers = said[:, ids.shape[1] if is_decoder else 1 :].cpu().tolist()
        found.update(zip(places, (_until(answer, ends) for answer in answers), strict=True))
    return [found[place] for place in range(len(prompts))]


def _until(ids: list[int], ends: int | list[int]) -> list[int]:
    stops = {ends} if isinstance(ends, int) else set(ends)
    return ids[: next((place for place, token in enumerate(ids) if token in stops), len(ids))]
