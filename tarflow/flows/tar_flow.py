"""TarFlow: a Transformer autoregressive flow over images."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from tarflow.flows.affine import ExpScale, Scale
from tarflow.flows.codec import Codec
from tarflow.flows.conditioning import Conditioner
from tarflow.flows.first_position import FirstPosition, FixedFirst
from tarflow.flows.flow import Flow
from tarflow.flows.noise import Noise
from tarflow.flows.ordering import Alternating, Ordering
from tarflow.flows.stack import Each, EachLayer
from tarflow.flows.tar_flow_description import TarFlowDescription
from tarflow.flows.token_flow import TokenFlow
from tarflow.flows.vector_flow import VectorFlow
from tarflow.nn.layers import Layer, PreNorm
from tarflow.nn.norms import Norm
from tarflow.nn.positions import LearnedPositions, Positions


class TarFlow(Flow):
    """A Transformer autoregressive flow over images (arXiv 2412.06329).

    Numbers that say so may be a sequence of one for each transform, that nearest the data first:
    patches may differ in size, networks in width and depth.

    Args:
        image_size: Height and width of the images, or one number for both.
        patch_size: Side of a patch; one or each.
        num_channels: Number of channels of the images.
        num_transforms: Number of autoregressive transforms.
        num_layers: Number of transformer layers; one or each.
        model_dim: Width of the transformers; one or each.
        head_dim: Width of one attention head; it divides `model_dim`; one or each.
        expansion: Width of the MLP's hidden layer, in units of `model_dim`; one or each.
        dropout: Probability of dropping attention weights and MLP outputs; one or each.
        num_classes: Number of classes; 0 for a flow without labels.
        scale: How scales are parameterized; `UnitScale()` is the volume-preserving variant, whose
            base has a learned variance.
        ordering: In which order each transform reads the patches.
        layer: The kind of layer of the transformers.
        positions: How the transformers know where a patch stands, in a sequence or in the image.
        output_norm: The kind of norm before their last linear layers, if any.
        conditioners: Read parts of the context besides the label.
        codec: How stored images became the data whose density this is, kept with the model.
        noise: The noise that was added to the data, kept with the model: what `denoise` removes.
            With `NoiseLevels`, all transforms read the noise level.
        class_names: A name for each class, or none; kept with the model.
        conditioned: Whether a transform reads labels and whatever else training drops; one or
            each. Guidance passes over those that do not.
        networks: Which transforms share a network and embeddings: for each, the index of the
            first that uses them, as in (0, 1, 1, 1). Its sizes are the same for all of them, and
            rotary positions in the image are those in the order of the first.
        first: What the first position of each transform depends on: `StartToken()` gives it a
            learned start, and with that the context.
        num_heads: Number of heads, one for each layer of each transform, as in ((4, 2), (3, 4));
            by default as many as fill `model_dim`.
        hidden_dims: Width of the MLP's hidden layer, likewise, in place of `expansion`: what
            `tarflow compress` leaves.

    Example:
        >>> flow = TarFlow(image_size=8, patch_size=2, num_channels=1, model_dim=64, num_layers=1)
        >>> x = flow.sample(5)
        >>> x.shape, flow.log_prob(x).shape
        (torch.Size([5, 1, 8, 8]), torch.Size([5]))

    Raises:
        ValueError: The patches do not tile the image, or heads do not divide the width.
    """

    def __init__(
        self,
        image_size: int | tuple[int, int],
        patch_size: Each,
        num_channels: int = 3,
        num_transforms: int = 8,
        num_layers: Each = 8,
        model_dim: Each = 768,
        head_dim: Each = 64,
        expansion: Each = 4,
        dropout: float | Sequence[float] = 0.0,
        num_classes: int = 0,
        scale: Scale = ExpScale(),
        ordering: Ordering = Alternating(),
        layer: Layer = PreNorm(),
        positions: Positions = LearnedPositions(),
        output_norm: Norm | None = None,
        conditioners: Sequence[Conditioner] = (),
        codec: Codec | None = None,
        noise: Noise | None = None,
        class_names: Sequence[str] = (),
        conditioned: bool | Sequence[bool] = True,
        networks: Sequence[int] | None = None,
        first: FirstPosition = FixedFirst(),
        num_heads: EachLayer | None = None,
        hidden_dims: EachLayer | None = None,
    ):
        given = locals()
        names = [field.name for field in fields(TarFlowDescription)]
        description = TarFlowDescription(**{name: given[name] for name in names})
        super().__init__(description.transforms(), description.base(), codec, noise, description)
        self.image_shape = (description.num_channels, *description.image_size)  # pyright: ignore

    @staticmethod
    def for_tokens(length: int, token_dim: int, **options: Any) -> TokenFlow:
        """A flow of sequences of vectors: a `TokenFlow`, which tells the options.

        Args:
            length: Number of positions, those of padding included.
            token_dim: Size of the vector at each position.
            **options: See there.
        """
        return TokenFlow(length, token_dim, **options)

    @staticmethod
    def for_vectors(dim: int, **options: Any) -> VectorFlow:
        """A flow of vectors: a `VectorFlow`, which tells the options.

        Args:
            dim: Size of the vectors.
            **options: See there.
        """
        return VectorFlow(dim, **options)
