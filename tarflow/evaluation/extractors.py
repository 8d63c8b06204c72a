"""Features of images, between which distances are measured."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tarflow.errors import TarflowError
from tarflow.evaluation.provenance import sha256_of
from tarflow.flows.codec import Codec, Stored
from tarflow.registry import Part


class UnavailableError(TarflowError):
    """A metric cannot be computed here; the others can."""


class Extractor(Part, ABC):
    """Maps images to vectors."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """All that the features depend on besides the images, for JSON."""

    @abstractmethod
    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Tell early whether this can be used on images of a shape.

        Raises:
            UnavailableError: It cannot.
        """

    @abstractmethod
    def __call__(self, stored: Stored, codec: Codec) -> Float[Tensor, "batch features"]:
        """Features of stored images, whose numbers the codec explains, on their device."""


@dataclass(frozen=True)
class PixelFeatures(Extractor):
    """The pixels themselves: for images so small that their covariance means something.

    Attributes:
        max_dims: Number of dimensions of the largest images.
    """

    max_dims: int = 1024

    @property
    def identity(self) -> dict[str, Any]:
        return {"extractor": "pixels"}

    def check(self, image_shape: tuple[int, int, int]) -> None:
        dims = prod(image_shape)
        if dims > self.max_dims:
            raise UnavailableError(f"{dims} pixels are more than max_dims={self.max_dims}")

    def __call__(self, stored: Stored, codec: Codec) -> Float[Tensor, "batch features"]:
        return stored.flatten(1).float()


@dataclass(frozen=True)
class Inception(Extractor):
    """The 2,048 features of the Inception network of 2015, by which FIDs are published.

    As for the published numbers of TarFlow: images are resized without antialias, as TensorFlow
    1 did, and are bytes that were rounded. Nothing is downloaded. Needs `tarflow[inception]`.

    Attributes:
        weights: The file of the weights, as torch-fidelity publishes it; docs/evaluation.md tells
            where it comes from.
        sha256: How the file's SHA-256 begins.
    """

    weights: str = "~/.cache/tarflow/weights-inception-2015-12-05-6726825d.pth"
    sha256: str = "6726825d"

    @property
    def path(self) -> Path:
        """The file of the weights."""
        return Path(self.weights).expanduser()

    @property
    def identity(self) -> dict[str, Any]:
        return {"extractor": "inception", "sha256": sha256_of(self.path), "antialias": False}

    def check(self, image_shape: tuple[int, int, int]) -> None:
        if image_shape[0] not in (1, 3):
            raise UnavailableError(f"{image_shape[0]} channels are neither grey nor colour")
        path = self.path
        if not path.is_file():
            raise UnavailableError(f"there are no weights at {path}")
        found = sha256_of(path)
        if not self.sha256 or not found.startswith(self.sha256):
            raise UnavailableError(
                f"the SHA-256 of {path} is {found}, but the published file's begins with"
                f" {self.sha256}"
            )
        try:
            torch.load(path, weights_only=True)  # torch-fidelity would run a pickle's code
        except Exception as error:  # damage shows in many ways
            raise UnavailableError(f"{path} does not hold weights: {error}") from error
        try:
            import torch_fidelity  # noqa: F401
        except ImportError as error:
            raise UnavailableError("pip install 'tarflow[inception]'") from error

    def __call__(self, stored: Stored, codec: Codec) -> Float[Tensor, "batch features"]:
        pixels = codec.to_bytes(stored)
        network = self._network.to(pixels.device)
        with torch.no_grad():
            return network(pixels.expand(-1, 3, -1, -1)).float()

    @cached_property
    def _network(self) -> Any:
        """The network, loaded once."""
        from torchmetrics.image.fid import NoTrainInceptionV3

        return NoTrainInceptionV3("inception-v3-compat", ["2048"], str(self.path), antialias=False)
