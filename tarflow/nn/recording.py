"""Steps of packed transformers, recorded once and run without Python in between."""

import logging
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, List, Optional, Union, no_type_check  # noqa: UP035
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)
jit: Any = torch.jit  # it exports little of what it documents

Run = Callable[..., tuple[Tensor, ...]]
"""A function of tensors."""

RECORDINGS: OrderedDict[Hashable, Any] = OrderedDict()
"""What was recorded last in this process, by what it is of, without weights.

It is kept for networks to come: one that is trained is another after each step.
"""
USED: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()
"""The same with weights, as long as a network uses it: some that are packed cannot be left out."""
FAILED: set[Hashable] = set()
"""What could not be recorded."""
MOST = 16
"""Recordings that a network keeps."""
MOST_KINDS = 64
"""Recordings that this process keeps."""
LOCK = threading.Lock()


class Recorder:
    """Records functions in which a network's modules compute, and keeps what was recorded.

    What is recorded are a function's operators, for inputs of any content: it must choose nothing
    by that. TorchScript's interpreter runs them; torch has nothing else yet that starts in a tenth
    of a second and takes packed weights. Networks of one kind share what was recorded, each with
    its own weights.

    Args:
        network: The network.
        kind: Hashable; networks of one kind compute the same from their weights.
    """

    def __init__(self, network: nn.Module, kind: Hashable):
        self.weights = weights_of(network)
        kinds = (each.dtype if isinstance(each, Tensor) else type(each) for each in self.weights)
        self.kind = kind, *kinds
        self.kept: dict[Hashable, Run | None] = {}

    def recorded(self, name: Hashable, run: Run, inputs: Sequence[Tensor]) -> Run | None:
        """A function of tensors, recorded on inputs if it is not yet; None if that failed.

        Equal names must stand for equal operators, in a network of this kind.
        """
        with LOCK:
            if name not in self.kept:
                if len(self.kept) >= MOST:
                    self.kept.clear()
                self.kept[name] = self._recorded((self.kind, name), run, inputs)
            return self.kept[name]

    def _recorded(self, key: Hashable, run: Run, inputs: Sequence[Tensor]) -> Run | None:
        """What was recorded, with this network's weights."""
        if key in FAILED:
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it is deprecated, and that sizes are fixed
                known = RECORDINGS.get(key, USED.get(key))
                if known is None:
                    function = Function(run, self.weights)
                    known = jit.trace(function, tuple(inputs), check_trace=False)
                own = with_weights(known, self.weights)
        except (RuntimeError, AttributeError) as error:
            FAILED.add(key)
            log.warning("single steps run as they are written: they were not recorded, %s", error)
            return None
        USED[key] = own
        if all(isinstance(weight, Tensor) for weight in self.weights):
            RECORDINGS[key] = with_weights(own, [torch.empty(0)] * len(self.weights))
            RECORDINGS.move_to_end(key)
            if len(RECORDINGS) > MOST_KINDS:
                RECORDINGS.popitem(last=False)

        def call(*tensors: Tensor) -> tuple[Tensor, ...]:
            with jit.optimized_execution(False):  # there is nothing to profile and fuse
                return own.forward(*tensors)

        return call


def with_weights(recorded: Any, weights: Sequence[Any]) -> Any:
    """What was recorded, with other weights; it does not keep the function that it is of."""
    own = jit.RecursiveScriptModule.__copy__(recorded)
    for index, weight in enumerate(weights):
        setattr(own, f"weight_{index}", weight)
    return own


class Function(nn.Module):
    """A function as a module with a network's weights, as which recording knows them."""

    def __init__(self, run: Run, weights: Sequence[Any]):
        super().__init__()
        self.run = run
        for index, weight in enumerate(weights):
            name = f"weight_{index}"
            if isinstance(weight, Tensor):
                self.register_buffer(name, weight)
            else:
                setattr(self, name, weight)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Call the function."""
        return self.run(*inputs)


def weights_of(network: nn.Module) -> list[Any]:
    """The tensors, and packed weights of other types, that a network's modules hold, in order."""
    found: dict[int, Any] = {}
    for module in network.modules():
        for mapping in (vars(module), module._parameters, module._buffers):
            for value in mapping.values():
                if isinstance(value, Tensor | torch.ScriptObject):
                    found.setdefault(id(value), value)
    return [*found.values()]


def is_tracing() -> bool:
    """Whether something is being recorded, in this thread."""
    return jit.is_tracing()


scripted: Any = getattr(jit, "script_if_tracing", no_type_check)
"""Lets TorchScript read a function itself, which knows old annotations alone."""


@scripted
@no_type_check
def up_to(store: Tensor, end: Tensor) -> Tensor:
    """The first positions of cached keys or values, a view."""
    return store.narrow(2, 0, int(end))


@scripted
@no_type_check
def packed_product(x: Tensor, packed: Tensor, bias: Optional[Tensor], after: str) -> Tensor:  # noqa: UP045
    """A packed product and what follows it, where it is recorded."""
    numbers = torch.jit.annotate(List[Optional[Union[int, float, complex]]], [])  # noqa: UP006, UP007, UP045
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, after, numbers, "none")
