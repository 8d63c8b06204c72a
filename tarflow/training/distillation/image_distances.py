"""Distances between images: what a student's images are compared by."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from tarflow.data.images import ImageData
from tarflow.flows.shapes import Examples, PerExample
from tarflow.registry import Part


class Distance(nn.Module, Part, ABC):
    """Compares images with targets; training minimizes it.

    Images are in the units of a codec, in which pixels lie in [-1, 1]. A distance is a sum over
    dimensions: a mean over other things, such as features, is times the number of dimensions, so
    that one weight serves images of all sizes.
    """

    @abstractmethod
    def forward(self, x: Examples, target: Examples) -> PerExample:
        """The distance of each image from its target; differentiable in both."""

    def fit(self, data: ImageData) -> None:
        """Learn what it needs from the training part of a data set, once, before it is used.

        Raises:
            ConfigurationError: It cannot be used on such images.
        """


class SquaredError(Distance):
    r"""$\sum_d (x_d - y_d)^2$."""

    def forward(self, x: Examples, target: Examples) -> PerExample:
        return (x - target).square().flatten(1).sum(dim=1)


class FeatureDistance(Distance):
    """Squared error of images, and the mean squared error of features of a network.

    Args:
        pixels: Factor of the squared error of images.
        features: Factor of the features' error.
    """

    def __init__(self, pixels: float = 1.0, features: float = 1.0):
        super().__init__()
        self.pixels, self.features = pixels, features

    @abstractmethod
    def maps(self, x: Examples) -> list[Tensor]:
        """Features of images, of each layer: differentiable."""

    def forward(self, x: Examples, target: Examples) -> PerExample:
        num_dims = x[0].numel()
        errors = [
            (a - b).square().flatten(1).mean(dim=1)
            for a, b in zip(self.maps(x), self.maps(target), strict=True)
        ]
        own = (x - target).square().flatten(1).sum(dim=1)
        return self.pixels * own + self.features * num_dims * sum(errors)
