"""Removing the Gaussian noise that a flow was trained with."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tarflow.errors import ConfigurationError, NonFiniteError
from tarflow.flows.context import ContextLike
from tarflow.flows.flow import Flow
from tarflow.flows.report import Blame, tell_non_finite
from tarflow.sampling.chunks import ChunkSize

HALF = (torch.bfloat16, torch.float16)


@torch.no_grad()
def denoise(
    flow: Flow,
    x: Float[Tensor, "batch ..."],
    context: ContextLike = None,
    noise_std: float | None = None,
    dtype: torch.dtype | None = None,
    max_batch: int | ChunkSize | None = None,
) -> Float[Tensor, "batch ..."]:
    r"""The mean of clean data given noisy data: $x + \sigma^2 \nabla \log p(x)$.

    This is Tweedie's formula (arXiv 2412.06329). It costs one forward and one backward pass, both
    parallel over positions; the backward pass is that of x alone. Where memory runs out, it goes
    on in smaller chunks, and warns. An example that is not finite in a lower precision is computed
    again in that of the weights; one that is not finite there is NaN, and a warning counts them.

    Args:
        flow: The density of noisy data.
        x: Noisy data, such as samples of the flow.
        context: What the density is conditioned on.
        noise_std: Standard deviation $\sigma$ of the noise; by default that of `flow.noise`.
        dtype: Precision of the transformers, such as bfloat16; by default that of their weights.
            The flow's state keeps its own.
        max_batch: Number of examples computed at a time; by default all. Pass a `ChunkSize` to
            many calls, and they find once how many fit.

    Raises:
        ConfigurationError: No standard deviation is given, and the flow has none; or the flow's
            weights are not fit for the precision.
        NonFiniteError: No example has a finite gradient.
        InsufficientMemoryError: Not even one example fits the memory.
    """
    clean = tweedie(flow, x, context, noise_std, dtype, max_batch)

    def why(row: int) -> Blame:
        one = slice(row, row + 1)
        part = flow.read_context(context, x).map(lambda rows: rows[one])
        try:
            flow.check_finite(flow.log_prob(x[one], part), x[one], part)
        except NonFiniteError as error:
            return str(error), error.transform
        return "the log-density's gradient is not finite: denoise in a higher precision", None

    tell_non_finite(_finite(clean), why)
    return clean


@torch.no_grad()
def tweedie(
    flow: Flow,
    x: Float[Tensor, "batch ..."],
    context: ContextLike = None,
    noise_std: float | None = None,
    dtype: torch.dtype | None = None,
    max_batch: int | ChunkSize | None = None,
) -> Float[Tensor, "batch ..."]:
    """The same as `denoise`, without a word about what is not finite."""
    flow.check_data(x)
    std = flow.read_noise_std(noise_std)
    rows_of = flow.read_context(context, x)
    flow.check_context(rows_of)

    def compute(rows: slice) -> Tensor:
        chunk, context = x[rows], rows_of.map(lambda part: part[rows])
        with _frozen(flow), _precision(flow, dtype):
            score = flow.score(chunk, context)
        missed = (_finite(chunk) & ~_finite(score)).nonzero().flatten()
        if len(missed) and dtype not in (None, flow.base.anchor.dtype):
            with _frozen(flow):
                again = flow.score(chunk[missed], context.map(lambda part: part[missed]))
            score = score.index_copy(0, missed, again.to(score.dtype))
        fine = _finite(score).view(-1, *(1,) * (x.ndim - 1))
        return (chunk + std**2 * score).where(fine, torch.nan)

    return ChunkSize.of(max_batch).map(compute, len(x))


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
