"""A model in shares, one for each process, for models that do not fit into the memory of one.

Each process holds a share of all weights, of their gradients and of AdamW's means; a layer is put together only while
it computes (fully sharded data-parallel: Zhao et al. 2023; Rajbhandari et al. 2020, ZeRO, stage 3). What torch calls a
DTensor is such a share here.
"""

from typing import Any

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from staytuned.training import ranks

Tensors = dict[str, torch.Tensor]


def shard(model: torch.nn.Module, device: torch.device) -> None:
    """Leave this process its share of a model that all processes hold, on the device; layers go there one by one."""
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    models = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    names = {name for part in models for name in part._no_split_modules or []}
    layers = [part for part in model.modules() if type(part).__name__ in names]
    for part in [*reversed(layers), model]:  # what is inside another comes first
        whole: Any = fully_shard(part, mesh=mesh)
        whole.set_gradient_divide_factor(1.0)  # the sum: each process weighs its rows as the whole batch does
        whole.set_force_sum_reduction_for_comms(True)  # gloo has no other


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor, in the processor's memory if it is in shares; there the first process alone keeps it.

    Shares travel by way of the processors: no GPU has to hold the whole.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    rows = -(-len(tensor) // distributed.get_world_size())  # of a share; the last ones have fewer, or none
    own = tensor.to_local().cpu()
    share = own.new_zeros(rows, *own.shape[1:])
    share[: len(own)] = own
    shares = [torch.empty_like(share) for _ in range(distributed.get_world_size())] if ranks.is_first() else None
    distributed.gather(share, shares)
    return torch.cat(shares)[: len(tensor)] if shares else share.new_empty(0)


def summed(tensor: torch.Tensor) -> torch.Tensor:
    """A number that was computed from shares, in every process."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def restore_model(model: torch.nn.Module, values: Tensors) -> None:
    """Take up whole weights, each process its share."""
    own = model.state_dict()
    model.load_state_dict({name: _share(value, own[name]) for name, value in values.items()})


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """The same for what an optimizer remembers of weights."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    shares = {
        place: {name: _share(value, weights[place]) for name, value in of_weight.items()}
        for place, of_weight in state["state"].items()
    }
    optimizer.load_state_dict(state | {"state": shares})


def _share(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
