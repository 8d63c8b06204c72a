"""A small class-conditional flow of photographs, trained in minutes and kept for later runs.

How many passes a parallel decoder needs depends on the weights: fresh ones are the identity, which
every decoder inverts at once. So a benchmark of decoders needs a flow that was trained.

    python benchmarks/photographs.py --patch 4
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from rich.progress import Progress, TextColumn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tarflow import Context, GaussianNoise, LinearGuidance, Pixels, TarFlow
from tarflow.flows.conditioning import with_dropout
from tarflow.sampling.pictures import beside, grid
from tarflow.training import muon, warmup_cosine

CACHE = Path(__file__).parents[1] / "outputs" / "benchmarks"
SIZE = 32
"""Side of the crops."""
HELD_OUT = slice(288, 352)
"""Columns of both photographs that are never trained on: they cross the pagoda and the flower."""
CODEC, NOISE = Pixels(), GaussianNoise(0.05)


@dataclass(frozen=True)
class Settings:
    """What a model depends on: a kept one is used as long as these are the same.

    Attributes:
        patch_size: Side of a patch; 32 x 32 pixels are 64 patches at 4, and 256 at 2.
        num_steps: Number of training steps.
        batch_size: Number of crops in a step.
        lr: Peak learning rate of Muon and AdamW.
        seed: Of the weights and of the crops.
    """

    patch_size: int
    num_steps: int
    batch_size: int
    lr: float = 1e-3
    seed: int = 0

    @property
    def directory(self) -> Path:
        """Where the model is kept."""
        length = (SIZE // self.patch_size) ** 2
        return CACHE / f"photographs_T{length}_p{self.patch_size}"


SETTINGS = {4: Settings(4, num_steps=240, batch_size=16), 2: Settings(2, 160, batch_size=8)}
"""For each patch size, what two CPU cores do in some minutes."""


class Photographs:
    """Crops of the two photographs of scikit-learn; the label tells from which."""

    def __init__(self):
        from sklearn.datasets import load_sample_images

        images = [torch.tensor(i).permute(2, 0, 1) for i in load_sample_images().images]
        self.held_out = [image[:, :, HELD_OUT] for image in images]
        self.sides = [(i[:, :, : HELD_OUT.start], i[:, :, HELD_OUT.stop :]) for i in images]

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw crops from either side of the held-out columns, half of them mirrored."""
        crops, labels = [], []
        for label, side, mirrored in torch.randint(2, (size, 3), generator=generator).tolist():
            region = self.sides[label][side]
            height, width = region.shape[1:]
            top = int(torch.randint(height - SIZE + 1, (), generator=generator))
            left = int(torch.randint(width - SIZE + 1, (), generator=generator))
            crop = region[:, top : top + SIZE, left : left + SIZE]
            crops.append(crop.flip(2) if mirrored else crop)
            labels.append(label)
        return torch.stack(crops), torch.tensor(labels)

    def test(self) -> tuple[Tensor, Tensor]:
        """All crops of the held-out columns that do not overlap."""
        tiles = [image.unfold(1, SIZE, SIZE).unfold(2, SIZE, SIZE) for image in self.held_out]
        crops = [tile.permute(1, 2, 0, 3, 4).flatten(0, 1) for tile in tiles]
        labels = [torch.full((len(crop),), label) for label, crop in enumerate(crops)]
        return torch.cat(crops), torch.cat(labels)


def load(settings: Settings, device: torch.device | str = "cpu") -> TarFlow:
    """The kept model of these settings; trained now if there is none.

    Args:
        settings: What to train.
        device: Where to train; the model is returned there.
    """
    record = settings.directory / "training.json"
    if not record.exists() or json.loads(record.read_text())["settings"] != asdict(settings):
        flow, history = train(settings, device)
        flow.save_pretrained(settings.directory)
        picture(flow).save(settings.directory / "samples.png")
        record.write_text(json.dumps(history, indent=2) + "\n")
    return TarFlow.from_pretrained(settings.directory).to(device)


def train(settings: Settings, device: torch.device | str = "cpu") -> tuple[TarFlow, dict]:
    """Fit a flow by maximum likelihood; also return what it cost, and how well it fits.

    Args:
        settings: What to train.
        device: Where.
    """
    torch.manual_seed(settings.seed)
    photographs, start = Photographs(), time.perf_counter()
    flow = make_flow(settings.patch_size).to(device)
    untrained = held_out_loss(flow, photographs)
    average, losses = fit(flow, photographs, settings)
    history = {
        "settings": asdict(settings),
        "seconds": round(time.perf_counter() - start, 1),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "held_out_nats_per_dim": {
            "untrained": untrained,
            "trained": held_out_loss(average, photographs),
        },
        "nats_per_dim": losses,
    }
    print("held-out nats/dim of noisy crops", history["held_out_nats_per_dim"])
    return average, history


def make_flow(patch_size: int) -> TarFlow:
    """The model that is benchmarked: 4 transforms of 4 layers, 256 wide, two classes."""
    sizes: Any = {"num_transforms": 4, "num_layers": 4, "model_dim": 256, "head_dim": 64}
    sizes |= {"num_classes": 2, "codec": CODEC, "noise": NOISE}
    return TarFlow(SIZE, patch_size, num_channels=3, **sizes)


def fit(
    flow: TarFlow, photographs: Photographs, settings: Settings
) -> tuple[TarFlow, list[float]]:
    """Train, and return the averaged flow with the loss of every step, in nats per dimension."""
    optimizer = muon(flow.named_parameters(), lr=settings.lr)
    schedule = warmup_cosine(optimizer, settings.num_steps, settings.num_steps // 10)
    average = AveragedModel(flow, multi_avg_fn=get_ema_multi_avg_fn(0.95))
    generator = torch.Generator().manual_seed(settings.seed)
    losses = []
    with Progress(*Progress.get_default_columns(), TextColumn("{task.fields[loss]}")) as progress:
        task = progress.add_task(f"patch {settings.patch_size}", total=settings.num_steps, loss="")
        for _ in range(settings.num_steps):
            loss = step(flow, *photographs.batch(settings.batch_size, generator))
            optimizer.step()
            schedule.step()
            average.update_parameters(flow)
            losses.append(round(loss, 4))
            progress.update(task, advance=1, loss=f"{loss:.3f} nats/dim")
    return cast(TarFlow, average.module).eval(), losses


def step(flow: TarFlow, pixels: Tensor, labels: Tensor) -> float:
    """Leave the clipped gradient of a batch in the parameters; return its loss."""
    device = flow.base.anchor.device
    x = flow.noisy(pixels.to(device))
    context = with_dropout(Context(labels.to(device)), flow.conditioners, 0.1)
    loss = -flow.log_prob(x, context).mean() / flow.num_dims
    flow.check_finite(loss, x, context)
    flow.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
    return loss.item()


@torch.no_grad()
def held_out_loss(flow: TarFlow, photographs: Photographs) -> float:
    """Negative log-likelihood of the held-out crops with their noise, in nats per dimension."""
    device = flow.base.anchor.device
    pixels, labels = photographs.test()
    x = flow.noisy(pixels, torch.Generator().manual_seed(0)).to(device)
    return round(float(-flow.log_prob(x, labels.to(device)).mean()) / flow.num_dims, 4)


def picture(flow: TarFlow, num_samples: int = 16) -> Image.Image:
    """Guided samples beside crops that were trained on."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(num_samples, device=flow.base.anchor.device) % 2
    x = flow.sample(num_samples, labels, guidance=LinearGuidance(1.0))
    print(f"guided samples lie in [{x.min():.2f}, {x.max():.2f}]")
    pixels = {"training crops": Photographs().batch(num_samples, generator)[0]}
    pixels["guided samples"] = CODEC.decode(x)
    return beside({title: grid(CODEC.to_bytes(part)) for title, part in pixels.items()})


def main() -> None:
    """Train the model of one patch size, unless it is there."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--patch", type=int, choices=sorted(SETTINGS), default=4)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    settings = SETTINGS[options.patch]
    load(settings, options.device)
    print(settings.directory)


if __name__ == "__main__":
    main()
