"""Densities: a transform and a base distribution, from data to its log-density."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor, nn

from tarflow.arguments import check_instance, check_tensor
from tarflow.errors import ConfigurationError, NonFiniteError
from tarflow.flows.base import StandardNormal
from tarflow.flows.codec import Codec
from tarflow.flows.conditioned import Conditioned
from tarflow.flows.context import Context, ContextLike
from tarflow.flows.noise import GaussianNoise, Noise
from tarflow.flows.shapes import Examples, PerExample, Sequences
from tarflow.flows.transforms import Composition, Transform
from tarflow.nn.kernels import transformed
from tarflow.randomness import RandomSource
from tarflow.registry import Part

UNKNOWN_DATA = "this flow does not know the codec and noise of its data"


class Density(Conditioned, nn.Module):
    r"""The density $p(x) = p_Z(f(x)) |\det f'(x)|$ of data that a transform f maps to noise.

    Args:
        transforms: The transforms from data to noise.
        base: The distribution of the noise.
        codec: How stored values became the data whose density this is, if that is known.
        noise: The noise that was added to the data, if that is known.
        description: What the flow was made from.
    """

    image_shape: tuple[int, int, int] | None = None
    """Channels, height and width of an example, where they are known."""

    @property
    def example_shape(self) -> tuple[int, ...] | None:
        """The shape of an example, where it is known."""
        return self.image_shape

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
        if codec is not None:
            check_instance("codec", codec, Codec, "pass one, such as Pixels(256)")
        if noise is not None:
            hint = "pass GaussianNoise(0.1) or NoNoise(); UniformDequantization is a codec"
            check_instance("noise", noise, Noise, hint)
        self.transform = Composition(transforms)
        self.conditioners = self.transform.conditioners  # what reads the parts of a context
        self._check_conditioners(noise)
        self.base = base
        self.num_dims = math.prod(base.shape)  # of an example
        self.codec = codec if codec is None else codec.held()
        self.noise = noise
        self.description = description
        self.kind = type(self)  # which FSDP changes

    def dims(self, context: Context) -> int | Int[Tensor, " batch"]:
        """Number of dimensions of each example, or that of all where a context has no mask."""
        mask = context.get("mask")
        return self.num_dims if mask is None else mask.sum(dim=1) * self.base.shape[1]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class, where names are kept with the model; else none."""
        return getattr(self.description, "class_names", ())

    def noisy(
        self,
        stored: Shaped[Tensor, "batch ..."],
        source: RandomSource = None,
        dtype: torch.dtype = torch.float32,
    ) -> Examples:
        """Stored values as the data whose density this is: encoded, with the noise added.

        Where noise has many levels, `observe` tells them as well.
        """
        if self.codec is None or self.noise is None:
            raise ConfigurationError(UNKNOWN_DATA)
        return self.noise(self.codec.encode(stored, source, dtype), source)

    def observe(
        self,
        stored: Shaped[Tensor, "batch ..."],
        context: ContextLike = None,
        source: RandomSource = None,
        dtype: torch.dtype = torch.float32,
        noise: Noise | None = None,
    ) -> tuple[Examples, Context]:
        """Stored values as the data whose density this is, and what it is conditioned on.

        It keeps the parts of a context which this density knows, and adds what tells of the noise:
        the level of each example, where there are many.

        Args:
            stored: The values.
            context: What is known of them.
            source: Where all draws come from.
            dtype: That of the data.
            noise: What to add in place of the noise of training.
        """
        if self.codec is None or self.noise is None:
            raise ConfigurationError(UNKNOWN_DATA)
        clean = self.codec.encode(stored, source, dtype)
        x, told = (noise or self.noise).drawn(clean, source)
        known = self.known(Context.of(context, len(x), x.device))
        return x, known.updated(**told.parts)

    def held_out(
        self,
        stored: Shaped[Tensor, "batch ..."],
        context: ContextLike = None,
        source: RandomSource = None,
        dtype: torch.dtype = torch.float32,
        noise: Noise | None = None,
    ) -> tuple[Examples, Context]:
        """Stored values as `log_prob` judges them, which is as `observe` makes them."""
        return self.observe(stored, context, source, dtype, noise)

    def read_noise_std(self, noise_std: float | None) -> float:
        """A standard deviation that was given, or else that of the noise of this density's data.

        Raises:
            ConfigurationError: Neither is there, or it is infinite or negative.
        """
        if noise_std is not None:
            return GaussianNoise(noise_std).std
        if not isinstance(self.noise, GaussianNoise):
            raise ConfigurationError(
                f"this flow was trained with {self.noise}, not with Gaussian noise:"
                " pass noise_std, its standard deviation"
            )
        return self.noise.std

    def known(self, context: Context) -> Context:
        """The parts of a context that this flow is conditioned on."""
        return self.transform.known(context)

    def forward(self, x: Examples, context: ContextLike = None) -> tuple[Sequences, PerExample]:
        r"""Map data to noise; also return $\log |\det dz/dx|$ of each example, in nats."""
        self.check_data(x)
        return self.transform(x, self.read_context(context, x))

    def log_prob(self, x: Examples, context: ContextLike = None) -> PerExample:
        """Log-density of each example, in nats, summed over all dimensions.

        It works under `torch.func`, `torch.compile(fullgraph=True)` and `torch.export`, and never
        waits for the device: a density may be NaN or infinite, and is NaN where a tensor holds a
        label that the flow does not know. `check_finite` tells why.

        Take Hessians by `torch.func.hessian` or `jacrev`: torch's layer norm (2.15) is silently
        wrong in forward mode within forward mode.
        """
        return self.point_log_prob(x, context)

    def point_log_prob(self, x: Examples, context: ContextLike = None) -> PerExample:
        """Log-density of what the transforms map to noise: x itself, unless x stands for it."""
        self.check_data(x)
        context = self.read_context(context, x)
        z, log_det = self(x, context)
        return self.noise_log_prob(z, context) + log_det

    def noise_log_prob(self, z: Sequences, context: Context) -> PerExample:
        """Log-density of noise, of what a context says is there."""
        mask = context.get("mask")
        return self.base.log_prob(z) if mask is None else self.base.log_prob(z, mask)

    def score(
        self, x: Examples, context: ContextLike = None, *, create_graph: bool = False
    ) -> Examples:
        r"""The gradient $\nabla_x \log p(x)$ of each example.

        With `create_graph`, and under `torch.func`, it is itself differentiable, at the price of
        attention by products.
        """
        self.check_data(x)
        if create_graph or transformed():
            return torch.func.grad(lambda x: self.log_prob(x, context).sum())(x)
        # Clones, since what was made in inference mode takes no gradient.
        with torch.inference_mode(False), torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            context = self.read_context(context, x).map(torch.clone)
            return torch.autograd.grad(self.log_prob(x, context).sum(), x)[0]

    def check_data(self, x: Any, name: str = "x") -> None:
        """Refuse what is not a batch of this flow's examples; messages call it by the name.

        Raises:
            ConfigurationError: It is not a tensor, or of another dtype, shape or device.
        """
        check_tensor(name, x, self.example_shape, self.base.anchor.device)

    def check_finite(self, value: Tensor, x: Tensor, context: ContextLike = None) -> None:
        """Unless a value that was computed from x is finite, tell which transform is to blame.

        Raises:
            ContextError: The context is not one of this flow.
            NonFiniteError: The output of that transform, or the data, is not finite.
        """
        if value.isfinite().all():
            return
        index = self._find_non_finite(x, context)  # first: processes that share weights have to
        self.check_context(self.read_context(context, x))
        if index is None:
            raise NonFiniteError("the data is not finite: it holds NaN or infinity", None)
        raise NonFiniteError(f"the output of transform {index} is not finite", index)

    def _check_conditioners(self, noise: Noise | None) -> None:
        """Refuse noise that tells what no transform reads."""
        for each in noise.conditioners if noise else ():
            if each not in self.conditioners:
                raise ConfigurationError(
                    f"no transform reads {each.part}, which {noise} tells: give the transforms a"
                    f" {type(each).__name__}"
                )

    def check_complete(self, context: Context, examples: Tensor) -> None:
        """Refuse the context of some examples where a part is missing that has no null.

        Raises:
            ContextError: There is no density without it.
        """
        for conditioner in self.conditioners:
            if conditioner.part not in context:
                conditioner.null(examples)

    @torch.no_grad()
    def _find_non_finite(self, x: Examples, context: ContextLike) -> int | None:
        """Index of the first transform whose output is not finite; None if the data is not.

        Where every output is finite, but so large that its density is not, that is the last one.
        """
        finite: list[bool] = []

        def look(module: nn.Module, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
            finite.append(all(bool(part.isfinite().all()) for part in output))

        hooks = [each.register_forward_hook(look) for each in dict.fromkeys(self.transform)]
        try:
            self(x, context)  # as a whole, which gathers weights that are shared out
        finally:
            for hook in hooks:
                hook.remove()
        if not x.isfinite().all():
            return None
        return finite.index(False) if False in finite else len(finite) - 1
