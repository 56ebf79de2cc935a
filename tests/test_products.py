"""Linear layers with a backward pass of their own: what torch's say, and what they learn."""

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from staytuned.modelling import products
from staytuned.modelling.heads import with_quick_layers
from staytuned.modelling.products import Linear

SIZES = st.integers(1, 40)


def sides(inputs: int, outputs: int, bias: bool = True) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A layer of torch, and the same as one of ours."""
    torch.manual_seed(0)
    theirs = torch.nn.Sequential(torch.nn.Linear(inputs, outputs, bias))
    ours = copy.deepcopy(theirs)
    ours[0].__class__ = Linear
    return ours, theirs


@settings(deadline=None)
@given(st.lists(SIZES, max_size=3), SIZES, SIZES, st.booleans())
def test_a_layer_says_and_learns_what_torchs_does(shape: list[int], inputs: int, outputs: int, bias: bool) -> None:
    found = []
    for layer in sides(inputs, outputs, bias):
        values = torch.randn(*shape, inputs, generator=torch.Generator().manual_seed(1), requires_grad=True)
        said = layer(values)
        (said**2).sum().backward()
        found.append((said, values.grad, *(weight.grad for weight in layer.parameters())))
    assert torch.equal(found[0][0], found[1][0])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frozen", ["weight", "bias", "values"])
def test_what_is_frozen_gets_no_gradient(frozen: str) -> None:
    (layer,) = sides(6, 4)[0]
    values = torch.randn(5, 6, requires_grad=True)
    tensors = {"weight": layer.weight, "bias": layer.bias, "values": values}
    tensors[frozen].requires_grad_(False)
    layer(values).sum().backward()
    assert {name for name, tensor in tensors.items() if tensor.grad is None} == {frozen}


def test_other_numbers_than_float32_are_torchs_matter() -> None:
    ours, theirs = (side.double() for side in sides(6, 4))
    values = torch.randn(5, 6, dtype=torch.float64)
    assert torch.equal(ours(values), theirs(values))


def test_the_same_inputs_give_the_same_bits() -> None:
    (layer,) = sides(96, 64)[0]
    found = []
    for _ in range(2):
        values = torch.randn(333, 96, generator=torch.Generator().manual_seed(1), requires_grad=True)
        layer(values).square().sum().backward()
        found.append(values.grad)
    assert torch.equal(*found)


@pytest.mark.parametrize(("vendor", "quicker"), [("AuthenticAMD", True), ("GenuineIntel", False)])
def test_they_are_taken_where_they_are_quicker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vendor: str, quicker: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
    assert products.are_quicker(tmp_path / "cpuinfo") is quicker
    monkeypatch.setattr(products, "are_quicker", lambda: quicker)
    (layer,) = with_quick_layers(torch.nn.Sequential(torch.nn.Linear(6, 4)))
    assert (type(layer) is Linear) is quicker
