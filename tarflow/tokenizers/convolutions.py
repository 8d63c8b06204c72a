"""Small convolutional networks that map images to fewer positions, and back."""

from jaxtyping import Float
from torch import Tensor, nn

NUM_GROUPS = 8
"""Number of groups of channels that are normalized together."""

Maps = Float[Tensor, "batch channels height width"]


class ResidualBlock(nn.Module):
    """Adds to its input what two convolutions make of it; the identity at first."""

    def __init__(self, channels: int):
        super().__init__()
        first, last = _normed(channels, channels), _normed(channels, channels)
        for parameter in last[-1].parameters():
            nn.init.zeros_(parameter)
        self.layers = nn.Sequential(*first, *last)

    def forward(self, x: Maps) -> Maps:
        return x + self.layers(x)


def convolutional_encoder(
    num_channels: int, num_outputs: int, widths: list[int], num_blocks: int
) -> nn.Sequential:
    """Halves height and width for each of the widths; blocks work on what was halved."""
    layers: list[nn.Module] = []
    for before, width in zip([num_channels, *widths], widths, strict=False):
        layers += [nn.Conv2d(before, width, 4, stride=2, padding=1)]
        layers += [ResidualBlock(width) for _ in range(num_blocks)]
    return nn.Sequential(*layers, *_normed(widths[-1], num_outputs))


def convolutional_decoder(
    num_inputs: int, num_channels: int, widths: list[int], num_blocks: int
) -> nn.Sequential:
    """Doubles height and width for each of the widths, the last of which comes first."""
    layers: list[nn.Module] = [nn.Conv2d(num_inputs, widths[-1], 3, padding=1)]
    for width, after in zip(widths[::-1], [*widths[-2::-1], 0], strict=True):
        layers += [ResidualBlock(width) for _ in range(num_blocks)]
        if after:
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, after, 3, padding=1)]
    norm, bent, convolution = _normed(widths[0], num_channels)
    return nn.Sequential(*layers, norm, bent, nn.Upsample(scale_factor=2), convolution)


def _normed(before: int, after: int) -> tuple[nn.GroupNorm, nn.SiLU, nn.Conv2d]:
    """A convolution, and what it is applied to: normalized groups of channels, bent."""
    return nn.GroupNorm(NUM_GROUPS, before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1)
