"""Flows: a transform and a base distribution make a density."""

from collections.abc import Iterable
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar, Unpack

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from tarflow.arguments import check_instance, check_tensor
from tarflow.errors import CheckpointError, ConfigurationError, ContextError, NonFiniteError
from tarflow.flows import checkpoint
from tarflow.flows.base import StandardNormal
from tarflow.flows.codec import Codec
from tarflow.flows.conditioning import Conditioner, LabelConditioner
from tarflow.flows.context import Context, ContextLike
from tarflow.flows.decoding import DecodeKeywords, DecodeOptions
from tarflow.flows.guidance import Guidance
from tarflow.flows.noise import Noise
from tarflow.flows.report import Inverse, SamplingReport
from tarflow.flows.transforms import Composition, Transform
from tarflow.nn.kernels import transformed
from tarflow.randomness import RandomSource
from tarflow.registry import KNOWN, Part

Kind = TypeVar("Kind", bound="Flow")


class Flow(nn.Module, Part):
    r"""The density $p(x) = p_Z(f(x)) |\det f'(x)|$ of data that a transform f maps to noise.

    A named flow is a subclass whose constructor makes the transforms. If it also passes a
    description, a dataclass with the constructor's arguments, it can be saved and loaded.

    Args:
        transforms: The transforms from data to noise.
        base: The distribution of the noise.
        codec: How stored values became the data whose density this is, if that is known.
        noise: The noise that was added to the data, if that is known.
        description: What the flow was made from.
    """

    image_shape: tuple[int, int, int] | None = None
    """Channels, height and width of an example, where they are known."""

    def __init__(
        self,
        transforms: Iterable[Transform],
        base: StandardNormal,
        codec: Codec | None = None,
        noise: Noise | None = None,
        description: Part | None = None,
    ):
        super().__init__()
        check_instance("base", base, StandardNormal, "pass one, such as StandardNormal(4, 12)")
        for name, value, kind in (("codec", codec, Codec), ("noise", noise, Noise)):
            if value is not None:
                check_instance(name, value, kind, f"pass a {kind.__name__}")
        self.transform = Composition(transforms)
        self.base = base
        self.codec = codec
        self.noise = noise
        self.description = description

    @property
    def conditioners(self) -> tuple[Conditioner, ...]:
        """What reads the parts of a context."""
        return self.transform.conditioners

    @property
    def num_classes(self) -> int:
        """Number of classes that a label may name; 0 for a flow without labels."""
        counts = [c.num_classes for c in self.conditioners if isinstance(c, LabelConditioner)]
        return max(counts, default=0)

    @property
    def num_dims(self) -> int:
        """Number of dimensions of an example."""
        length, patch_dim = self.base.shape
        return length * patch_dim

    def noisy(
        self,
        stored: Shaped[Tensor, "batch ..."],
        source: RandomSource = None,
        dtype: torch.dtype = torch.float32,
    ) -> Float[Tensor, "batch ..."]:
        """Stored values as the data whose density this is: encoded, with the noise added.

        Raises:
            ConfigurationError: The flow does not know its codec or its noise.
        """
        if self.codec is None or self.noise is None:
            raise ConfigurationError("this flow does not know the codec and noise of its data")
        return self.noise(self.codec.encode(stored, source, dtype), source)

    def known(self, context: Context) -> Context:
        """The parts of a context that this flow is conditioned on."""
        return Context(**{c.part: context.get(c.part) for c in self.conditioners})

    def save_pretrained(self, directory: Path | str, words: str = "") -> None:
        """Write `config.json` and `model.safetensors`, from which `tarflow.load` reads.

        Args:
            directory: The folder; made if need be. A failure leaves what was there before.
            words: Which weights they are.

        Raises:
            CheckpointError: The flow has no description.
        """
        checkpoint.save(directory, self.described, self.state_dict(), words)

    @property
    def described(self) -> tuple[str, Part]:
        """The name of the flow's class and its description, from which others of it are made.

        Raises:
            CheckpointError: The description is missing, or not what the class is made with.
        """
        name, taken = type(self).__name__, signature(type(self)).parameters
        if self.description is None or not vars(self.description).keys() <= taken.keys():
            raise CheckpointError(
                f"a {name} cannot be saved: let it have a description, a dataclass with the"
                f" arguments of {name}, which its constructor passes on or sets"
            )
        return name, self.description

    def remade(self) -> "Flow":
        """Another flow of the same description, with weights of its own."""
        _, description = self.described
        return type(self)(**vars(description))

    @classmethod
    def from_pretrained(cls: type[Kind], directory: Path | str) -> Kind:
        """Read a folder written by `save_pretrained`: on the CPU, in the dtype of the weights.

        The registry finds the class by its name. Nothing is downloaded or imported, and no code
        that came with the folder is run.

        Raises:
            CheckpointError: The folder is missing, damaged, does not fit together, or holds a
                flow of another class.
        """
        name, arguments = checkpoint.read_config(directory)
        weights = checkpoint.read_weights(directory)
        kind = KNOWN.get(name)
        if not (isinstance(kind, type) and issubclass(kind, cls)):
            raise CheckpointError(
                f"{directory} holds a {name!r}, which is not a known {cls.__name__}: import the"
                " package that defines it first, or give the commands its name in TARFLOW_TARGETS"
            )
        checkpoint.check_extent(arguments, len(weights), directory)
        try:
            with torch.device("meta"):  # what does not fit might not fit the memory either
                outline = kind(**arguments)
        except (TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
            raise CheckpointError(f"{directory}: cannot make the model: {error}") from error
        checkpoint.check_weights(outline.state_dict(), weights, directory)
        flow = kind(**arguments)
        dtypes = {value.dtype for value in weights.values() if value.is_floating_point()}
        if len(dtypes) == 1:
            flow.to(dtypes.pop())
        checkpoint.load_weights(flow, weights, directory)
        return flow.eval()

    def forward(
        self, x: Float[Tensor, "batch ..."], context: ContextLike = None
    ) -> tuple[Float[Tensor, "batch length patch_dim"], Float[Tensor, " batch"]]:
        r"""Map data to noise; also return $\log |\det dz/dx|$ of each example, in nats."""
        self.check_data(x)
        return self.transform(x, self.read_context(context, x))

    def inverse(
        self,
        z: Float[Tensor, "batch length patch_dim"],
        context: ContextLike = None,
        *,
        options: DecodeOptions = DecodeOptions(),
        **keywords: Unpack[DecodeKeywords],
    ) -> Float[Tensor, "batch ..."]:
        """Map noise to data; differentiable once, as `decode` is.

        Args:
            z: Noise.
            context: What the density is conditioned on.
            options: How to decode.
            **keywords: The fields of `DecodeOptions` to be other than in the options.

        Raises:
            NonFiniteError: The data is not finite; tells the transform.
        """
        return self.decode(z, context, options=options, **keywords).x

    def decode(
        self,
        z: Float[Tensor, "batch length patch_dim"],
        context: ContextLike = None,
        *,
        options: DecodeOptions = DecodeOptions(),
        **keywords: Unpack[DecodeKeywords],
    ) -> Inverse:
        """Map noise to data, and tell how it went.

        Where gradients are on and wanted, one parallel pass for each transform adds those of the
        data and of the log-determinant, with the weights, the precision and, in training, the
        dropout of that pass. Second derivatives are not supported.

        Args:
            z: Noise.
            context: What the density is conditioned on.
            options: How to decode.
            **keywords: The fields of `DecodeOptions` to be other than in the options.

        Returns:
            The data, the log-determinant of the (guided) map from data to noise, and a report with
            a row for each autoregressive transform, that nearest the noise first.

        Raises:
            NonFiniteError: The data is not finite; tells the transform.
        """
        check_tensor("z", z, self.base.shape, self.base.anchor.device)
        options = DecodeOptions.of(options, keywords).prepared()
        context = self._read(context, z)
        if not z.isfinite().all():
            raise NonFiniteError("the noise is not finite: it holds NaN or infinity", None)
        if options.guidance is not None:
            self._check_guidance(context, options.guidance)
        return self.transform.inverse(z, context, options)

    def stop_gradient_inverse(
        self,
        x: Float[Tensor, "batch ..."],
        context: ContextLike = None,
        z: Float[Tensor, "batch length patch_dim"] | None = None,
    ) -> Float[Tensor, "batch ..."]:
        r"""Decode the noise of x with what predictions read held at x (arXiv 2511.22345).

        $\tilde x_i = z_i \exp(\alpha(\mathrm{sg} \, x_{<i})) + \mu(\mathrm{sg} \, x_{<i})$ in
        every transform: x in value, in one parallel pass for each, with gradients to z, $\alpha$
        and $\mu$ that do not go through one position after the other.

        Example:
            >>> from tarflow import TarFlow
            >>> flow = TarFlow(8, 2, num_channels=1, model_dim=64, num_layers=1)
            >>> x = flow.sample(2)
            >>> torch.allclose(flow.stop_gradient_inverse(x), x, atol=1e-5)
            True

        Args:
            x: The data.
            context: What the density is conditioned on.
            z: The noise of x, where it carries gradients.
        """
        self.check_data(x)
        noise, inverse = self.transform.hold(x, self._read(context, x))
        return inverse(noise if z is None else z)

    def log_prob(
        self, x: Float[Tensor, "batch ..."], context: ContextLike = None
    ) -> Float[Tensor, " batch"]:
        """Log-density of each example, in nats, summed over all dimensions.

        It works under `torch.func`, `torch.compile(fullgraph=True)` and `torch.export`, and never
        waits for the device: a density may be NaN or infinite, and is NaN where a tensor holds a
        label that the flow does not know. `check_finite` tells why.

        Take Hessians by `torch.func.hessian` or `jacrev`: torch's layer norm (2.15) is silently
        wrong in forward mode within forward mode.
        """
        z, log_det = self(x, context)
        return self.base.log_prob(z) + log_det

    def score(
        self,
        x: Float[Tensor, "batch ..."],
        context: ContextLike = None,
        *,
        create_graph: bool = False,
    ) -> Float[Tensor, "batch ..."]:
        r"""The gradient $\nabla_x \log p(x)$ of each example.

        Args:
            x: The data.
            context: What the density is conditioned on.
            create_graph: Whether the gradient is itself differentiable, at the price of attention
                by products; always so under `torch.func`.
        """
        self.check_data(x)
        if create_graph or transformed():
            return torch.func.grad(lambda x: self.log_prob(x, context).sum())(x)
        # Clones, since what was made in inference mode takes no gradient.
        with torch.inference_mode(False), torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            context = self.read_context(context, x).map(torch.clone)
            return torch.autograd.grad(self.log_prob(x, context).sum(), x)[0]

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
        if return_report:
            return self.sample_with_report(
                num_samples, context, source=source, options=options, **keywords
            )
        z = self.base.sample(num_samples, source)
        return self.inverse(z, context, options=options, **keywords)

    @torch.no_grad()
    def sample_with_report(
        self,
        num_samples: int,
        context: ContextLike = None,
        *,
        source: RandomSource = None,
        options: DecodeOptions = DecodeOptions(),
        **keywords: Unpack[DecodeKeywords],
    ) -> tuple[Float[Tensor, "batch ..."], SamplingReport]:
        """Draw samples, with a certificate of every transform for each of them.

        Example:
            >>> from tarflow import Jacobi, TarFlow
            >>> flow = TarFlow(8, 2, num_channels=1, model_dim=64, num_layers=1).eval()
            >>> x, report = flow.sample_with_report(5, decoder=Jacobi(window=8))
            >>> report.certified
            tensor([True, True, True, True, True])

        Args:
            num_samples: Number of samples.
            context: What to condition on: one row per sample, or one label for all.
            source: A generator, or `ExampleSeeds` for samples that do not depend on their batch.
            options: How to decode; lower precision is certified even if `certify` is off here.
            **keywords: The fields of `DecodeOptions` to be other than in the options.
        """
        z = self.base.sample(num_samples, source)
        certified: DecodeKeywords = {"certify": True, **keywords}
        inverse = self.decode(z, context, options=options, **certified)
        return inverse.x, inverse.report

    @torch.no_grad()
    def sample_and_log_prob(
        self,
        num_samples: int,
        context: ContextLike = None,
        *,
        source: RandomSource = None,
        options: DecodeOptions = DecodeOptions(),
        **keywords: Unpack[DecodeKeywords],
    ) -> tuple[Float[Tensor, "batch ..."], Float[Tensor, " batch"]]:
        """Draw samples, and tell their unguided log-density, in nats.

        Sequential decoding computes the density on its way. Where that would be the density of
        something else - guidance is on, the decoder has a tolerance, the dtype is a lower one - it
        takes one parallel pass more.

        Args:
            num_samples: Number of samples.
            context: What to condition on: one row per sample, or one label for all.
            source: A generator, or `ExampleSeeds` for samples that do not depend on their batch.
            options: How to decode.
            **keywords: The fields of `DecodeOptions` to be other than in the options.
        """
        z = self.base.sample(num_samples, source)
        options = DecodeOptions.of(options, keywords)
        inverse = self.decode(z, context, options=options)
        if options.guidance is None and all(inverse.report.exact):
            log_prob = self.base.log_prob(z) + inverse.log_det
        else:
            log_prob = self.log_prob(inverse.x, context)
        self.check_finite(log_prob, inverse.x, context)
        return inverse.x, log_prob

    def check_data(self, x: Any, name: str = "x") -> None:
        """Refuse what is not a batch of this flow's examples.

        Args:
            x: What was passed as data.
            name: What messages call it.

        Raises:
            ConfigurationError: It is not a tensor, or of another dtype, shape or device.
        """
        check_tensor(name, x, self.image_shape, self.base.anchor.device)

    def check_finite(self, value: Tensor, x: Tensor, context: ContextLike = None) -> None:
        """Raise an error that names the first transform whose output for x is not finite.

        Args:
            value: What was computed from x; nothing is raised while it is finite.
            x: The data.
            context: What the density was conditioned on.

        Raises:
            ContextError: The value is not finite, for the context is not one of this flow.
            NonFiniteError: The value is not finite.
        """
        if value.isfinite().all():
            return
        with torch.no_grad():
            index = self.transform.find_non_finite(x, self._read(context, x))
        if index is None:
            raise NonFiniteError("the data is not finite: it holds NaN or infinity", None)
        raise NonFiniteError(f"the output of transform {index} is not finite", index)

    def read_context(self, context: ContextLike, examples: Tensor) -> Context:
        """Read the caller's context as networks take it, without a look at values on a device.

        Raises:
            ContextError: A part is unknown, or of another kind or shape.
        """
        # Not len(): torch.export makes that a constant.
        given = Context.of(context, examples.shape[0], examples.device)
        known = {conditioner.part: conditioner for conditioner in self.conditioners}
        for name in given:
            if name == "label" and name not in known:
                raise ContextError("this flow has no classes: leave the label out")
            if name not in known:
                raise ContextError(f"{name} is unknown: this flow knows {', '.join(known)}")
        read = Context(**{name: known[name].read(rows) for name, rows in given.parts.items()})
        if isinstance(context, int) and not -1 <= context < self.num_classes:
            self.check_context(read)  # which the host knows to be wrong
        return read

    def check_context(self, context: Context) -> None:
        """Look at the values of a context: where it enters, once, since that waits for devices.

        Raises:
            ContextError: A value is out of range.
        """
        for conditioner in self.conditioners:
            rows = context.get(conditioner.part)
            if rows is not None:
                conditioner.check(rows)

    def _read(self, context: ContextLike, examples: Tensor) -> Context:
        """Read the caller's context and check its values."""
        read = self.read_context(context, examples)
        self.check_context(read)
        return read

    def _check_guidance(self, context: Context, guidance: Guidance) -> None:
        """Refuse guidance that would cost a pass and change nothing."""
        if set(context) <= {"temperature"} and guidance.temperature == 1:
            raise ContextError(
                "guidance needs a null prediction that differs from the conditional one: pass a"
                " label or another condition, or give it an attention temperature other than 1"
            )


def load(directory: Path | str) -> Flow:
    """Read any flow from a pretrained folder; see `Flow.from_pretrained`."""
    return Flow.from_pretrained(directory)
