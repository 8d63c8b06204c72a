"""A perceptual distance, by the features of a network that is given."""

import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tarflow.arguments import shown
from tarflow.data.images import ImageData
from tarflow.errors import ConfigurationError
from tarflow.flows.shapes import Examples
from tarflow.training.distillation.image_distances import FeatureDistance
from tarflow.training.distillation.unlearned import Unlearned


class NetworkFeatures(FeatureDistance):
    """Compares images by the features of a network of yours, beside their squared error.

    The network maps images in the units of the codec, pixels in [-1, 1], to a tensor of features
    with one row for each image, or to a list of such. It is in a file of TorchScript
    (`torch.jit.save`) or of `torch.export` with a dynamic batch. Such a file holds a program,
    which is run: use only files that you trust.

    Args:
        path: The file.
        pixels: Factor of the squared error of images.
        features: Factor of the features' mean squared error, times the number of dimensions.

    Raises:
        ConfigurationError: The file is missing, or holds no such network.
    """

    def __init__(self, path: str | Path, pixels: float = 1.0, features: float = 1.0):
        super().__init__(pixels, features)
        self.path = Path(path).expanduser()
        self.unlearned = Unlearned(_read(self.path))

    def maps(self, x: Examples) -> list[Tensor]:
        network = self.unlearned.module
        given = network(x.to(next(network.parameters(), x).dtype))
        listed = [given] if isinstance(given, Tensor) else list(given)
        if not listed or any(not isinstance(f, Tensor) or len(f) != len(x) for f in listed):
            raise ConfigurationError(
                f"the network in {self.path} maps {len(x)} images to {shown(given)}: let it return"
                " a tensor, or a list of them, with a row for each image"
            )
        return listed

    def fit(self, data: ImageData) -> None:
        """Find out whether the network takes such images, in batches of any size."""
        for count in (2, 3):
            x = torch.zeros(count, *data.image_shape, requires_grad=True)
            try:
                maps = self.maps(x)
            except (RuntimeError, TypeError, AssertionError) as error:  # of whatever is inside
                raise ConfigurationError(
                    f"the network in {self.path} does not take {count} images of shape"
                    f" {data.image_shape}: {error}. Save it with a dynamic batch"
                ) from error
            if not any(each.requires_grad for each in maps):
                raise ConfigurationError(
                    f"the network in {self.path} gives no gradient to its images: save it without"
                    " torch.no_grad()"
                )


def _read(path: Path) -> nn.Module:
    """The network of a file, frozen."""
    if not path.is_file():
        raise ConfigurationError(f"there is no file {path}: give one of TorchScript or of export")
    if not zipfile.is_zipfile(path):
        raise ConfigurationError(
            f"{path} is neither TorchScript nor a file of torch.export: save the network with"
            " torch.jit.save or torch.export.save"
        )
    try:
        network = _load(path)
    except Exception as error:  # damage shows in many ways
        raise ConfigurationError(f"{path} cannot be read as a network: {error}") from error
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network


def _load(path: Path) -> Any:
    """TorchScript, or else an exported program."""
    with zipfile.ZipFile(path) as archive:
        is_script = any(name.endswith("/constants.pkl") for name in archive.namelist())
    if not is_script:
        with path.open("rb") as file:
            return torch.export.load(file).module()
    with warnings.catch_warnings():  # torch deprecates it; files of it are still about
        warnings.simplefilter("ignore", FutureWarning)
        return torch.jit.load(path, map_location="cpu").eval()
