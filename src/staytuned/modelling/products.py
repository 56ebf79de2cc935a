"""Linear layers whose inputs' gradient oneDNN computes.

On a processor that is not Intel's it is a fifth quicker than MKL, which torch takes for it; on one of Intel's, slower.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import linear


class Linear(torch.nn.Linear):
    """A linear layer of torch, with a backward pass of its own on a processor in float32."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The same as torch's."""
        if values.is_cuda or values.dtype != torch.float32 or not torch.is_grad_enabled():
            return super().forward(values)
        said: torch.Tensor = _Product.apply(values, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return said


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Shape (..., outputs), of values of shape (..., inputs)."""
        ctx.save_for_backward(values, weight)
        return linear(values, weight, bias)

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of values, weight and bias, those that are asked for."""
        values, weight = ctx.saved_tensors
        slope = slope.reshape(-1, len(weight))
        needed = ctx.needs_input_grad
        found: list[torch.Tensor | None] = [None, None, None]
        if needed[0]:
            found[0] = torch.ops.mkldnn._linear_pointwise(slope, weight.t(), None, "none", [], "").view_as(values)
        if needed[1]:
            found[1] = slope.t().mm(values.reshape(-1, weight.shape[1]))
        if needed[2]:
            found[2] = slope.sum(0)
        return tuple(found)


@cache
def are_quicker(facts: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether these layers are, on this processor."""
    has_one: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has_one and facts.exists() and "GenuineIntel" not in facts.read_text()
