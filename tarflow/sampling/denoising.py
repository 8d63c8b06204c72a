"""Removing the Gaussian noise that a flow was trained with."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tarflow.arguments import check_instance
from tarflow.errors import ConfigurationError, NonFiniteError
from tarflow.flows.context import Context, ContextLike
from tarflow.flows.flow import Flow
from tarflow.flows.report import Blame, tell_non_finite
from tarflow.flows.shapes import Examples, PerExample
from tarflow.randomness import RandomSource
from tarflow.sampling.chunks import ChunkSize
from tarflow.sampling.denoiser import AutoDenoiser, Denoiser, Progress

HALF = (torch.bfloat16, torch.float16)


def can_denoise(flow: Flow) -> bool:
    """Whether a flow was trained with noise that it tells how to remove."""
    return flow.noise is not None and flow.noise.removable


def wants_denoising(flow: Flow) -> bool:
    """Whether samples are denoised where nobody says: not where their codec decodes noisy ones."""
    return can_denoise(flow) and not (flow.codec is not None and flow.codec.decodes_noise)


@torch.no_grad()
def denoise(
    flow: Flow,
    x: Float[Tensor, "batch ..."],
    context: ContextLike = None,
    noise_std: float | None = None,
    dtype: torch.dtype | None = None,
    max_batch: int | ChunkSize | None = None,
    *,
    denoiser: Denoiser = AutoDenoiser(),
    source: RandomSource = None,
    progress: Progress = iter,
) -> Float[Tensor, "batch ..."]:
    r"""Clean data from noisy data, by the score of their density.

    The mean of clean data given noisy data is $x + \sigma^2 \nabla \log p(x)$: Tweedie's formula
    (arXiv 2412.06329). It costs one forward and one backward pass, both parallel over positions;
    the backward pass is that of x alone. A flow of one noise level takes it for the result; one of
    many goes down a ladder of levels, with a mean at each: see `ProbabilityFlow`.

    Where memory runs out, it goes on in smaller chunks, and warns. An example that is not finite
    in a lower precision is computed again in that of the weights; one that is not finite there is
    NaN, and a warning counts them.

    Args:
        flow: The density of noisy data.
        x: Noisy data, such as samples of the flow.
        context: What the density is conditioned on. A `noise_level` is that of x; without one it
            is the highest of the flow, at which samples are drawn.
        noise_std: Standard deviation $\sigma$ of the noise; by default that of `flow.noise`. For
            flows of one level.
        dtype: Precision of the transformers, such as bfloat16; by default that of their weights.
            The flow's state keeps its own.
        max_batch: Number of examples computed at a time; by default all. Pass a `ChunkSize` to
            many calls, and they find once how many fit.
        denoiser: The way to clean data; by default what fits the flow's noise.
        source: Where a `StochasticDenoising` draws from: a generator, or `ExampleSeeds` for
            results that do not depend on their batch.
        progress: Wraps the steps of a ladder to show how far they are, like
            `rich.progress.track`.

    Raises:
        ConfigurationError: No standard deviation is given, and the flow has none; the denoiser is
            not for its noise; or its weights are not fit for the precision.
        NonFiniteError: No example has a finite gradient.
        InsufficientMemoryError: Not even one example fits the memory.
    """
    told = {"denoiser": denoiser, "source": source, "progress": progress}
    clean = attempt_denoising(flow, x, context, noise_std, dtype, max_batch, **told)

    def why(row: int) -> Blame:
        one = slice(row, row + 1)
        part = flow.sampling_context(context, x).map(lambda rows: rows[one])
        try:
            flow.check_finite(flow.log_prob(x[one], part), x[one], part)
        except NonFiniteError as error:
            return str(error), error.transform
        return "the log-density's gradient is not finite: denoise in a higher precision", None

    tell_non_finite(_finite(clean), why)
    return clean


@torch.no_grad()
def attempt_denoising(
    flow: Flow,
    x: Float[Tensor, "batch ..."],
    context: ContextLike = None,
    noise_std: float | None = None,
    dtype: torch.dtype | None = None,
    max_batch: int | ChunkSize | None = None,
    *,
    denoiser: Denoiser = AutoDenoiser(),
    source: RandomSource = None,
    progress: Progress = iter,
) -> Float[Tensor, "batch ..."]:
    """The same as `denoise`, without a word about what is not finite."""
    flow.check_data(x)
    check_instance("denoiser", denoiser, Denoiser, "pass one, such as OneStep()")
    rows = flow.sampling_context(context, x)
    level = _level(flow, x, rows, noise_std)
    fitted = denoiser.fitted(flow.noise)
    mean = CleanMean(flow, rows, dtype, ChunkSize.of(max_batch))
    return fitted(mean, x, level, source, progress)


@dataclass(frozen=True)
class CleanMean:
    r"""The mean of clean data given noisy data: $x + t^2 \nabla \log p(x)$ at a noise level t.

    Attributes:
        context: What the density is conditioned on; its noise level, if any, gives way to t.
        dtype: Precision of the transformers.
        chunks: How many examples are computed at a time.
    """

    flow: Flow
    context: Context
    dtype: torch.dtype | None
    chunks: ChunkSize

    def __call__(self, x: Examples, level: PerExample) -> Examples:
        """The mean for each example; NaN where the score is not finite."""
        known = {"noise_level": level} if "noise_level" in self.context else {}
        context = self.context.updated(**known)

        def compute(rows: slice) -> Tensor:
            chunk = x[rows]
            score = self.score(chunk, context.map(lambda part: part[rows]))
            beside = (-1, *(1,) * (x.ndim - 1))
            variance = level[rows].square().to(score.dtype).to(score.device).view(beside)
            return (chunk + variance * score).where(_finite(score).view(beside), torch.nan)

        return self.chunks.map(compute, len(x))

    def score(self, x: Examples, context: Context) -> Examples:
        """The score, computed again in the precision of the weights where it is not finite."""
        with _frozen(self.flow), _precision(self.flow, self.dtype):
            score = self.flow.score(x, context)
        missed = (_finite(x) & ~_finite(score)).nonzero().flatten()
        if not len(missed) or self.dtype in (None, self.flow.base.anchor.dtype):
            return score
        with _frozen(self.flow):
            again = self.flow.score(x[missed], context.map(lambda part: part[missed]))
        return score.index_copy(0, missed, again.to(score.dtype))


def _level(
    flow: Flow, x: Examples, context: Context, noise_std: float | None
) -> Float[Tensor, " batch"]:
    """Standard deviation of the noise in each example."""
    told = context.get("noise_level")
    if told is None:  # on the host, in float64: its square is then rounded once
        return torch.full((len(x),), flow.read_noise_std(noise_std), dtype=torch.float64)
    if noise_std is not None:
        raise ConfigurationError(
            f"noise_std {noise_std}: this flow knows many noise levels; pass that of x in its"
            " context, as noise_level"
        )
    return told.to(torch.promote_types(told.dtype, x.dtype))


def _finite(x: Float[Tensor, "batch ..."]) -> Bool[Tensor, " batch"]:
    """Examples that are finite."""
    return x.isfinite().flatten(1).all(dim=1)


def _precision(flow: Flow, dtype: torch.dtype | None) -> AbstractContextManager:
    """Run the transformers in a precision; refuse what autocast would ignore without a word."""
    own, device = flow.base.anchor.dtype, flow.base.anchor.device
    if dtype in (None, own):
        return nullcontext()
    if dtype in HALF and own in (torch.float32, *HALF):
        return torch.autocast(device.type, dtype)
    raise ConfigurationError(
        f"a flow in {own} cannot denoise in {dtype}: leave dtype out for its own precision, or"
        " convert it first, with flow.float(), for float32, bfloat16 or float16"
    )


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Let no parameter take part in a gradient, so that none keeps its inputs for one."""
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        module.requires_grad_(False)
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)
