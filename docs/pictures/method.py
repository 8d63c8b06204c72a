"""Draws docs/images/method_*.png with a flow of digits: what each part of the method does.

From the root of a checkout:
`python docs/pictures/method.py outputs/digits_samples/seed_0/pretrained`
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import torch
from PIL import Image
from torch import Tensor

from tarflow import Context, ExampleSeeds, LinearGuidance, Pixels, TarFlow, denoise
from tarflow.data import digits, read_batch
from tarflow.flows.autoregressive import AutoregressiveTransform
from tarflow.flows.reordering import Reverse
from tarflow.flows.transforms import Patchify
from tarflow.sampling.pictures import beside, grid

matplotlib.use("Agg")
import matplotlib.pyplot as plt

IMAGES = Path(__file__).parents[1] / "images"
NUM_ROWS = 8
WEIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0)
SIDE = 460
"""Width of the picture of a state."""


def states(flow: TarFlow, z: Tensor, label: Tensor) -> Iterator[Tensor]:
    """The noise, and what each transform makes of it on the way to data, as images."""
    patchify = flow.transform[0]
    assert isinstance(patchify, Patchify)
    reversed_order = False
    yield patchify.restore(z)
    for transform in reversed(list(flow.transform)[1:]):
        z = transform.inverse(z, Context(label=label)).x
        if isinstance(transform, Reverse):
            reversed_order = not reversed_order
        else:
            yield patchify.restore(z.flip(1) if reversed_order else z)


def shades(x: Tensor, limit: float = 1.0) -> Tensor:
    """Bytes for numbers from -limit (black) to limit (white)."""
    return Pixels().decode(x / limit)


def _column(x: Tensor, limit: float) -> Image.Image:
    """Images below each other."""
    return grid(shades(x, limit), 1, 110)


@torch.no_grad()
def draw_states(flow: TarFlow, images: Path) -> None:
    """What each transform does to a digit between noise and image."""
    label = torch.arange(NUM_ROWS)
    z = flow.base.sample(NUM_ROWS, ExampleSeeds(0, range(NUM_ROWS)))
    *before, x = states(flow, z, label)
    pictures = {f"x{k}" if k else "noise z": _column(each, 2) for k, each in enumerate(before)}
    pictures[f"x{len(before)} = x"] = _column(x, 1)
    pictures["denoised"] = _column(denoise(flow, x, label), 1)
    beside(pictures).save(images / "method_states.png", optimize=True)


@torch.no_grad()
def log_scales(flow: TarFlow, x: Tensor, label: Tensor) -> Iterator[Tensor]:
    """The log-scales of each autoregressive transform, data first, in the order of the image."""
    patchify, context, reversed_order = flow.transform[0], Context(label=label), False
    assert isinstance(patchify, Patchify)
    for transform in flow.transform:
        if isinstance(transform, AutoregressiveTransform):
            affine = transform.predict(transform.network, context, x)(x[:, :-1], 0).after_first()
            log_scale = affine.log_scale
            yield patchify.restore(log_scale.flip(1) if reversed_order else log_scale)
        reversed_order ^= isinstance(transform, Reverse)
        x = transform(x, context)[0]


def held_out(flow: TarFlow) -> tuple[Tensor, Tensor]:
    """All held-out digits, as the flow knows them, and their labels."""
    test = digits().test
    batch = read_batch(test, range(len(test)))  # pyright: ignore[reportArgumentType]
    generator = torch.Generator().manual_seed(0)
    return flow.noisy(batch.x, generator), batch.context["label"]


def draw_gains(flow: TarFlow, images: Path) -> None:
    """Where log-density is gained: a map for each transform, and their sums."""
    maps = [-each.mean(dim=(0, 1)).numpy() for each in log_scales(flow, *held_out(flow))]
    total, largest = len(maps), max(abs(each).max() for each in maps)
    figure, axes = plt.subplots(1, total + 1, figsize=(2.1 * total + 3.4, 2.7), dpi=100)
    for index, (axis, gain) in enumerate(zip(axes, maps, strict=False)):
        shown = axis.imshow(gain, cmap="RdBu", vmin=-largest, vmax=largest)
        axis.set(title=f"transform {index}", xticks=[], yticks=[])
    figure.colorbar(shown, ax=axes[:-1], shrink=0.75, label="nats per pixel")
    sums = [float(each.sum()) for each in maps]
    bars = axes[-1].bar(range(total), sums, color="#2a788e")
    axes[-1].bar_label(bars, fmt="%.0f")
    axes[-1].set(title="nats per image", xlabel="transform", xticks=range(total))
    axes[-1].margins(y=0.15)
    axes[-1].spines[["top", "right"]].set_visible(False)
    figure.savefig(images / "method_gains.png", bbox_inches="tight")
    plt.close(figure)
    print("log-determinants, nats per image:", [round(value, 1) for value in sums])


def draw_guidance(flow: TarFlow, images: Path) -> None:
    """The same noise at rising guidance weights."""
    label = torch.arange(10).repeat_interleave(4)
    seeds = ExampleSeeds(1, range(len(label)))
    pictures = {}
    for weight in WEIGHTS:
        x = flow.sample(len(label), label, source=seeds, guidance=LinearGuidance(weight))
        clean = denoise(flow, x, label)
        pictures[f"w = {weight:g}"] = grid(shades(clean), 4, 140)
        moved = float((clean - x).square().mean().sqrt())
        print(f"w = {weight:g}: deviation {float(x.std()):.3f}, denoising moves {moved:.3f}")
    beside(pictures).save(images / "method_guidance.png", optimize=True)


def draw_denoising(flow: TarFlow, images: Path) -> None:
    """Samples before and after denoising, and what was taken away."""
    label = torch.arange(10).repeat_interleave(5)
    x = flow.sample(len(label), label, source=ExampleSeeds(2, range(len(label))))
    clean = denoise(flow, x, label)
    print(f"denoising takes away an RMS of {float((x - clean).square().mean().sqrt()):.3f}")
    pictures = {
        "as drawn": grid(shades(x), 10, SIDE),
        "denoised": grid(shades(clean), 10, SIDE),
        "what was removed, times 4": grid(shades(4 * (x - clean)), 10, SIDE),
    }
    beside(pictures).save(images / "method_denoising.png", optimize=True)


def main(pretrained: str, images: Path = IMAGES) -> None:
    """Draw all of them."""
    flow = TarFlow.from_pretrained(pretrained)
    for draw in (draw_states, draw_gains, draw_guidance, draw_denoising):
        draw(flow, images)


if __name__ == "__main__":
    main(sys.argv[1])
