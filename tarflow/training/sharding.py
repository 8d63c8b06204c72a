"""Weights that are divided between processes (FSDP2)."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from tarflow.registry import register
from tarflow.training.acceleration import networks


@register
class ShardedStrategy(ModelParallelStrategy):
    """Data parallel, with weights, gradients and moments divided between all processes.

    Checkpoints are single files with whole tensors, so that any number of processes reads them.
    """

    def __init__(self, **options: Any):
        super().__init__(save_distributed_checkpoint=False, **options)

    def setup_environment(self) -> None:
        # Left alone, Lightning would divide matrices between the devices of a node.
        self._data_parallel_size, self._tensor_parallel_size = self.world_size, 1
        super().setup_environment()


def shard(model: nn.Module, mesh: DeviceMesh | None, dtype: torch.dtype = torch.float32) -> None:
    """Divide a model's weights between the processes of Lightning's mesh, if there is one.

    Args:
        dtype: What products are computed in: matrices of layers travel in it.
    """
    if mesh is None:
        return
    # One layer's weights are gathered at a time, and the next ones' while it computes. Left alone,
    # torch keeps the model's own whole after a forward pass: after a validation, the averages.
    options: Any = {"mesh": mesh["data_parallel"], "reshard_after_forward": True}
    for network in dict.fromkeys(networks(model)):  # those that transforms share, once
        own = [] if network.modulation is None else [network.modulation]
        for part in (*network.blocks, *own):
            fully_shard(part, mp_policy=_travelling(part, dtype), **options)
    # What does not learn, as a tokenizer, stays whole: it is called apart from the model.
    held = {parameter for parameter in model.parameters() if not parameter.requires_grad}
    fully_shard(model, ignored_params=held, **options)


def _travelling(part: nn.Module, dtype: torch.dtype) -> MixedPrecisionPolicy:
    """Lets a layer's matrices be gathered as autocast would round them, and nothing else.

    Each process keeps its part of them as it is, and gradients are summed in the dtype of that.
    """
    if not hasattr(MixedPrecisionPolicy, "param_dtype_override_fn"):  # before torch 2.15
        return MixedPrecisionPolicy()
    matrices = {id(each.weight) for each in part.modules() if isinstance(each, nn.Linear)}
    return MixedPrecisionPolicy(
        dtype,
        cast_forward_inputs=False,
        param_dtype_override_fn=lambda weight: None if id(weight) in matrices else weight.dtype,
    )


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which each process may hold a part; all have to ask for it."""
    return cast(Tensor, tensor.full_tensor()) if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def divided(value: Tensor, like: Tensor) -> Tensor:
    """A tensor that every process holds whole, divided as another one is."""
    if isinstance(like, DTensor):
        return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
    return value


def fill(tensor: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into one of which this process may hold a part."""
    value = value.to(tensor.device)
    if isinstance(tensor, DTensor):
        value = distribute_tensor(value, tensor.device_mesh, tensor.placements)
    tensor.copy_(value)


@torch.no_grad()
def whole_state(state: Mapping[str, Tensor], leads: bool = True) -> dict[str, Tensor]:
    """A state dict with whole tensors, on the CPU; all processes have to ask for it.

    Args:
        leads: Whether this process is to have it; others get an empty one, since a machine may
            not have the memory for as many as it has devices.
    """
    found = {}
    for name, value in state.items():
        gathered = whole(value)
        if leads:
            found[name] = gathered.to("cpu", copy=True)
    return found
