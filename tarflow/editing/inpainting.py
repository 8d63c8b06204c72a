"""Wholes of a part: what is hidden, drawn given what is observed."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Unpack

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from tarflow.arguments import check_instance, check_integer
from tarflow.editing.markov_chains import Chain, ChainState, Hamiltonian, MarkovKernel, Posterior
from tarflow.errors import ConfigurationError
from tarflow.flows.context import Context, ContextLike
from tarflow.flows.decoding import DecodeKeywords, DecodeOptions
from tarflow.flows.flow import Flow
from tarflow.flows.report import tell_non_finite
from tarflow.randomness import ExampleStreams, RandomSource


@dataclass(frozen=True)
class Inpainting:
    """Completed data, and how the chain that drew it went.

    Attributes:
        samples: States of each chain at even distances after burn-in, with the observed values put
            back exactly. Neighbours are correlated.
        acceptance_rate: Fraction of the proposals after burn-in that were accepted.
        step_size: Step size after burn-in.
        rms_deviation: How far from the observed values the chain was before they were put back:
            the root mean square over them and the steps after burn-in. Far above `noise_std`, the
            chain found nothing that fits: allow for more burn-in.
    """

    samples: Float[Tensor, "batch samples ..."]
    acceptance_rate: Float[Tensor, " batch"]
    step_size: Float[Tensor, " batch"]
    rms_deviation: Float[Tensor, " batch"]

    @property
    def x(self) -> Float[Tensor, "batch ..."]:
        """The last state of each chain, with the observed values put back exactly."""
        return self.samples[:, -1]


@torch.inference_mode(False)
@torch.no_grad()
def inpaint(
    flow: Flow,
    x: Float[Tensor, "batch ..."],
    mask: Shaped[Tensor, "..."],
    context: ContextLike = None,
    *,
    noise_std: float | None = None,
    sampler: MarkovKernel = Hamiltonian(),
    num_samples: int = 1,
    source: RandomSource = None,
    progress: Callable[[range], Iterable[int]] = iter,
    options: DecodeOptions = DecodeOptions(),
    **keywords: Unpack[DecodeKeywords],
) -> Inpainting:
    r"""Draw what is hidden given what is observed: from $p(x) \, N(x_\text{obs}; M x, \sigma^2)$.

    A Metropolis-Hastings chain per example starts from a draw of the flow. Over burn-in, $\sigma$
    shrinks geometrically to its value, and step sizes adapt. After it both are fixed, and the
    chain leaves the posterior invariant. For independent completions, repeat the rows of x.

    Args:
        flow: The density of the data.
        x: The data; its hidden values are not read.
        mask: True where x is observed; broadcasts to x. Where nothing of an example is observed,
            the result is a draw of the flow; where everything is, it is x.
        context: What the density is conditioned on.
        noise_std: Standard deviation $\sigma$ of the observations, in units of the data; by
            default that of `flow.noise`.
        sampler: How chains move, and for how long.
        num_samples: Number of states to keep.
        source: A generator, or `ExampleSeeds` for chains that do not depend on their batch, up to
            rounding.
        progress: Wraps the steps to show how far they are, like `rich.progress.track`.
        options: How to decode; `Hamiltonian` decodes its start alone.
        **keywords: The fields of `DecodeOptions` to be other than in the options.

    Example:
        >>> from tarflow import TarFlow
        >>> flow = TarFlow(8, 2, num_channels=1, model_dim=64, num_layers=1).eval()
        >>> x, mask = flow.sample(3), torch.arange(8) < 4  # the left half
        >>> sampler = Hamiltonian(burn_in=5, num_steps=5, num_leapfrog=4)
        >>> inpainting = inpaint(flow, x, mask, noise_std=0.1, sampler=sampler)
        >>> torch.equal(inpainting.x[..., :4], x[..., :4]), inpainting.acceptance_rate.shape
        (True, torch.Size([3]))

    Raises:
        ConfigurationError: The mask does not fit, an observed value is not finite, a number is out
            of range, or no standard deviation is given and the flow has none.
        NonFiniteError: What chains start from is finite for none of the examples.
    """
    flow.check_data(x)
    check_instance("sampler", sampler, MarkovKernel, "pass one, such as Hamiltonian()")
    check_integer("num_samples", num_samples)
    if not 1 <= num_samples <= sampler.num_steps:
        raise ConfigurationError(f"num_samples {num_samples}: one to {sampler.num_steps} steps")
    noise_std = flow.read_noise_std(noise_std)
    if noise_std == 0:
        raise ConfigurationError("noise_std 0.0 must be positive")
    options = DecodeOptions.of(options, keywords)
    source = ExampleStreams.of(source)
    z = flow.base.sample(len(x), source)
    std = z.new_full((len(x),), noise_std)
    mask = _read_mask(mask, x)
    # A copy, since what was made in inference mode takes no gradient.
    rows = Context.of(context, len(x), x.device).map(torch.clone)
    flow.check_complete(rows, x)
    posterior = Posterior(flow, rows, x.where(mask, 0).to(z.dtype), mask, std, options)
    state = sampler.start(posterior, z)
    fine = state.x.isfinite().flatten(1).all(dim=1)
    tell_non_finite(fine, lambda row: ("what its chain starts from is not finite", None))
    if x.shape != state.x.shape:
        own = tuple(state.x.shape)
        raise ConfigurationError(f"x has shape {tuple(x.shape)}, but data of this flow {own}")
    ticks = iter(progress(range(sampler.burn_in + sampler.num_steps)))
    chain = Chain(sampler, posterior, source)
    state, step_size = chain.burn_in(state, islice(ticks, sampler.burn_in))
    samples, acceptance_rate, rms = _run(chain, state, step_size, ticks, num_samples)
    return Inpainting(x[:, None].where(mask[:, None], samples), acceptance_rate, step_size, rms)


def _run(
    chain: Chain, state: ChainState, step_size: Tensor, ticks: Iterable[int], num_samples: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Go on with fixed step sizes; return what was kept, the acceptance rate and rms deviation."""
    total, samples, accepted, squared_deviation = chain.sampler.num_steps, [], [], []
    for done, _ in enumerate(ticks, start=1):
        state, moved = chain.step(state, step_size)
        accepted.append(moved)
        squared_deviation.append(chain.posterior.squared_deviation(state.x))
        if done * num_samples // total > (done - 1) * num_samples // total:
            samples.append(state.x)
    rate = torch.stack(accepted).to(step_size.dtype).mean(dim=0)
    rms = chain.posterior.rms(torch.stack(squared_deviation).mean(dim=0))
    return torch.stack(samples, dim=1), rate, rms


def _read_mask(mask: Tensor, x: Tensor) -> Bool[Tensor, "batch ..."]:
    """The mask in the shape of x, whose observed values must be finite."""
    check_instance("mask", mask, Tensor, "pass one of bool, True where x is observed")
    if mask.dtype != torch.bool:
        raise ConfigurationError(f"the mask holds {mask.dtype}, not bool: True is observed")
    try:
        mask = mask.to(x.device).expand(x.shape).clone()
    except RuntimeError as error:
        raise ConfigurationError(
            f"a mask of shape {tuple(mask.shape)} does not broadcast to x of {tuple(x.shape)}"
        ) from error
    if not x[mask].isfinite().all():
        raise ConfigurationError("an observed value is not finite: mask it, or mend it")
    return mask
