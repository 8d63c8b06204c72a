"""How long a student takes for a sample, by its number of steps and of samples at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch

from tarflow.arguments import check_integer
from tarflow.flows.context import Context
from tarflow.machine.device import medians
from tarflow.randomness import ExampleSeeds
from tarflow.students.student import Student

USUAL = (1, 2, 4, 8)
"""Numbers of steps that are timed where none is named."""


@dataclass(frozen=True)
class Timing:
    """What a batch of samples took.

    Attributes:
        steps: Number of steps.
        passes: Number of passes of the network.
        batch_size: Number of samples at a time.
        seconds: Median time for the batch.
    """

    steps: int
    passes: int
    batch_size: int
    seconds: float


@torch.no_grad()
def time_samples(
    student: Student,
    batch_sizes: Sequence[int],
    context_of: Callable[[range], Context] = lambda indices: Context(),
    *,
    weight: float = 0.0,
    steps: Sequence[int] = (),
    repetitions: int = 3,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Timing]:
    """Time every number of steps with every batch size, in turns.

    Args:
        student: The student, on the device to time.
        batch_sizes: Numbers of samples drawn at a time.
        context_of: What the samples of some indices are conditioned on.
        weight: Weight of the guidance.
        steps: Numbers of steps; by default 1, 2, 4 and 8, as far as the student takes them.
        repetitions: Number of times that each is timed.
        tell: Called with what is timed next, in words.

    Raises:
        ConfigurationError: The student does not take so many steps, or a number is not positive.
    """
    check_integer("repetitions", repetitions, least=1)
    sizes = [check_integer("batch_size", size, least=1) for size in batch_sizes]
    numbers = [student.read_steps(each) for each in steps]
    numbers = numbers or [each for each in USUAL if each in student.allowed_steps]
    samples = {
        (count, size): partial(
            student.sample,
            size,
            context_of(range(size)),
            weight=weight,
            steps=count,
            source=ExampleSeeds(0, range(size)),
        )
        for count, size in product(sorted(set(numbers)), sorted(set(sizes)))
    }
    for warm_up in samples.values():
        warm_up()

    def say(key: tuple[int, int]) -> None:
        tell(f"{student.passes(key[0])} passes, batches of {key[1]}")

    found = medians(samples, student.base.anchor.device, repetitions, say)
    return [Timing(n, student.passes(n), size, s) for (n, size), s in found.items()]
