"""Picks the fastest decoders, and the precision, from measurements on this machine."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tarflow.arguments import check_integer, check_real, shown
from tarflow.errors import ConfigurationError
from tarflow.flows.context import ContextLike
from tarflow.flows.decoding import DecodeOptions, Decoder, PerTransform, Sequential
from tarflow.flows.flow import Flow
from tarflow.flows.guidance import Guidance
from tarflow.flows.jacobi import Jacobi
from tarflow.machine.device import medians
from tarflow.nn.networks import Networks
from tarflow.nn.precisions import PRECISIONS, Precision
from tarflow.randomness import ExampleSeeds
from tarflow.sampling.deviation import deviations
from tarflow.sampling.plan import Conditions, Measurement, Plan, Trial
from tarflow.sampling.race import Race

WINDOWS = (8, 16, 32, 64, 128, 1_000_000)
"""Windows to try; the last is any sequence's whole length."""

MARGIN = 0.95
"""Share of sequential decoding's time that a window must not exceed, since timings scatter.

So it is with a precision, and the time that the exact one takes.
"""


@torch.no_grad()
def calibrate(
    flow: Flow,
    batch_size: int,
    context: ContextLike = None,
    *,
    guidance: Guidance | None = None,
    dtype: torch.dtype | str | None = None,
    tolerance: float = 1e-3,
    windows: Sequence[int] = WINDOWS,
    repetitions: int = 3,
    seed: int = 0,
    deviation: float | None = None,
    precisions: Sequence[torch.dtype | str] | None = None,
    show: Callable[[Measurement], None] = lambda measurement: None,
    tell: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Measure ways to decode each transform, and pick the fastest of each.

    It needs no data: a batch of samples is drawn, transform by transform. A window is taken only
    where it is faster than sequential decoding of the same noise, in interleaved repetitions; and
    the whole plan only if it is faster as a whole.

    Where a deviation is accepted, that is done in every precision, and the plan is the fastest of
    the ways whose samples deviate by no more from exact ones: those decoded one position after the
    other in the precision of the weights, or float32 if that is higher.

    Args:
        flow: The flow, on the device to calibrate for.
        batch_size: Number of samples that will be decoded at a time.
        context: What to condition on, as for sampling.
        guidance: As in `DecodeOptions`.
        dtype: Precision in which transformers compute, as in `Networks`.
        tolerance: That of `Jacobi`.
        windows: Windows to try; those over the length of a transform count as that.
        repetitions: Number of times that each is measured.
        seed: Seed of the noise.
        deviation: The largest that is accepted: the root mean square over all numbers of 16
            samples or more, in units of the data. By default the precision is not chosen.
        precisions: Those to choose from besides the exact one; by default all that the device has
            instructions for.
        show: Called with the measurements of a transform, one by one, when it is done.
        tell: Called with what is measured next, in words.

    Raises:
        ConfigurationError: There is nothing to measure, or to choose from.
    """
    check_integer("batch_size", batch_size, least=1)
    check_integer("repetitions", repetitions, least=1)
    candidates = _read_windows(windows, tolerance)
    chooses = deviation is not None or precisions is not None
    names = _read_precisions(flow, dtype, deviation, precisions) if chooses else [dtype]
    z = flow.base.sample(batch_size, ExampleSeeds(seed, range(batch_size)))
    read = flow.sampling_context(context, z)
    measurements, ways = [], []
    for name in names:
        options = DecodeOptions(guidance, networks=Networks(name))
        told = (candidates, repetitions, tell, str(name) if chooses else "")
        results, decoders = _measure(Race(read, options, *told), flow, z, show)
        measurements += results
        ways += [(str(name), replace(options, decoder=each)) for each in decoders]
    tell("whole samples")
    options = [each for _, each in ways]
    functions = {n: partial(flow.attempt, z, read, options=o) for n, o in enumerate(options)}
    seconds = medians(functions, z.device, repetitions)
    off = deviations(flow, options, read, batch_size, seed) if chooses else [0.0] * len(ways)
    trials = [Trial(n, o.decoder, seconds[i], off[i]) for i, (n, o) in enumerate(ways)]
    best = choose(trials, torch.inf if deviation is None else deviation)
    conditions = Conditions.of(flow, batch_size, options[trials.index(best)], tolerance)
    plan = Plan(conditions, best.decoder, best.seconds, trials[0].seconds, tuple(measurements))
    if deviation is None:
        return plan
    return replace(plan, accepted=float(deviation), trials=tuple(trials))


def _measure(
    race: Race, flow: Flow, z: Tensor, show: Callable[[Measurement], None]
) -> tuple[list[Measurement], list[PerTransform]]:
    """Measure every transform; whole samples are decoded sequentially, and by the fastest."""
    flow.decode(z, race.context, options=race.options)  # checks, warms up
    measurements, decoders = [], []
    for results in race.transforms(flow.transform, z):
        decoders.append(fastest(results))
        for result in results:
            measurements.append(result)
            show(result)
    both = ((Sequential(),) * len(decoders), tuple(decoders))
    return measurements, [*map(PerTransform, dict.fromkeys(both))]


def _read_windows(windows: Any, tolerance: float) -> list[Jacobi]:
    """The decoders of a list of windows."""
    if not isinstance(windows, Iterable):
        raise ConfigurationError(f"windows {shown(windows)} are not a list of integers")
    Jacobi(1, tolerance)  # checks the tolerance where no window does
    name = f"windows {shown(windows)}:"
    return [Jacobi(check_integer(name, window, least=1), tolerance) for window in windows]


def fastest(results: Sequence[Measurement]) -> Decoder:
    """The way that took least time: sequential, the first one, unless another is clearly faster.

    A window also has to have kept its tolerance.
    """
    sequential, *windows = results
    kept = [m for m in windows if m.residual <= m.decoder.tolerance]
    best = min(kept, key=lambda m: m.seconds, default=sequential)
    return best.decoder if best.seconds <= MARGIN * sequential.seconds else sequential.decoder


def _read_precisions(
    flow: Flow,
    dtype: torch.dtype | str | None,
    deviation: Any,
    precisions: Any,
) -> list[str]:
    """The names of precisions to choose from, that of exact samples first."""
    if dtype is not None:
        raise ConfigurationError(
            f"dtype {dtype} tells the precision that a deviation leaves to be chosen: give one"
        )
    if deviation is None:
        raise ConfigurationError("precisions are chosen from within a deviation: give it too")
    if not 0 < check_real("deviation", deviation) < torch.inf:
        raise ConfigurationError(
            f"deviation {deviation} must be positive and finite: leave it out for exact samples"
        )
    anchor = flow.base.anchor
    exact = Precision.of(torch.promote_types(anchor.dtype, torch.float32))
    if precisions is None:
        suited = [each for each in PRECISIONS.values() if each.suits(anchor.device)]
    elif isinstance(precisions, str) or not isinstance(precisions, Iterable):
        raise ConfigurationError(f"precisions {shown(precisions)} are not a list of names")
    else:
        suited = [*map(Precision.of, precisions)]
    return list(dict.fromkeys(map(str, [exact, *(p for p in suited if p.eps > exact.eps)])))


def choose(trials: Sequence[Trial], deviation: float) -> Trial:
    """The fastest way whose samples deviate by no more than that.

    The first way is exact. One in a lower precision also has to be clearly faster than all in that
    of the first.
    """
    kept = [trial for trial in trials if trial is trials[0] or trial.deviation <= deviation]
    exact = min(
        (trial for trial in kept if trial.precision == trials[0].precision),
        key=lambda trial: trial.seconds,
    )
    best = min(kept, key=lambda trial: trial.seconds)
    return best if best.seconds <= MARGIN * exact.seconds else exact
