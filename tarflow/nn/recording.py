"""Steps of packed transformers, recorded once and run without Python in between."""

import logging
import threading
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, List, Optional, Union, no_type_check  # noqa: UP035

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

Run = Callable[..., tuple[Tensor, ...]]
"""A function of tensors."""

RECORDINGS: dict[Hashable, Run | None] = {}
"""What was recorded in this process, by what it is of; None where that failed."""
MOST = 64
"""Recordings that are kept."""
LOCK = threading.Lock()


class Weights:
    """The tensors that a transformer's modules hold, in order, and where they are."""

    def __init__(self, network: nn.Module):
        self.places: dict[int, list[tuple[dict[str, Any], str]]] = {}
        self.tensors: list[Tensor] = []
        for module in network.modules():
            for mapping in (vars(module), module._parameters, module._buffers):
                for name, value in mapping.items():
                    if isinstance(value, Tensor):
                        if id(value) not in self.places:
                            self.tensors.append(value)
                        self.places.setdefault(id(value), []).append((mapping, name))

    @contextmanager
    def replaced(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        """Have other tensors in their places for a while."""
        try:
            self._put(tensors)
            yield
        finally:
            self._put(self.tensors)

    def _put(self, tensors: Sequence[Tensor]) -> None:
        for places, tensor in zip(self.places.values(), tensors, strict=True):
            for mapping, name in places:
                mapping[name] = tensor


def recorded(key: Hashable, run: Run, inputs: Sequence[Tensor]) -> Run | None:
    """A function of tensors, recorded on inputs where that was not done before; None if it failed.

    What is recorded are its operators, for inputs of any content: it must choose nothing by that,
    and equal keys must stand for equal operators. TorchScript's interpreter runs them; torch has
    nothing else yet that starts in a tenth of a second and takes packed weights as inputs.
    """
    with LOCK:
        if key not in RECORDINGS:
            if len(RECORDINGS) >= MOST:
                RECORDINGS.clear()
            RECORDINGS[key] = _record(run, inputs)
        return RECORDINGS[key]


def _record(run: Run, inputs: Sequence[Tensor]) -> Run | None:
    """Record a function."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is deprecated, and that sizes are fixed
            traced: Any = torch.jit.trace(run, tuple(inputs), check_trace=False)
            traced._torchdynamo_inline = None  # would keep the function, and a network with it
    except (RuntimeError, AttributeError) as error:
        log.warning("single steps run as they are written, for they were not recorded: %s", error)
        return None

    def call(*tensors: Tensor) -> tuple[Tensor, ...]:
        with torch.jit.optimized_execution(False):  # there is nothing to profile and fuse
            return traced(*tensors)

    return call


# TorchScript reads these functions itself: of the language it knows a part, and these annotations.


@torch.jit.script_if_tracing
@no_type_check
def up_to(store: Tensor, end: Tensor) -> Tensor:
    """The first positions of cached keys or values, a view."""
    return store.narrow(2, 0, int(end))


@torch.jit.script_if_tracing
@no_type_check
def packed_product(x: Tensor, packed: Tensor, bias: Optional[Tensor], after: str) -> Tensor:  # noqa: UP045
    """A packed product and what follows it, where it is recorded."""
    numbers = torch.jit.annotate(List[Optional[Union[int, float, complex]]], [])  # noqa: UP006, UP007, UP045
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, after, numbers, "none")
