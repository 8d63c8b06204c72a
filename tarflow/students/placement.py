"""Noise and states of a flow in the shape of its images, whatever its patches and orders."""

from collections.abc import Iterable, Iterator

from torch import Tensor

from tarflow.flows.context import ContextLike
from tarflow.flows.flow import Flow
from tarflow.flows.shapes import Examples, Sequences
from tarflow.flows.transforms import Composition, Rearrangement, Transform


def placed(flow: Flow, z: Sequences) -> Examples:
    """Noise of a flow as noise of variance 1 in the shape of the flow's images.

    Every number stands where it would if the flow only moved numbers. No network computes.
    """
    return _restored(_parts(flow.transform), flow.base.standardized(z))


def unplaced(flow: Flow, image: Examples) -> Sequences:
    """The noise of a flow that `placed` makes an image of."""
    for transform in _parts(flow.transform):
        if isinstance(transform, Rearrangement):
            image = transform.arrange(image)
    return flow.base.scaled(image)


def placed_states(flow: Flow, x: Examples, context: ContextLike = None) -> list[Examples]:
    """The states of a flow after each of its autoregressive transforms, as images.

    The last one is the noise, as `placed` gives it.
    """
    states, before, state = [], [], x
    read = flow.read_context(context, x)
    for transform in _parts(flow.transform):
        state, _ = transform(state, read)
        before.append(transform)
        if transform.num_decoded:
            states.append(_restored(before, state))
    return [*states[:-1], placed(flow, state)]


def _parts(transform: Transform) -> Iterator[Transform]:
    """The transforms that a composition is made of, also of others."""
    if isinstance(transform, Composition):
        for each in transform:
            yield from _parts(each)
    else:
        yield transform


def _restored(transforms: Iterable[Transform], state: Tensor) -> Tensor:
    """Undo the rearrangements among some transforms."""
    for transform in reversed(list(transforms)):
        if isinstance(transform, Rearrangement):
            state = transform.restore(state)
    return state
