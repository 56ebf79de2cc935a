"""Low-rank adapters: what learns, what is kept still, and weights without adapters that say the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_base
from tiny_generators import make_decoder, make_encoder_decoder
from transformers import GPT2Config, GPT2LMHeadModel

from staytuned.modelling.heads import PooledHead, backbone
from staytuned.modelling.language import TokenLoss
from staytuned.modelling.lora import merged, with_lora

KINDS = ["AutoModel", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "gpt2"]
IDS = torch.tensor([[5, 6, 7], [8, 9, 0]])
INPUTS = {"input_ids": IDS, "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}


def made(kind: str, folder: Path) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """A tiny model and its inputs."""
    if kind == "AutoModel":
        return PooledHead(backbone(kind, make_base(folder), 0.0, pretrained=True), 3, 0.0).eval(), INPUTS
    if kind == "gpt2":  # whose layers keep their weights the other way round
        config = GPT2Config(vocab_size=20, n_embd=16, n_layer=2, n_head=2, n_positions=8)
        return TokenLoss(GPT2LMHeadModel(config)).eval(), INPUTS | {"labels": IDS}
    make = make_decoder if kind == "AutoModelForCausalLM" else make_encoder_decoder
    return TokenLoss(backbone(kind, make(folder, "the lamp"), 0.0, pretrained=True)).eval(), INPUTS | {"labels": IDS}


def step(model: Any, inputs: dict[str, torch.Tensor], rate: float = 0.5) -> None:
    """One step downhill of whatever the model says."""
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    for _ in range(2):  # the second matrix of an adapter starts from nothing, so the first moves in the second step
        model.zero_grad()
        model(**inputs).sum().backward()
        with torch.no_grad():
            for weight in learned:
                weight.sub_(rate * weight.grad / (weight.grad.norm() + 1e-6))


@pytest.mark.parametrize("kind", KINDS)
def test_merged_weights_say_the_same_in_a_model_without_adapters(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    model, inputs = made(kind, tmp_path / "base")
    fresh, _ = made(kind, tmp_path / "again")
    names = list(model.state_dict())
    before = model(**inputs)
    with_lora(model, rank=2, alpha=4, dropout=0.0).eval()
    torch.testing.assert_close(model(**inputs), before)  # an adapter starts as nothing
    step(model, inputs)
    learned = model(**inputs)
    assert (learned - before).abs().max() > 0.01
    weights = merged(model)
    assert list(weights) == names
    save_file(weights, tmp_path / "model.safetensors")
    fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    torch.testing.assert_close(fresh(**inputs), learned, rtol=1e-4, atol=1e-5)
    assert model(**inputs).equal(learned)  # the model itself goes on learning
    step(model, inputs)
    assert not model(**inputs).equal(learned)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_and_the_head_learn_and_nothing_else(tmp_path: Path, kind: str) -> None:
    model, inputs = made(kind, tmp_path / "base")
    linear = {
        name
        for name, layer in model.named_modules()
        if type(layer).__name__ in ("Linear", "Conv1D") and not name.startswith("head") and "lm_head" not in name
    }
    with_lora(model, rank=2, alpha=4, dropout=0.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step(model, inputs)
    moved = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    adapters = {f"{name}.lora_{half}.default.weight" for name in linear for half in "AB"}
    head = {"head.weight", "head.bias"} if kind == "AutoModel" else set()
    assert {name for name, weight in model.named_parameters() if weight.requires_grad} == adapters | head
    assert moved == adapters | head
    assert all(weight.grad is None for weight in model.parameters() if not weight.requires_grad)


def test_the_delta_is_the_product_of_the_two_matrices_times_alpha_over_rank(tmp_path: Path) -> None:
    model, inputs = made("AutoModelForCausalLM", tmp_path / "base")
    with_lora(model, rank=2, alpha=6, dropout=0.0)
    step(model, inputs)
    state, name = model.state_dict(), "encoder.model.layers.0.mlp.up_proj"
    delta = 3 * state[f"{name}.lora_B.default.weight"] @ state[f"{name}.lora_A.default.weight"]
    torch.testing.assert_close(merged(model)[f"{name}.weight"], state[f"{name}.base_layer.weight"] + delta)
    assert delta.abs().max() > 0


def test_dropout_is_on_what_adapters_read_while_learning(tmp_path: Path) -> None:
    model, inputs = made("AutoModelForCausalLM", tmp_path / "base")
    with_lora(model, rank=2, alpha=4, dropout=0.5)
    step(model, inputs)
    model.train()
    assert not model(**inputs).equal(model(**inputs))
    model.eval()
    assert model(**inputs).equal(model(**inputs))
