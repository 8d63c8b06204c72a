"""The autoregressive transform: a causal transformer that predicts an affine map per position."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tarflow.affine import Affine, Scale
from tarflow.context import Context
from tarflow.decoding import Decoding
from tarflow.guidance import Guidance
from tarflow.nn.attention import DifferentiableKVCache, KVCache, Window
from tarflow.nn.embedding import LabelEmbedding
from tarflow.nn.transformer import CausalTransformer
from tarflow.transforms import Transform


class AutoregressiveTransform(Transform):
    r"""$z_i = (x_i - \mu_i) \exp(-\alpha_i)$ with $(\alpha_i, \mu_i)$ a function of $x_{<i}$.

    The first position is left as it is. The Jacobian is triangular, so the log-determinant is
    $-\sum_i \alpha_i$ (arXiv 2412.06329, section 2).

    Args:
        network: Its output at position i parameterizes position i + 1.
        scale: How the network's output becomes an affine map.
        label_embedding: Embeds the context's label, for a flow with classes.
    """

    num_decoded = 1

    def __init__(
        self,
        network: CausalTransformer,
        scale: Scale,
        label_embedding: LabelEmbedding | None = None,
    ):
        super().__init__()
        self.network = network
        self.scale = scale
        self.label_embedding = label_embedding

    def forward(
        self, x: Float[Tensor, "batch length patch_dim"], context: Context
    ) -> tuple[Float[Tensor, "batch length patch_dim"], Float[Tensor, " batch"]]:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        condition = self.condition(context, len(x))
        window = Window(temperature=context.temperature)
        raw = self.network(x[:, :-1], condition, window).to(x.dtype)
        affine = self.scale.affine(raw).after_first()
        return affine.to_noise(x), affine.log_det

    def inverse(
        self, z: Float[Tensor, "batch length patch_dim"], context: Context, decoding: Decoding
    ) -> Float[Tensor, "batch length patch_dim"]:
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        guidance = decoding.active_guidance
        if guidance is None:
            predict = Prediction.start(self, context, len(z), z.dtype)
        else:
            stacked = context.with_null(z, guidance.temperature)
            unguided = Prediction.start(self, stacked, 2 * len(z), z.dtype)
            predict = GuidedPrediction(unguided, guidance, z.shape[1])
        return decoding.decoder(predict, z)

    def condition(self, context: Context, batch: int) -> Float[Tensor, "batch model_dim"] | None:
        """What the network adds at every position."""
        if self.label_embedding is None:
            return None
        label = context.label
        if label is None:
            label = torch.full((batch,), -1, device=self.label_embedding.weight.device)
        return self.label_embedding(label)


@dataclass(frozen=True)
class Prediction:
    """One transform's prediction during decoding, with all that stays the same between steps."""

    transform: AutoregressiveTransform
    condition: Float[Tensor, "batch model_dim"] | None
    temperature: Float[Tensor, " batch"] | None
    cache: KVCache
    dtype: torch.dtype

    @classmethod
    def start(
        cls, transform: AutoregressiveTransform, context: Context, batch: int, dtype: torch.dtype
    ) -> "Prediction":
        """Embed the context and make an empty cache."""
        network = transform.network
        cache_type = DifferentiableKVCache if torch.is_grad_enabled() else KVCache
        return cls(
            transform,
            transform.condition(context, batch),
            context.temperature,
            cache_type(len(network.blocks), network.length),
            dtype,
        )

    def __call__(self, x: Float[Tensor, "batch window patch_dim"], start: int) -> Affine:
        """Predict the maps of positions `start + 1 ...` from the values before them."""
        network = self.transform.network
        window = Window(start, self.cache, self.temperature)
        raw = network(x, self.condition, window)
        return self.transform.scale.affine(raw.to(self.dtype))


@dataclass(frozen=True)
class GuidedPrediction:
    """Conditional and null prediction as one batch of twice the size, combined by a rule."""

    prediction: Prediction
    guidance: Guidance
    length: int

    def __call__(self, x: Float[Tensor, "batch window patch_dim"], start: int) -> Affine:
        """Predict twice and combine."""
        both = self.prediction(torch.cat([x, x]), start)
        (log_scale, null_log_scale) = both.log_scale.chunk(2)
        (shift, null_shift) = both.shift.chunk(2)
        position = torch.arange(start + 1, start + 1 + x.shape[1], device=x.device)
        return self.guidance(
            Affine(log_scale, shift), Affine(null_log_scale, null_shift), position, self.length
        )
