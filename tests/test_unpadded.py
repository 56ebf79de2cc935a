"""Batches without padding: each model that takes them says what it says of a padded batch."""

from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from staytuned.modelling.dropout import Dropout, kept
from staytuned.modelling.unpadded import AFTER_PADDING, FROM_ZERO, Rows, first_position, last_states

SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 50,
    "initializer_range": 0.3,
}
SHARED_HEADS = {"num_key_value_heads": 2, "head_dim": 8}
OF_TYPE: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 50},
    "llama": SHAPE | SHARED_HEADS,
    "qwen2": SHAPE | {"num_key_value_heads": 2},
    "qwen3": SHAPE | SHARED_HEADS,
}
LENGTHS = [3, 19, 30, 1, 29]


def model_of(kind: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **OF_TYPE.get(kind, SHAPE) | changes)
    return transformers.AutoModel.from_config(config, attn_implementation="sdpa").eval()


def batch(model: Any) -> dict[str, torch.Tensor]:
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS).unsqueeze(1)).long()
    ids = torch.randint(5, 50, mask.shape, generator=torch.Generator().manual_seed(0))
    return {"input_ids": torch.where(mask > 0, ids, model.config.pad_token_id or 0), "attention_mask": mask}


@pytest.mark.parametrize("kind", [*FROM_ZERO, *AFTER_PADDING])
def test_a_model_says_and_learns_without_padding_what_it_does_with_it(kind: str) -> None:
    model = model_of(kind)
    inputs = batch(model)
    real = inputs["attention_mask"].unsqueeze(2)
    found = []
    for states in (last_states(model, **inputs), model(**inputs).last_hidden_state):
        model.zero_grad()
        (states**2 * real).sum().backward()
        found.append((states * real, [weight.grad for weight in model.parameters() if weight.grad is not None]))
    (ours, our_slopes), (theirs, their_slopes) = found
    assert first_position(model.config) is not None
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert len(our_slopes) == len(their_slopes) > 10
    for one, other in zip(our_slopes, their_slopes, strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=1e-4)


def test_a_model_that_is_not_listed_or_attends_in_another_way_takes_padded_batches() -> None:
    other, eager = model_of("albert"), model_of("bert")
    eager.config._attn_implementation = "eager"
    for model in (other, eager):
        inputs = batch(model)
        assert first_position(model.config) is None
        assert torch.equal(last_states(model, **inputs), model(**inputs).last_hidden_state)


def test_the_attention_of_a_model_is_as_it_was_afterwards() -> None:
    model = model_of("bert")
    last_states(model, **batch(model))
    assert model.config._attn_implementation == "sdpa"


def test_dropout_on_attention_has_the_gradient_of_what_it_let_pass() -> None:
    """Along any direction the gradient says how the outputs change, with the same draws."""
    model = model_of("bert", attention_probs_dropout_prob=0.4, hidden_dropout_prob=0.0).double().train()
    inputs = batch(model)
    weight = model.encoder.layer[0].attention.self.query.weight
    step = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=weight.dtype) * 1e-6

    def total() -> torch.Tensor:
        torch.manual_seed(3)
        return (last_states(model, **inputs) ** 3).sum()

    total().backward()
    with torch.no_grad():
        weight += step
        above = float(total())
        weight -= 2 * step
        below = float(total())
    assert above - below == pytest.approx(2 * float((weight.grad * step).sum()), rel=1e-4)


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9))
@settings(deadline=None)
def test_packed_and_padded_again_a_batch_is_what_it_was(lengths: list[int]) -> None:
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).long()
    values = torch.randn(*mask.shape, 3) * mask.unsqueeze(2)
    rows = Rows(mask, heads=2)
    packed = rows.packed(values)
    assert packed.shape == (1, sum(lengths), 3)
    assert torch.equal(rows.padded(packed), values)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(share: float) -> None:
    torch.manual_seed(0)
    values = kept(torch.Size((300, 1001)), share)
    assert float((values == 0).float().mean()) == pytest.approx(share, abs=0.003)
    assert float(values.mean()) == pytest.approx(1, abs=0.005)
    assert values.unique().tolist() == [0, pytest.approx(1 / (1 - share), rel=1e-4)]


def test_dropout_is_drawn_from_the_seed_and_only_in_training() -> None:
    layer, values, drawn = Dropout(0.3), torch.ones(50, 7), []
    for _ in range(2):
        torch.manual_seed(5)
        drawn.append(layer(values))
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0], layer(values))
    assert torch.equal(layer.eval()(values), values)
