"""`tarflow convert`: reads a published checkpoint, or an autoencoder of diffusers."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tarflow.cli.telling import told_plainly
from tarflow.errors import CheckpointError
from tarflow.flows.pretrained import Pretrained
from tarflow.flows.published import read_published
from tarflow.machine.files import writing
from tarflow.tokenizers import DiffusersAutoencoder


def convert(arguments: Sequence[str]) -> None:
    """Turn a published checkpoint, or an autoencoder of diffusers, into a pretrained folder."""
    parser = argparse.ArgumentParser("tarflow convert", description=convert.__doc__)
    parser.add_argument(
        "weights",
        help="the published file, or a training's checkpoint; or a folder of diffusers with an"
        " AutoencoderKL, which needs image_size",
    )
    parser.add_argument("directory", help="the pretrained folder to write")
    parser.add_argument(
        "options",
        nargs="*",
        help="image_size=32, noise_std=0.05, noise_levels=0.01:0.3, model=ema",
    )
    options = parser.parse_args(arguments)
    with told_plainly():
        model = _read(options.weights, _read_options(options.options))
        if (Path(options.directory) / "config.json").exists():
            raise CheckpointError(f"{options.directory} holds a model already: choose another")
        with writing(Path(options.directory)):
            model.save_pretrained(options.directory)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{options.directory}: {num_parameters:,} parameters, {model.description}")


def _read(weights: str, options: dict[str, Any]) -> Pretrained:
    """The flow of a file, or the tokenizer of a folder."""
    if not Path(weights).is_dir():
        return read_published(weights, **options)
    if options.keys() != {"image_size"}:
        raise CheckpointError(
            f"{weights} is a folder, as diffusers writes of autoencoders: give image_size=256, the"
            " size of the images that it is to read, and no other option"
        )
    return DiffusersAutoencoder.read(weights, options["image_size"])


def _read_options(options: list[str]) -> dict[str, Any]:
    """Read `image_size=32`, `image_size=32x64` (height and width), and the others."""
    values = {}
    for option in options:
        key, _, text = option.partition("=")
        height, _, width = text.partition("x")
        try:
            if key == "image_size":
                values[key] = int(height), int(width or height)
            elif key == "noise_std":
                values[key] = float(text)
            elif key == "noise_levels":
                low, high = text.split(":")
                values[key] = float(low), float(high)
            elif key == "model":
                values[key] = text
        except ValueError as error:
            raise CheckpointError(
                f"{option} cannot be read: write image_size=32 or 32x64, noise_std=0.05,"
                " noise_levels=0.01:0.3"
            ) from error
        if key not in values:
            raise CheckpointError(
                f"{option}: allowed are image_size=..., noise_std=..., noise_levels=LOW:HIGH"
                " and model=..."
            )
    return values
