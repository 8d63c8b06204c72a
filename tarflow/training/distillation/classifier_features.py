"""A perceptual distance without a network from elsewhere: a classifier of the data's labels."""

import logging
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tarflow.arguments import check_integer
from tarflow.data.images import ImageData
from tarflow.data.loading.batches import UNREADABLE
from tarflow.data.loading.reading import ReadAhead
from tarflow.errors import ConfigurationError
from tarflow.flows.shapes import Examples
from tarflow.training.distillation.image_distances import FeatureDistance
from tarflow.training.distillation.unlearned import constant

log = logging.getLogger(__name__)


class SmallClassifier(nn.Module):
    """Three convolutions, each with half the resolution of that before, and a linear layer."""

    def __init__(self, num_channels: int, num_classes: int, width: int):
        super().__init__()
        widths = (num_channels, width, 2 * width, 4 * width)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=1 if i == 0 else 2, padding=1)
            for i, (a, b) in enumerate(pairwise(widths))
        )
        self.linear = nn.Linear(widths[-1], num_classes)

    def maps(self, x: Examples) -> list[Float[Tensor, "batch channels height width"]]:
        """What every convolution finds."""
        found = []
        for convolution in self.convolutions:
            x = F.gelu(convolution(x))
            found.append(x)
        return found

    def forward(self, x: Examples) -> Float[Tensor, "batch num_classes"]:
        """The logits of the classes."""
        return self.linear(self.maps(x)[-1].mean(dim=(2, 3)))


@dataclass(frozen=True)
class Labelled:
    """Images, and their labels."""

    x: Examples
    label: Int[Tensor, " batch"]


class ClassifierFeatures(FeatureDistance):
    """Compares images by the features of a small classifier, beside their squared error.

    `fit` trains it on the labels of the training part, a few seconds on digits, on images with
    noise of various strength. Features of every place are brought to unit mean square first, so
    that strong ones do not drown the others (as in arXiv 1801.03924).

    Args:
        pixels: Factor of the squared error of images.
        features: Factor of the features' mean squared error, times the number of dimensions.
        width: Channels of the first convolution; the others have two and four times as many.
        steps: Number of training steps.
        batch_size: Images in each.
        max_images: Number of training images that it learns from at most.
        noise_std: The largest standard deviation of the noise.
        seed: Of weights, batches and noise.
    """

    network: SmallClassifier | None

    def __init__(
        self,
        pixels: float = 1.0,
        features: float = 1.0,
        width: int = 32,
        steps: int = 300,
        batch_size: int = 128,
        max_images: int = 20_000,
        noise_std: float = 0.3,
        seed: int = 0,
    ):
        super().__init__(pixels, features)
        self.width = check_integer("width", width, least=1)
        self.steps = check_integer("steps", steps, least=1)
        self.batch_size = check_integer("batch_size", batch_size, least=1)
        self.max_images = check_integer("max_images", max_images, least=1)
        self.noise_std = noise_std
        self.seed = check_integer("seed", seed)
        self.network = None
        self.accuracy = float("nan")

    def maps(self, x: Examples) -> list[Tensor]:
        if self.network is None:
            raise ConfigurationError("the classifier is not trained: call fit(data) first")
        maps: list[Tensor] = self.network.maps(x)
        return [F.normalize(each, dim=1) * each.shape[1] ** 0.5 for each in maps]

    def fit(self, data: ImageData) -> None:
        """Train the classifier; once, whatever else is drawn meanwhile."""
        if self.network is not None:
            return
        if data.num_classes < 2:
            raise ConfigurationError(
                f"{data.name} has {data.num_classes} classes, and a classifier needs two: choose"
                " another distance, such as SquaredError()"
            )
        with torch.random.fork_rng([]), torch.inference_mode(False), torch.enable_grad():
            torch.manual_seed(self.seed)
            made = SmallClassifier(data.image_shape[0], data.num_classes, self.width)
            self._train(made, self._read(data, data.train))
        self.network = constant(made)
        self._tell(data)

    @torch.no_grad()
    def _tell(self, data: ImageData) -> None:
        """Log how often the classifier is right on what was set aside."""
        part = data.train if data.validation is None else data.validation
        held = self._read(data, part)
        assert self.network is not None
        right = self.network(held.x).argmax(dim=1) == held.label
        self.accuracy = float(right.float().mean())
        name = "training" if data.validation is None else "validation"
        log.info("a classifier for distances: accuracy %.3f on %s images", self.accuracy, name)

    def _train(self, network: SmallClassifier, images: Labelled) -> None:
        """Train on noisy images, at a rate that falls to nothing."""
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        for _ in range(self.steps):
            rows = torch.randint(len(images.x), (self.batch_size,))
            x = images.x[rows]
            std = self.noise_std * torch.rand(len(x), 1, 1, 1)
            logits = network(x + std * torch.randn_like(x))
            optimizer.zero_grad()
            F.cross_entropy(logits, images.label[rows]).backward()
            optimizer.step()
            schedule.step()

    def _read(self, data: ImageData, part: object) -> Labelled:
        """The first images of a part that have a label."""
        count = min(len(part), self.max_images)  # pyright: ignore[reportArgumentType]
        batch = ReadAhead(part)(range(count))
        label = batch.context.label
        if label is None:
            raise ConfigurationError(f"{data.name} has no labels: choose another distance")
        kept = (batch.index != UNREADABLE) & (label >= 0)
        source = torch.Generator().manual_seed(self.seed)
        return Labelled(data.codec.encode(batch.x[kept], source), label[kept])
