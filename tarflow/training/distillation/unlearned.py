"""Modules beside what learns: a teacher, networks of given weights, averages of weights."""

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


class Unlearned(nn.Module):
    """Holds a module that moves with this one, but is neither learned nor saved with it.

    It stays in the mode that it is in.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self._held = (module,)  # in a tuple, where torch does not look for modules

    @property
    def module(self) -> Any:
        """The module."""
        return self._held[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Unlearned":
        """Move what is held as well: all of torch's ways to move or cast a module end here."""
        self.module._apply(fn)
        return super()._apply(fn, recurse)


def frozen(module: Module) -> Module:
    """The module in eval mode without gradients of its weights: a copy, unless it is so already.

    The caller's own stays as it is.
    """
    if not module.training and not any(each.requires_grad for each in module.parameters()):
        return module
    return copy.deepcopy(module).eval().requires_grad_(False)


def constant(module: Module) -> Module:
    """A copy, in eval mode, whose weights are buffers: saved, but not among the parameters."""
    copied = copy.deepcopy(module).eval()
    for part in copied.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, parameter.detach().clone())
    return copied


@torch.no_grad()
def average(held: nn.Module, module: nn.Module, rate: float) -> None:
    """Move the weights of a `constant` copy of a module towards the module's, by a share."""
    buffers = dict(held.named_buffers())
    for name, parameter in module.named_parameters():
        buffers[name].lerp_(parameter, rate)
