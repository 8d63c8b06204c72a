"""Flows: a transform and a base distribution make a density."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tarflow.base import StandardNormal
from tarflow.context import Context
from tarflow.decoding import Decoder, Decoding, Sequential
from tarflow.errors import ContextError, NonFiniteError
from tarflow.guidance import Guidance
from tarflow.noise import Noise
from tarflow.randomness import RandomSource
from tarflow.transforms import Composition, Transform

ContextLike = Context | Tensor | int | None
"""A context, labels (a tensor, or one integer for the whole batch), or nothing."""


class Flow(nn.Module):
    r"""The density $p(x) = p_Z(f(x)) |\det f'(x)|$ of data that a transform f maps to noise.

    Args:
        transforms: The transforms from data to noise.
        base: The distribution of the noise.
        num_classes: Number of classes that a label may name; 0 for a flow without labels.
        noise: The noise that was added to the data whose density this is, if any.
    """

    def __init__(
        self,
        transforms: list[Transform],
        base: StandardNormal,
        num_classes: int = 0,
        noise: Noise | None = None,
    ):
        super().__init__()
        self.transform = Composition(transforms)
        self.base = base
        self.num_classes = num_classes
        self.noise = noise

    @property
    def num_dims(self) -> int:
        """Number of dimensions of an example."""
        length, patch_dim = self.base.shape
        return length * patch_dim

    def forward(
        self, x: Float[Tensor, "batch ..."], context: ContextLike = None
    ) -> tuple[Float[Tensor, "batch length patch_dim"], Float[Tensor, " batch"]]:
        r"""Map data to noise; also return $\log |\det dz/dx|$ of each example, in nats."""
        return self.transform(x, self._read(context, x))

    def inverse(
        self,
        z: Float[Tensor, "batch length patch_dim"],
        context: ContextLike = None,
        *,
        guidance: Guidance | None = None,
        decoder: Decoder = Sequential(),
    ) -> Float[Tensor, "batch ..."]:
        """Map noise to data; differentiable, unless gradients are off, when it is faster.

        Args:
            z: Noise.
            context: What the density is conditioned on.
            guidance: Moves every prediction away from that of a null context.
            decoder: How each autoregressive transform is inverted.

        Raises:
            NonFiniteError: The data is not finite; tells the transform.
        """
        context = self._read(context, z)
        if not z.isfinite().all():
            raise NonFiniteError("the noise is not finite: it holds NaN or infinity", None)
        if guidance is not None and guidance.weight > 0:
            self._check_guidance(context, guidance)
        return self.transform.inverse(z, context, Decoding(decoder, guidance))

    def log_prob(
        self, x: Float[Tensor, "batch ..."], context: ContextLike = None
    ) -> Float[Tensor, " batch"]:
        """Log-density of each example, in nats, summed over all dimensions.

        Raises:
            NonFiniteError: A density is not finite; tells the transform.
        """
        z, log_det = self(x, context)
        log_prob = self.base.log_prob(z) + log_det
        self.check_finite(log_prob, x, context)
        return log_prob

    def score(
        self, x: Float[Tensor, "batch ..."], context: ContextLike = None
    ) -> Float[Tensor, "batch ..."]:
        r"""The gradient $\nabla_x \log p(x)$ of each example."""
        # Clones, since what was made in inference mode takes no gradient.
        with torch.inference_mode(False), torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            context = self._read(context, x).map(torch.clone)
            return torch.autograd.grad(self.log_prob(x, context).sum(), x)[0]

    @torch.no_grad()
    def sample(
        self,
        num_samples: int,
        context: ContextLike = None,
        *,
        guidance: Guidance | None = None,
        decoder: Decoder = Sequential(),
        source: RandomSource = None,
    ) -> Float[Tensor, "batch ..."]:
        """Draw samples, without gradients; for those, call `inverse` on draws of `base`.

        Args:
            num_samples: Number of samples.
            context: What to condition on: one row per sample, or one label for all.
            guidance: Moves every prediction away from that of a null context.
            decoder: How each autoregressive transform is inverted.
            source: A generator, or `ExampleSeeds` for samples that do not depend on their batch.
        """
        z = self.base.sample(num_samples, source)
        return self.inverse(z, context, guidance=guidance, decoder=decoder)

    @torch.no_grad()
    def sample_and_log_prob(
        self, num_samples: int, context: ContextLike = None, **options
    ) -> tuple[Float[Tensor, "batch ..."], Float[Tensor, " batch"]]:
        """Draw samples with the options of `sample`; also return their unguided log-density."""
        x = self.sample(num_samples, context, **options)
        return x, self.log_prob(x, context)

    def check_finite(self, value: Tensor, x: Tensor, context: ContextLike = None) -> None:
        """Raise an error that names the first transform whose output for x is not finite.

        Args:
            value: What was computed from x; nothing is raised while it is finite.
            x: The data.
            context: What the density was conditioned on.

        Raises:
            NonFiniteError: The value is not finite.
        """
        if value.isfinite().all():
            return
        with torch.no_grad():
            index = self.transform.find_non_finite(x, self._read(context, x))
        if index is None:
            raise NonFiniteError("the data is not finite: it holds NaN or infinity", None)
        raise NonFiniteError(f"the output of transform {index} is not finite", index)

    def _read(self, context: ContextLike, examples: Tensor) -> Context:
        """Read the caller's context and check its labels."""
        context = Context.of(context, len(examples), examples.device)
        label = context.label
        if label is None:
            return context
        if not self.num_classes:
            raise ContextError("this flow has no classes: leave the label out")
        if label.numel() and not -1 <= label.min() <= label.max() < self.num_classes:
            raise ContextError(
                f"labels go from {label.min()} to {label.max()}, but this flow knows 0 ..."
                f" {self.num_classes - 1}, and -1 for no class"
            )
        return context

    def _check_guidance(self, context: Context, guidance: Guidance) -> None:
        """Refuse guidance that would cost a pass and change nothing."""
        if context.label is None and guidance.temperature == 1:
            raise ContextError(
                "guidance needs a null prediction that differs from the conditional one: pass a"
                " label, or give the guidance an attention temperature other than 1"
            )
