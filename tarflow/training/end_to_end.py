"""Training a flow together with the autoencoder whose latents it models."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from tarflow.arguments import check_instance, check_real, keep
from tarflow.data.images import ImageData
from tarflow.data.loading.batches import Batch
from tarflow.errors import ConfigurationError
from tarflow.flows.flow import Flow
from tarflow.flows.noise import GaussianNoise
from tarflow.flows.unit import nats_per_dim
from tarflow.randomness import RandomSource
from tarflow.tokenizers.tokenizer import Tokenizer
from tarflow.training.distillation.image_distances import Distance, SquaredError
from tarflow.training.objective import Loss, MaximumLikelihood
from tarflow.training.tokenization.tokenizer_objective import signal_to_noise


@dataclass(frozen=True)
class EndToEnd(MaximumLikelihood):
    r"""The likelihood of noisy latents, and how well they are decoded (arXiv 2512.04084).

    $$L = w \, D(g(x), y) - \log p(x), \quad x = e(y) + \sigma \epsilon$$

    of an image y with the flow's density p, a distance D of images and the tokenizer's encoder e
    and decoder g, all of which learn: the one noise keeps latents from shrinking to nothing, and
    the flow from asking for it. With the squared error and $w = 1 / (2 s^2)$ it bounds
    $-\log p(y)$ for pixels with errors of standard deviation s, but for constants, such as the
    entropy of the noise.

    Attributes:
        class_dropout: As for `MaximumLikelihood`, and so is `latent_penalty`.
        level_power: 0, since there is one level.
        reconstruction: Weight w of the distance.
        distance: D, a sum over dimensions, as `SquaredError` is.
    """

    name: ClassVar[str] = "loss"

    reconstruction: float = 50.0
    distance: Distance = field(default_factory=SquaredError)

    def __post_init__(self):
        super().__post_init__()
        keep(self, reconstruction=check_real("reconstruction", self.reconstruction))
        if not 0 < self.reconstruction < math.inf:
            raise ConfigurationError(
                f"reconstruction {self.reconstruction} must be finite and positive: nothing else"
                " keeps what is in an image in its latents"
            )
        check_instance("distance", self.distance, Distance, "pass one, such as SquaredError()")
        if self.level_power:
            raise ConfigurationError(f"level_power {self.level_power} must be 0: noise is of one")

    @property
    def distances(self) -> tuple[Distance, ...]:
        return (self.distance,)

    def named(self, flow: Flow) -> str:
        return self.name

    def start(self, flow: Flow) -> None:
        """Let the flow's tokenizer learn.

        Raises:
            ConfigurationError: It has none whose decoder removes the noise that it is trained
                with, or one whose latents are codes.
        """
        codec, noise = flow.codec, flow.noise
        if not (isinstance(codec, Tokenizer) and codec.decodes_noise) or codec.num_codes:
            raise ConfigurationError(
                "end-to-end training needs a tokenizer of continuous latents that decodes their"
                " noise: give tokenizer=RUN, of `tarflow train-tokenizer"
                " model/bottleneck=fixed_variance`"
            )
        std = codec.decodes_noise
        if not isinstance(noise, GaussianNoise) or noise.std != std:
            raise ConfigurationError(
                f"the tokenizer decodes latents with noise of standard deviation {std}, but the"
                f" flow is trained with {noise}: give noise=gaussian noise.std={std}"
            )
        codec.requires_grad_(True)

    def prepare(self, data: ImageData) -> None:
        codec: Any = data.codec
        if data.image_shape != codec.image_shape:
            raise ConfigurationError(
                f"{data.name} holds prepared latents, and end-to-end training changes how images"
                " are encoded: give the images, and tokenizer=RUN"
            )
        super().prepare(replace(data, codec=codec.pixels))

    def __call__(self, flow: Flow, batch: Batch, source: RandomSource) -> Loss:
        loss, codec = super().__call__(flow, batch, source), flow.codec
        assert isinstance(codec, Tokenizer)
        target = codec.pixels.encode(batch.x)
        images = codec.images(loss.x).to(target.dtype)
        logged = {
            **loss.logged,
            nats_per_dim(flow): loss.value / flow.num_dims,
            "psnr": signal_to_noise(images.detach(), target),
        }
        distance = self.distance(images, target)
        return replace(loss, value=loss.value + self.reconstruction * distance, logged=logged)

    def validate(
        self, flow: Flow, batch: Batch, source: RandomSource
    ) -> Mapping[str, Float[Tensor, " batch"]]:
        loss = replace(self, class_dropout=0.0)(flow, batch, source)
        flow.check_context(loss.context)
        return {self.name: loss.value / flow.num_dims, **loss.logged}
