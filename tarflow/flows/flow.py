"""Flows: densities that are saved and loaded, decoded and sampled from."""

from collections.abc import Iterable
from typing import Any, Unpack

import torch
from jaxtyping import Bool
from torch import Tensor

from tarflow.arguments import check_tensor
from tarflow.errors import ConfigurationError, ContextError
from tarflow.flows.context import Context, ContextLike
from tarflow.flows.decoding import DecodeKeywords, DecodeOptions
from tarflow.flows.density import Density
from tarflow.flows.distribution import FlowDistribution
from tarflow.flows.guidance import Guidance
from tarflow.flows.pretrained import Pretrained
from tarflow.flows.report import Blame, Inverse, SamplingReport, tell_non_finite
from tarflow.flows.shapes import Examples, PerExample, Sequences
from tarflow.randomness import RandomSource


class Flow(Density, Pretrained):
    r"""The density $p(x) = p_Z(f(x)) |\det f'(x)|$ of data that a transform f maps to noise.

    A named flow is a subclass whose constructor makes the transforms. If it also passes a
    description, a dataclass with the constructor's arguments, it can be saved and loaded.
    """

    def inverse(
        self,
        z: Sequences,
        context: ContextLike = None,
        *,
        options: DecodeOptions = DecodeOptions(),
        **keywords: Unpack[DecodeKeywords],
    ) -> Examples:
        """Map noise to data, as `decode` does; differentiable once."""
        return self.decode(z, context, options=options, **keywords).x

    def decode(
        self,
        z: Sequences,
        context: ContextLike = None,
        *,
        options: DecodeOptions = DecodeOptions(),
        **keywords: Unpack[DecodeKeywords],
    ) -> Inverse:
        """Map noise to data, and tell how it went.

        An example that is not finite, because its noise is not or decoding it overflows, is NaN;
        the others are what they would be without it. A warning counts and names such examples.

        Where gradients are on and wanted, one parallel pass for each transform adds those of the
        data and of the log-determinant, with the weights, the precision and, in training, the
        dropout of that pass. Second derivatives are not supported.

        Args:
            z: Noise.
            context: What the density is conditioned on.
            options: How to decode.
            **keywords: The fields of `DecodeOptions` to be other than in the options.

        Raises:
            NonFiniteError: No example is finite.
            ContextError: The guidance would cost a pass and change nothing.
            ConfigurationError: It acts at a depth that the flow does not have.
        """
        inverse = self.attempt(z, context, options=options, **keywords)
        tell_non_finite(inverse.finite, lambda row: self._blame(z, inverse, row))
        return inverse

    def attempt(
        self,
        z: Sequences,
        context: ContextLike = None,
        *,
        options: DecodeOptions = DecodeOptions(),
        **keywords: Unpack[DecodeKeywords],
    ) -> Inverse:
        """Map noise to data, as `decode` does, without a word about what is not finite."""
        check_tensor("z", z, self.base.shape, self.base.anchor.device)
        options = DecodeOptions.of(options, keywords).prepared()
        context = self.sampling_context(context, z)
        if options.guidance is not None:
            self.check_guidance(options.guidance, context)
        return self.transform.inverse(z, context, options)

    def check_guidance(self, guidance: Guidance, parts: Iterable[str]) -> None:
        """Refuse what would cost a pass and change nothing, given the parts of a context.

        Raises:
            ContextError: Where the guidance acts, the null prediction is the conditional one.
            ConfigurationError: It acts at a depth that the flow does not have.
        """
        decoded = [t for t in reversed(list(self.transform)) for _ in range(t.num_decoded)]
        guidance.check_depths(len(decoded))
        reached = (t for depth, t in enumerate(decoded) if guidance.acts_at(depth))
        dropped = {c.part for t in reached for c in t.conditioners if c.dropped}
        if dropped.isdisjoint(parts) and guidance.temperature == 1:
            raise ContextError(
                "guidance needs a null prediction that differs from the conditional one where it"
                " acts: pass a label or another condition, let it act where the flow reads that,"
                " or give it an attention temperature other than 1"
            )

    def sampling_context(self, context: ContextLike, examples: Tensor) -> Context:
        """What samples are conditioned on: what is given, and the highest of many noise levels.

        Raises:
            ContextError: The context is not one of this flow.
        """
        read = self._read(context, examples)
        told = self.noise.sampled(examples) if self.noise else Context()
        return told.updated(**read.parts)

    def _blame(self, z: Sequences, inverse: Inverse, row: int) -> Blame:
        """Why an example is not finite."""
        if not z[row].isfinite().all():
            return "the noise is not finite: it holds NaN or infinity", None
        return self.transform.blame(inverse.report, row)

    def stop_gradient_inverse(
        self, x: Examples, context: ContextLike = None, z: Sequences | None = None
    ) -> Examples:
        r"""Decode the noise of x with what predictions read held at x (arXiv 2511.22345).

        $\tilde x_i = z_i \exp(\alpha(\mathrm{sg} \, x_{<i})) + \mu(\mathrm{sg} \, x_{<i})$ in
        every transform: x in value, in one parallel pass for each, with gradients to z, $\alpha$
        and $\mu$ that do not go through one position after the other. The noise of x is passed
        where it has gradients.

        Example:
            >>> from tarflow import TarFlow
            >>> flow = TarFlow(8, 2, num_channels=1, model_dim=64, num_layers=1)
            >>> x = flow.sample(2)
            >>> torch.allclose(flow.stop_gradient_inverse(x), x, atol=1e-5)
            True
        """
        self.check_data(x)
        noise, inverse = self.transform.hold(x, self._read(context, x))
        return inverse(noise if z is None else z)

    @torch.no_grad()
    def sample(
        self,
        num_samples: int,
        context: ContextLike = None,
        *,
        source: RandomSource = None,
        return_report: bool = False,
        options: DecodeOptions = DecodeOptions(),
        **keywords: Unpack[DecodeKeywords],
    ) -> Any:
        """Draw samples, without gradients; for those, call `inverse` on draws of `base`.

        Args:
            num_samples: Number of samples.
            context: What to condition on: one row per sample, or one label for all.
            source: A generator, or `ExampleSeeds` for samples that do not depend on their batch.
            return_report: Whether to return what `sample_with_report` does.
            options: How to decode.
            **keywords: The fields of `DecodeOptions` to be other than in the options.
        """
        certified: DecodeKeywords = {"certify": True, **keywords}
        options = DecodeOptions.of(options, certified if return_report else keywords)
        inverse = self.decode(self.base.sample(num_samples, source), context, options=options)
        x = self.values(inverse.x)
        return (x, inverse.report) if return_report else x

    def values(self, points: Examples) -> Examples:
        """What samples are, of the points that are decoded: these themselves."""
        return points

    def holds(self, x: Examples, context: Context = Context()) -> Bool[Tensor, " batch"]:
        """Whether examples lie in the support of the density: all of their numbers are finite."""
        return x.isfinite().flatten(1).all(dim=1)

    def distribution(self, context: ContextLike = None) -> FlowDistribution:
        """The distribution in a context, as torch knows distributions.

        Example:
            >>> from tarflow import TarFlow
            >>> told = {"model_dim": 32, "head_dim": 16, "num_layers": 1, "num_classes": 3}
            >>> flow = TarFlow.for_vectors(2, **told)
            >>> normal = flow.distribution(torch.tensor([[0, 1], [2, -1], [1, 1]]))
            >>> normal.batch_shape, normal.event_shape, normal.sample((5,)).shape
            (torch.Size([3, 2]), torch.Size([2]), torch.Size([5, 3, 2, 2]))

        Args:
            context: Its parts; dimensions before those of one example are batch dimensions.

        Raises:
            ConfigurationError: The flow does not tell the shape of its examples.
            ContextError: The context is not one of this flow.
        """
        if self.example_shape is None:
            raise ConfigurationError(
                f"a {type(self).__name__} does not tell the shape of its examples: use a TarFlow,"
                " or one of TarFlow.for_vectors and TarFlow.for_tokens"
            )
        rows, shape = self.batched(context)
        read = self._read(rows, self.base.anchor.expand(shape.numel()))
        return FlowDistribution(self, read, shape, torch.Size(self.example_shape))

    def sample_with_report(
        self,
        num_samples: int,
        context: ContextLike = None,
        *,
        source: RandomSource = None,
        options: DecodeOptions = DecodeOptions(),
        **keywords: Unpack[DecodeKeywords],
    ) -> tuple[Examples, SamplingReport]:
        """Draw samples as `sample` does, with a certificate of every transform for each of them.

        Lower precision is certified even if `certify` is off in the options.

        Example:
            >>> from tarflow import Jacobi, TarFlow
            >>> flow = TarFlow(8, 2, num_channels=1, model_dim=64, num_layers=1).eval()
            >>> x, report = flow.sample_with_report(5, decoder=Jacobi(window=8))
            >>> report.certified
            tensor([True, True, True, True, True])
        """
        told: Any = {"source": source, "options": options, **keywords}
        return self.sample(num_samples, context, return_report=True, **told)

    @torch.no_grad()
    def sample_and_log_prob(
        self,
        num_samples: int,
        context: ContextLike = None,
        *,
        source: RandomSource = None,
        options: DecodeOptions = DecodeOptions(),
        **keywords: Unpack[DecodeKeywords],
    ) -> tuple[Examples, PerExample]:
        """Draw samples as `sample` does, and tell their unguided log-density, in nats.

        Sequential decoding computes the density on its way. Where that would be another one,
        for guidance, a decoder with a tolerance or a lower dtype, it takes one pass more. The
        density of a sample that is not finite is NaN.
        """
        z = self.base.sample(num_samples, source)
        options = DecodeOptions.of(options, keywords)
        context = self.sampling_context(context, z)
        inverse = self.decode(z, context, options=options)
        x = self.values(inverse.x)
        if options.guidance is None and all(inverse.report.exact) and x is inverse.x:
            log_prob = self.noise_log_prob(z, context) + inverse.log_det
        else:
            log_prob = self.log_prob(x, context)
        if not log_prob.isfinite().any():
            self.check_finite(log_prob, inverse.x, context)
        return x, log_prob
