"""Draws docs/images/interpolation.png and docs/images/inpainting.png with a flow of digits.

From the root of a checkout:
`python docs/pictures/editing.py outputs/digits_samples/seed_0/pretrained`
"""

import sys
from pathlib import Path

import torch
from PIL import Image
from rich.progress import track
from torch import Tensor

from tarflow import ExampleSeeds, Pixels, TarFlow, denoise
from tarflow.data import digits, read_batch
from tarflow.editing import inpaint, interpolate
from tarflow.sampling.pictures import beside, grid

IMAGES = Path(__file__).parents[1] / "images"
NUM_STEPS = 9
NUM_COMPLETIONS = 4
HIDDEN_COLOR = (4, 6, 9)  # of 0 ... 16 in red, green and blue: no grey that a digit has


def held_out(turn: int) -> tuple[Tensor, Tensor]:
    """One held-out image of each class, and their labels."""
    test = digits().test
    pixels, context, _ = read_batch(test, range(len(test)))  # pyright: ignore[reportArgumentType]
    of_class = [pixels[context["label"] == label] for label in range(10)]
    return torch.stack([images[turn] for images in of_class]), torch.arange(10)


def noisy(flow: TarFlow, pixels: Tensor, seed: int) -> Tensor:
    """Images as the flow knows them."""
    return flow.noisy(pixels, torch.Generator().manual_seed(seed))


def shown(flow: TarFlow, x: Tensor, label: Tensor) -> Tensor:
    """Pixels of denoised images."""
    return flow.codec.decode(denoise(flow, x, label))  # pyright: ignore


def panel(pixels: Tensor, num_columns: int, min_side: int) -> Image.Image:
    """Digits, or digits in colour, as a picture."""
    return grid(Pixels(17).to_bytes(pixels), num_columns, min_side)


def draw_interpolation(flow: TarFlow) -> None:
    """Paths within a class, and from each class to the next."""
    (first, y), (second, _) = held_out(0), held_out(1)
    ends = noisy(flow, first, 0), noisy(flow, second, 1)
    no_label = torch.full_like(y, -1)
    panels = {
        "between held-out images of a class, denoised": (ends[1], y),
        "to the next class, without a label, denoised": (ends[0].roll(-1, 0), no_label),
    }
    pictures = {}
    for title, (target, label) in panels.items():
        path = interpolate(flow, ends[0], target, NUM_STEPS, label).flatten(0, 1)
        pixels = shown(flow, path, label.repeat_interleave(NUM_STEPS))
        pictures[title] = panel(pixels, NUM_STEPS, 540)
    beside(pictures).save(IMAGES / "interpolation.png", optimize=True)


def masks() -> Tensor:
    """What is observed of each of ten digits: a half, or all but the centre."""
    mask = torch.ones(10, 1, 8, 8, dtype=torch.bool)
    mask[0::3, :, 4:, :] = False
    mask[1::3, :, :, 4:] = False
    mask[2::3, :, 2:6, 1:7] = False
    return mask


def draw_inpainting(flow: TarFlow) -> None:
    """Digits, what is observed of them, and draws of the rest with and without their class."""
    (pixels, y), mask = held_out(0), masks()
    label = torch.cat([y, torch.full_like(y, -1)]).repeat_interleave(NUM_COMPLETIONS)
    rows = [v.repeat(2, 1, 1, 1).repeat_interleave(NUM_COMPLETIONS, 0) for v in (pixels, mask)]
    x = noisy(flow, pixels, 0).repeat(2, 1, 1, 1).repeat_interleave(NUM_COMPLETIONS, 0)
    seeds = ExampleSeeds(0, range(len(x)))
    result = inpaint(flow, x, rows[1], label, source=seeds, progress=track)
    for name in ("acceptance_rate", "step_size", "rms_deviation"):
        value = getattr(result, name)
        print(f"{name:16} {value.mean():.3f}, {value.min():.3f} ... {value.max():.3f}")
    given, free = shown(flow, result.x, label).chunk(2)
    hidden = torch.tensor(HIDDEN_COLOR, dtype=torch.uint8).view(3, 1, 1)
    pictures = {
        "held-out": panel(pixels, 1, 70),
        "observed": panel(torch.where(mask, pixels, hidden), 1, 70),
        "drawn given the class": panel(given, NUM_COMPLETIONS, 240),
        "drawn without a label": panel(free, NUM_COMPLETIONS, 240),
    }
    beside(pictures).save(IMAGES / "inpainting.png", optimize=True)


if __name__ == "__main__":
    flow = TarFlow.from_pretrained(sys.argv[1])
    draw_interpolation(flow)
    draw_inpainting(flow)
