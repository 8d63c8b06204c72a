"""TarFlow: a Transformer autoregressive flow over images."""

from pathlib import Path
from typing import Any

import torch

from tarflow.arguments import check_instance, check_integer, check_real, check_size
from tarflow.errors import CheckpointError, ConfigurationError
from tarflow.flows import checkpoint
from tarflow.flows.affine import ExpScale, Scale, UnitScale
from tarflow.flows.autoregressive import AutoregressiveTransform
from tarflow.flows.base import DiagonalNormal, StandardNormal
from tarflow.flows.flow import Flow
from tarflow.flows.noise import Noise
from tarflow.flows.transforms import Patchify, Reverse, Transform
from tarflow.nn.embedding import LabelEmbedding
from tarflow.nn.transformer import CausalTransformer

COUNTS = ("num_channels", "num_transforms", "num_layers", "model_dim", "head_dim", "expansion")


class TarFlow(Flow):
    """A Transformer autoregressive flow over images (arXiv 2412.06329).

    The transforms are a `Patchify`, then autoregressive transforms with a `Reverse` between any
    two, and a last `Reverse` where the noise would otherwise not be in raster order.

    Args:
        image_size: Height and width of the images, or one number for both.
        patch_size: Side of a patch.
        num_channels: Number of channels of the images.
        num_transforms: Number of autoregressive transforms.
        num_layers: Number of transformer layers in each.
        model_dim: Width of the transformers.
        head_dim: Width of one attention head; it divides `model_dim`.
        expansion: Width of the MLP's hidden layer, in units of `model_dim`.
        dropout: Probability of dropping attention weights and MLP outputs in training.
        num_classes: Number of classes; 0 for an unconditional flow.
        scale: How scales are parameterized; `UnitScale()` is the volume-preserving variant, whose
            base has a learned variance.
        noise: The noise that was added to the data, kept with the model: what `denoise` removes.

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
        patch_size: int,
        num_channels: int = 3,
        num_transforms: int = 8,
        num_layers: int = 8,
        model_dim: int = 768,
        head_dim: int = 64,
        expansion: int = 4,
        dropout: float = 0.0,
        num_classes: int = 0,
        scale: Scale = ExpScale(),
        noise: Noise | None = None,
    ):
        height, width = check_size("image_size", image_size)
        config = {
            "image_size": (height, width),
            "patch_size": patch_size,
            "num_channels": num_channels,
            "num_transforms": num_transforms,
            "num_layers": num_layers,
            "model_dim": model_dim,
            "head_dim": head_dim,
            "expansion": expansion,
            "dropout": dropout,
            "num_classes": num_classes,
            "scale": scale,
            "noise": noise,
        }
        _check_counts(config)
        patchify = Patchify((height, width), patch_size)
        shape = (patchify.length, num_channels * patch_size**2)
        transforms: list[Transform] = [patchify]
        for index in range(num_transforms):
            transforms.append(_autoregressive(config, *shape))
            if index < num_transforms - 1 or num_transforms % 2 == 0:
                transforms.append(Reverse())
        base_type = DiagonalNormal if isinstance(scale, UnitScale) else StandardNormal
        super().__init__(transforms, base_type(*shape), num_classes, noise)
        self.image_shape = (num_channels, height, width)
        self.config = config

    def save_pretrained(self, directory: Path | str) -> None:
        """Write `config.json` and `model.safetensors`, from which `from_pretrained` reads.

        Args:
            directory: The folder; made if need be. A failure leaves what was there before.
        """
        checkpoint.save(directory, self.config, self.state_dict())

    @classmethod
    def from_pretrained(cls, directory: Path | str) -> "TarFlow":
        """Read a folder written by `save_pretrained`: on the CPU, in the dtype of the weights.

        Nothing is downloaded, and no code that came with the folder is run.

        Raises:
            CheckpointError: The folder is missing, damaged, or does not fit together.
        """
        config = checkpoint.read_config(directory)
        weights = checkpoint.read_weights(directory)
        _check_extent(config, len(weights), directory)
        try:
            with torch.device("meta"):  # what does not fit might not fit the memory either
                outline = cls(**config)
        except (TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
            raise CheckpointError(f"{directory}: cannot make the model: {error}") from error
        checkpoint.check_weights(outline.state_dict(), weights, directory)
        flow = cls(**config)
        dtypes = {value.dtype for value in weights.values() if value.is_floating_point()}
        if len(dtypes) == 1:
            flow.to(dtypes.pop())
        checkpoint.load_weights(flow, weights, directory)
        return flow.eval()


def _check_counts(config: dict[str, Any]) -> None:
    """Refuse sizes below one, and what is of another kind."""
    for name in ("patch_size", *COUNTS):
        check_integer(name, config[name], least=1)
    check_integer("num_classes", config["num_classes"], least=0)
    check_real("dropout", config["dropout"])
    if not 0 <= config["dropout"] < 1:
        raise ConfigurationError(f"dropout {config['dropout']} is out of range: 0 <= dropout < 1")
    check_instance("scale", config["scale"], Scale, "pass one, such as ExpScale()")
    if config["noise"] is not None:
        check_instance("noise", config["noise"], Noise, "pass one, such as GaussianNoise(std=0.1)")


def _check_extent(config: dict[str, Any], num_weights: int, directory: Path | str) -> None:
    """Refuse a damaged number of layers, which would take forever to make."""
    extent = 1
    for name in ("num_transforms", "num_layers"):
        extent *= config[name] if isinstance(config.get(name), int) else 1
        if extent > num_weights:
            raise CheckpointError(
                f"{directory}: {name} {config[name]} does not fit {num_weights} tensors of weights"
            )


def _autoregressive(
    config: dict[str, Any], length: int, patch_dim: int
) -> AutoregressiveTransform:
    """One of the flow's transforms, with a transformer of its own."""
    network = CausalTransformer(
        in_features=patch_dim,
        out_features=config["scale"].num_outputs * patch_dim,
        length=length,
        model_dim=config["model_dim"],
        num_layers=config["num_layers"],
        head_dim=config["head_dim"],
        expansion=config["expansion"],
        dropout=config["dropout"],
    )
    embedding = None
    if config["num_classes"]:
        embedding = LabelEmbedding(config["num_classes"], config["model_dim"])
    return AutoregressiveTransform(network, config["scale"], embedding)
