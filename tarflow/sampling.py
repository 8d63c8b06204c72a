"""Drawing many samples, batch by batch."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tarflow.context import NULL_CLASS
from tarflow.errors import ConfigurationError, ContextError
from tarflow.flow import Flow
from tarflow.guidance import Guidance
from tarflow.randomness import ExampleSeeds


def read_labels(
    choice: str | int | Sequence[int], num_samples: int, num_classes: int
) -> Int[Tensor, " num_samples"] | None:
    """Turn a choice of classes into a label per sample.

    Args:
        choice: `all` goes round the classes, `none` (or -1) leaves the label out; one class, or
            several to go round.
        num_samples: Number of samples.
        num_classes: Number of classes of the flow; one without classes takes `all` and `none`.

    Raises:
        ContextError: The choice is none of these, or the flow does not know a class.
    """
    if isinstance(choice, str) and choice not in ("all", "none"):
        raise ContextError(f"label={choice} is unknown: give all, none, a class or a list of them")
    if choice in ("none", NULL_CLASS) or (choice == "all" and not num_classes):
        return None
    classes = list(range(num_classes)) if isinstance(choice, str) else choice
    classes = torch.as_tensor([classes] if isinstance(classes, int) else list(classes))
    if not len(classes) or not 0 <= int(classes.min()) <= int(classes.max()) < num_classes:
        known = f"0 ... {num_classes - 1}" if num_classes else "no classes"
        raise ContextError(f"label={choice}: this flow knows {known}")
    return classes[torch.arange(num_samples) % len(classes)]


def sample_batches(
    flow: Flow,
    num_samples: int,
    label: Int[Tensor, " num_samples"] | None,
    seed: int,
    batch_size: int,
    guidance: Guidance | None = None,
) -> Iterator[tuple[Float[Tensor, "batch ..."], Int[Tensor, " batch"] | None]]:
    """Draw samples in batches; sample n of a seed is the same whatever the batch size.

    Args:
        flow: What to sample from.
        num_samples: Number of samples.
        label: A label for each, or None.
        seed: Seed of the run.
        batch_size: Number of samples drawn at a time.
        guidance: Moves every prediction away from that of a null context.

    Yields:
        A batch of samples and its labels.

    Raises:
        ConfigurationError: There is nothing to draw, or a batch is empty.
    """
    if num_samples < 1 or batch_size < 1:
        raise ConfigurationError(
            f"num_samples {num_samples} and batch_size {batch_size} must be at least 1"
        )
    for first in range(0, num_samples, batch_size):
        indices = range(first, min(first + batch_size, num_samples))
        part = None if label is None else label[first : indices.stop]
        source = ExampleSeeds(seed, indices)
        yield flow.sample(len(indices), part, guidance=guidance, source=source), part
