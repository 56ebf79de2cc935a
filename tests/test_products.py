"""Linear layers with a backward pass of their own: what torch's say, and what they learn."""

import copy
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from staytuned.modelling import products
from staytuned.modelling.heads import with_quick_layers
from staytuned.modelling.products import Gathered, Linear

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
def test_onednn_is_taken_where_it_is_quicker(tmp_path: Path, vendor: str, quicker: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
    assert products.are_quicker(tmp_path / "cpuinfo") is quicker


@pytest.fixture(params=[True, False], ids=["oneDNN", "MKL"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """On a processor of either make: whether oneDNN is quicker."""
    quicker: bool = request.param
    monkeypatch.setattr(products, "are_quicker", lambda: quicker)
    return quicker


def test_a_whole_batch_takes_the_backward_pass_that_is_quicker(either: bool) -> None:
    (layer,) = with_quick_layers(torch.nn.Sequential(torch.nn.Linear(6, 4)))
    said = layer(torch.randn(3, 6))
    assert ("_Product" in said.grad_fn.name()) is either


class Net(torch.nn.Module):
    """Two layers, of which a part of a batch may pass the first one any number of times."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = Linear(6, 6), Linear(6, 3, bias=False)

    def forward(self, values: torch.Tensor, times: int) -> torch.Tensor:
        for _ in range(times):
            values = self.first(values).tanh()
        return (self.second(values) ** 2).sum()


def alone(times: tuple[int, ...]) -> dict[str, torch.Tensor | None]:
    """The gradients of parts that pass the first layer so often, one part after the other."""
    net = Net()
    for number, often in enumerate(times):
        net(values_of(number), often).backward()
    return {name: weight.grad for name, weight in net.named_parameters()}


def values_of(number: int) -> torch.Tensor:
    return torch.randn(5 + number, 6, generator=torch.Generator().manual_seed(number))


def together(times: tuple[int, ...], net: Net | None = None, slow: int | None = None) -> dict[str, torch.Tensor | None]:
    """The same at the same time, one of them slower than the others."""
    net, gathered = net or Net(), Gathered(len(times))
    learning = [weight for weight in net.parameters() if weight.requires_grad]

    def learn(number: int) -> tuple[torch.Tensor | None, ...]:
        with gathered.part(number):
            loss = net(values_of(number), times[number])
            if number == slow:
                time.sleep(0.05)
            return torch.autograd.grad(loss, learning, allow_unused=True)

    with ThreadPoolExecutor(len(times)) as pool:
        for slopes in list(pool.map(learn, range(len(times)))):  # what was not gathered, once all are through
            for weight, slope in zip(learning, slopes, strict=True):
                if slope is not None:
                    weight.grad = slope if weight.grad is None else weight.grad + slope
    return {name: weight.grad for name, weight in net.named_parameters()}


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("times", [(1,), (1, 1), (1, 1, 1), (0, 1), (1, 0), (2, 2), (1, 2), (2, 1), (0, 0)])
@pytest.mark.parametrize("slow", [None, 0, 1])
def test_parts_together_learn_what_they_learn_alone(times: tuple[int, ...], slow: int | None) -> None:
    expected, found = alone(times), together(times, slow=slow)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6)


def test_the_bits_do_not_depend_on_which_part_is_ahead() -> None:
    found = [together((1, 1, 1), slow=slow) for slow in (None, 0, 1, 2)]
    for other in found[1:]:
        assert all(torch.equal(gradient, other[name]) for name, gradient in found[0].items())


def test_what_stands_in_the_gradient_already_is_added_to() -> None:
    net = Net()
    for _ in range(2):
        found = together((1, 1), net)
    for name, gradient in together((1, 1)).items():
        torch.testing.assert_close(found[name], 2 * gradient)


def test_frozen_weights_of_a_part_get_no_gradient() -> None:
    net = Net()
    net.first.requires_grad_(False)
    net.first.bias.requires_grad_(True)
    assert {name for name, gradient in together((1, 1), net).items() if gradient is None} == {"first.weight"}


def test_a_part_that_fails_is_not_waited_for() -> None:
    net, gathered = Net(), Gathered(2)

    def learn(number: int) -> None:
        with gathered.part(number):
            if number:
                raise MemoryError
            torch.autograd.grad(net(values_of(0), 1), list(net.parameters()), allow_unused=True)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(learn, 0), pool.submit(learn, 1)
        first.result(10)
        with pytest.raises(MemoryError):
            second.result(10)
