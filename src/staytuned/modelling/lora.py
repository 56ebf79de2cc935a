"""Low-rank adapters (Hu et al. 2021, section 4): few weights are learned, and added to the others in the end."""

import importlib.util
from typing import Any

import torch

from staytuned.errors import MissingError

NAME = "default"  # that peft gives to an adapter


def with_lora(model: Any, rank: int, alpha: int, dropout: float) -> Any:
    """Freeze the backbone of a model and put adapters on all its linear layers; the head stays as it is.

    The output layer of a language model has none. The model is changed in place, and says what it said before.

    Args:
        model: With ``encoder``, a model of transformers.
        rank: Of each adapter.
        alpha: Adapters are scaled by ``alpha / rank``.
        dropout: On what an adapter reads.

    Raises:
        MissingError: the package ``peft`` is not installed.
    """
    if not importlib.util.find_spec("peft"):
        raise MissingError(
            "train.lora needs the package peft, of staytuned's extra `generate`; install it, or set null"
        )
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear")
    inject_adapter_in_model(config, model.encoder, NAME)
    return model


@torch.no_grad()
def merged(model: Any) -> dict[str, torch.Tensor]:
    """Weights on the processor of the model without adapters that says the same; the model itself stays as it is."""
    from peft.tuners.lora import Linear

    weights = {name: value for name, value in model.state_dict().items() if ".lora_" not in name}
    for name, layer in model.named_modules():
        if isinstance(layer, Linear):
            weight = weights[f"{name}.base_layer.weight"]
            weights[f"{name}.base_layer.weight"] = weight + layer.get_delta_weight(NAME).to(weight.dtype)
    return {name.replace(".base_layer.", "."): value.detach().cpu().clone() for name, value in weights.items()}
