"""Flows: a transform and a base distribution make a density."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tarflow.arguments import check_instance, check_integer, check_tensor
from tarflow.errors import ConfigurationError, ContextError, NonFiniteError
from tarflow.flows.base import StandardNormal
from tarflow.flows.context import Context
from tarflow.flows.decoding import Decoder, Decoding, Sequential
from tarflow.flows.guidance import Guidance
from tarflow.flows.noise import Noise
from tarflow.flows.report import SamplingReport
from tarflow.flows.transforms import Composition, Inverse, Transform
from tarflow.nn.networks import Networks
from tarflow.randomness import RandomSource
from tarflow.registry import Part

ContextLike = Context | Tensor | int | None
"""A context, labels (a tensor, or one integer for the whole batch), or nothing."""


class Flow(nn.Module, Part):
    r"""The density $p(x) = p_Z(f(x)) |\det f'(x)|$ of data that a transform f maps to noise.

    Args:
        transforms: The transforms from data to noise.
        base: The distribution of the noise.
        num_classes: Number of classes that a label may name; 0 for a flow without labels.
        noise: The noise that was added to the data whose density this is, if any.
    """

    image_shape: tuple[int, int, int] | None = None
    """Channels, height and width of an example, where they are known."""

    def __init__(
        self,
        transforms: list[Transform],
        base: StandardNormal,
        num_classes: int = 0,
        noise: Noise | None = None,
    ):
        super().__init__()
        check_instance("base", base, StandardNormal, "pass one, such as StandardNormal(4, 12)")
        check_integer("num_classes", num_classes, least=0)
        if noise is not None:
            check_instance("noise", noise, Noise, "pass one, such as GaussianNoise(std=0.1)")
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
        self.check_data(x)
        return self.transform(x, self._read(context, x))

    def inverse(
        self,
        z: Float[Tensor, "batch length patch_dim"],
        context: ContextLike = None,
        **options: Any,
    ) -> Float[Tensor, "batch ..."]:
        """Map noise to data; differentiable, unless gradients are off, when it is faster.

        Args:
            z: Noise.
            context: What the density is conditioned on.
            **options: How to decode; see `decode`.

        Raises:
            NonFiniteError: The data is not finite; tells the transform.
        """
        return self.decode(z, context, **options).x

    def decode(
        self,
        z: Float[Tensor, "batch length patch_dim"],
        context: ContextLike = None,
        *,
        guidance: Guidance | None = None,
        decoder: Decoder = Sequential(),
        dtype: torch.dtype | None = None,
        compile: bool = False,
        networks: Networks | None = None,
        certify: bool = False,
    ) -> Inverse:
        """Map noise to data, and tell how it went.

        Args:
            z: Noise.
            context: What the density is conditioned on.
            guidance: Moves every prediction away from that of a null context.
            decoder: How each autoregressive transform is inverted.
            dtype: Precision in which transformers compute, such as `torch.bfloat16`; by default
                that of their weights. The state z, x stays in float32 or above. Without gradients
                only.
            compile: Whether single steps run compiled: pays after many samples, if at all
                (docs/experiments.md). Without gradients only.
            networks: Carries what `dtype` and `compile` prepare from call to call, in their place.
            certify: Whether sequential decoding in a lower `dtype` is checked as well, by one
                parallel pass for each transform.

        Returns:
            The data, the log-determinant of the (guided) map from data to noise, and a report for
            each autoregressive transform, that nearest the noise first.

        Raises:
            NonFiniteError: The data is not finite; tells the transform.
        """
        if torch.is_grad_enabled() and (dtype or compile or networks):
            raise ConfigurationError(
                "gradients flow through decoding only in the weights' own precision and not"
                " compiled: leave dtype, compile and networks out, or use torch.no_grad()"
            )
        check_tensor("z", z, self.base.shape, self.base.anchor.device)
        _check_options(guidance, decoder, networks)
        context = self._read(context, z)
        if not z.isfinite().all():
            raise NonFiniteError("the noise is not finite: it holds NaN or infinity", None)
        if guidance is not None and guidance.weight > 0:
            self._check_guidance(context, guidance)
        networks = networks or Networks(dtype, compile)
        return self.transform.inverse(z, context, Decoding(decoder, guidance, networks, certify))

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
        self.check_data(x)
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
        source: RandomSource = None,
        return_report: bool = False,
        **options: Any,
    ) -> Any:
        """Draw samples, without gradients; for those, call `inverse` on draws of `base`.

        Example:
            >>> from tarflow import Jacobi, TarFlow
            >>> flow = TarFlow(8, 2, num_channels=1, model_dim=64, num_layers=1).eval()
            >>> x, report = flow.sample(5, decoder=Jacobi(window=8), return_report=True)
            >>> report.certified
            tensor([True, True, True, True, True])

        Args:
            num_samples: Number of samples.
            context: What to condition on: one row per sample, or one label for all.
            source: A generator, or `ExampleSeeds` for samples that do not depend on their batch.
            return_report: Whether to return a `SamplingReport`, with a certificate for every
                transform and sample, beside the samples.
            **options: How to decode: `guidance`, `decoder`, `dtype` and more; see `decode`.
        """
        z = self.base.sample(num_samples, source)
        inverse = self.decode(z, context, **{"certify": return_report, **options})
        return (inverse.x, SamplingReport(inverse.reports)) if return_report else inverse.x

    @torch.no_grad()
    def sample_and_log_prob(
        self,
        num_samples: int,
        context: ContextLike = None,
        *,
        source: RandomSource = None,
        **options: Any,
    ) -> tuple[Float[Tensor, "batch ..."], Float[Tensor, " batch"]]:
        """Draw samples, and tell their unguided log-density, in nats.

        Sequential decoding computes the density on its way. Where that would be the density of
        something else - guidance is on, the decoder has a tolerance, the dtype is a lower one - it
        takes one parallel pass more.

        Args:
            num_samples: Number of samples.
            context: What to condition on: one row per sample, or one label for all.
            source: A generator, or `ExampleSeeds` for samples that do not depend on their batch.
            **options: How to decode; see `decode`.
        """
        z = self.base.sample(num_samples, source)
        inverse = self.decode(z, context, **options)
        if not self._is_exact(inverse, **options):
            return inverse.x, self.log_prob(inverse.x, context)
        log_prob = self.base.log_prob(z) + inverse.log_det
        self.check_finite(log_prob, inverse.x, context)
        return inverse.x, log_prob

    def check_data(self, x: Any, name: str = "x") -> None:
        """Refuse what is no batch of this flow's examples.

        Args:
            x: What was passed as data.
            name: What messages call it.

        Raises:
            ConfigurationError: It is no tensor, or of another dtype, shape or device.
        """
        check_tensor(name, x, self.image_shape, self.base.anchor.device)

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

    @staticmethod
    def _is_exact(inverse: Inverse, guidance=None, **options: Any) -> bool:
        """Whether the log-determinant is that of the unguided flow at the data, up to rounding."""
        if guidance is not None and guidance.weight > 0:
            return False
        return all(report.exact for report in inverse.reports)

    def _check_guidance(self, context: Context, guidance: Guidance) -> None:
        """Refuse guidance that would cost a pass and change nothing."""
        if context.label is None and guidance.temperature == 1:
            raise ContextError(
                "guidance needs a null prediction that differs from the conditional one: pass a"
                " label, or give the guidance an attention temperature other than 1"
            )


def _check_options(guidance: Any, decoder: Any, networks: Any) -> None:
    """Refuse names and numbers in place of the objects that tell how to decode."""
    check_instance("decoder", decoder, Decoder, "pass one, such as Sequential() or Jacobi()")
    if guidance is not None:
        check_instance("guidance", guidance, Guidance, "pass one, such as LinearGuidance(1.5)")
    if networks is not None:
        check_instance("networks", networks, Networks, "pass Networks(dtype, compile)")
