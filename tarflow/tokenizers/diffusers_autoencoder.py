"""Given autoencoders: AutoencoderKL of diffusers, from a folder in its format."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from tarflow.arguments import check_instance, check_integer, check_real, check_size, keep, shown
from tarflow.errors import CheckpointError, ConfigurationError
from tarflow.flows.codec import Pixels
from tarflow.registry import Part
from tarflow.tokenizers.tokenizer import Images, Latents, Tokenizer

NAME, WEIGHTS = "AutoencoderKL", "diffusion_pytorch_model"


@dataclass(frozen=True)
class KLConfig(Part):
    """What an AutoencoderKL of diffusers is made with, by its names and with its defaults.

    With `scaling_factor`, `shift_factor`, `latents_mean` and `latents_std`, pipelines of diffusers
    shift and scale latents.
    """

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    act_fn: str = "silu"
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    def __post_init__(self):
        for name in ("in_channels", "latent_channels", "layers_per_block", "norm_num_groups"):
            keep(self, **{name: check_integer(name, getattr(self, name), least=1)})
        if self.in_channels != self.out_channels:
            raise ConfigurationError(
                f"out_channels {self.out_channels} must be as many as in_channels"
                f" {self.in_channels}: a tokenizer makes images of the kind that it reads"
            )
        levels, sides = len(self.block_out_channels), ("down_block_types", "up_block_types")
        self._check_lengths("block_out_channels", levels, *sides)
        self._check_lengths("latent_channels", self.latent_channels, "latents_mean", "latents_std")
        for factor in (self.scaling_factor, *(self.latents_std or ())):
            if not 0 < check_real("scaling_factor", factor) < math.inf:
                raise ConfigurationError(
                    f"scaling_factor {self.scaling_factor} and latents_std {self.latents_std} must"
                    " be finite and positive"
                )

    def _check_lengths(self, of: str, length: int, *names: str) -> None:
        """Refuse fields that have another number of values than another field says."""
        for name in names:
            values = getattr(self, name)
            if values is not None and len(values) != length:
                raise ConfigurationError(
                    f"{name} {shown(values)} must have {length} values, as {of} says"
                )

    @property
    def factor(self) -> int:
        """How many times as high, and as wide, as its latents an image is."""
        return 2 ** (len(self.block_out_channels) - 1)

    @property
    def shift_and_scale(self) -> tuple[Tensor, Tensor]:
        """What pipelines subtract from each channel of latents, and then multiply it with.

        They use mean and standard deviation only where both are given, and then no other shift.
        """
        if self.latents_mean is None or self.latents_std is None:
            each = torch.ones(self.latent_channels)
            return each * (self.shift_factor or 0), each * self.scaling_factor
        return torch.tensor(self.latents_mean), self.scaling_factor / torch.tensor(
            self.latents_std
        )


@dataclass(frozen=True)
class DiffusersDescription(Part):
    """The arguments of a `DiffusersAutoencoder`, checked."""

    image_size: int | tuple[int, int]
    config: KLConfig
    pixels: Pixels
    decodes_noise: float

    def __post_init__(self):
        check_instance("config", self.config, KLConfig, "DiffusersAutoencoder.read makes one")
        size = check_size("image_size", self.image_size)
        if any(side % self.config.factor for side in size):
            raise ConfigurationError(
                f"image_size {size} must be divisible by {self.config.factor}: so many pixels each"
                " way are one position of this autoencoder's latents"
            )
        check_instance("pixels", self.pixels, Pixels, "pass Pixels(256) for images of bytes")
        keep(self, image_size=size, decodes_noise=check_real("decodes_noise", self.decodes_noise))


class DiffusersAutoencoder(Tokenizer):
    """An AutoencoderKL of diffusers, whose latents are the means of its posterior.

    It needs `pip install 'tarflow[latents]'`. `read` takes one from a folder of diffusers; from
    then on it is saved and loaded as every tokenizer is. Its shift and scale are those of the
    pipelines of diffusers: x is $f (e - m)$ with `shift_factor` m and `scaling_factor` f, or
    $f (e - m) / d$ with `latents_mean` m and `latents_std` d of each channel, where it has them.

    Args:
        image_size: Height and width of images, or one number for both.
        config: What diffusers makes it with.
        pixels: How images are stored.
        decodes_noise: Standard deviation of noise in x that its decoder removes.
    """

    def __init__(
        self,
        image_size: int | tuple[int, int],
        config: KLConfig,
        pixels: Pixels = Pixels(),
        decodes_noise: float = 0.0,
    ):
        told = DiffusersDescription(image_size, config, pixels, decodes_noise)
        height, width = check_size("image_size", told.image_size)
        latent_size = height // config.factor, width // config.factor
        shapes = (config.in_channels, height, width), (config.latent_channels, *latent_size)
        super().__init__(*shapes, told.pixels, told.decodes_noise, told)
        self.encoder, self.decoder = _parts(_autoencoder_kl()(**vars(config)))
        for held, values in zip((self.shift, self.scale), config.shift_and_scale, strict=True):
            held.copy_(values[:, None, None])

    @classmethod
    def read(
        cls, directory: Path | str, image_size: int | tuple[int, int]
    ) -> "DiffusersAutoencoder":
        """Read a folder that diffusers wrote: of an AutoencoderKL, or of a pipeline with one.

        Nothing is downloaded, and no pickle is read. Weights of 16 bits become float32.

        Args:
            directory: It holds `config.json` and `diffusion_pytorch_model.safetensors`; or
                `model_index.json`, and such a folder named `vae`.
            image_size: Height and width of images, or one number for both.

        Raises:
            CheckpointError: It is missing, damaged, or holds something else.
            ConfigurationError: diffusers is not installed, or the autoencoder does not divide
                images of this size.
        """
        directory = Path(directory)
        if (directory / "model_index.json").is_file():
            directory = directory / "vae"
        model = _read_model(directory)
        told: dict[str, Any] = {each.name: model.config[each.name] for each in fields(KLConfig)}
        told |= {name: tuple(value) for name, value in told.items() if isinstance(value, list)}
        tokenizer = cls(image_size, KLConfig(**told))
        tokenizer.encoder, tokenizer.decoder = _parts(model)
        return tokenizer.eval()

    def to_latents(self, images: Images) -> Latents:
        mean, _ = self.encoder(images).chunk(2, dim=1)
        return mean

    def to_images(self, latents: Latents) -> Images:
        return self.decoder(latents)


def _autoencoder_kl() -> Any:
    """The class of diffusers, which is imported here alone: that takes seconds."""
    try:
        from diffusers import AutoencoderKL  # pyright: ignore[reportPrivateImportUsage]
    except ImportError as error:
        raise ConfigurationError(
            "this autoencoder is one of diffusers, which is not installed: pip install"
            " 'tarflow[latents]'"
        ) from error
    return AutoencoderKL


def _parts(model: Any) -> tuple[nn.Module, nn.Module]:
    """What of an AutoencoderKL encodes, and what decodes."""
    before, after = (each or nn.Identity() for each in (model.quant_conv, model.post_quant_conv))
    return nn.Sequential(model.encoder, before), nn.Sequential(after, model.decoder)


def _read_model(directory: Path) -> Any:
    """The AutoencoderKL of a folder, with all of its weights."""
    _check_kind(directory)
    plain = any(directory.glob(f"{WEIGHTS}.safetensors*"))  # several files have an index
    options: Any = {"variant": None if plain else "fp16", "torch_dtype": torch.float32}
    options |= {"local_files_only": True, "use_safetensors": True, "low_cpu_mem_usage": False}
    with _told_of(directory / WEIGHTS):
        model, found = _autoencoder_kl().from_pretrained(
            directory, output_loading_info=True, **options
        )
    wrong = [*found["missing_keys"], *found["unexpected_keys"]]
    if wrong:  # diffusers would go on, with random ones
        raise CheckpointError(f"{directory}: {wrong[0]!r} is missing, or not of an {NAME}")
    return model


def _check_kind(directory: Path) -> None:
    """Refuse a folder of something else."""
    path = directory / "config.json"
    if not path.is_file():
        raise CheckpointError(
            f"{directory} is not a folder of diffusers: it has no config.json. Give that of an"
            f" {NAME}, or of a pipeline"
        )
    with _told_of(path):
        content: Mapping[str, Any] = json.loads(path.read_text())
        kind = content.get("_class_name")
    if kind != NAME:
        raise CheckpointError(f"{directory} holds a {kind!r}, which is not an {NAME}")


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """Let errors in reading what came from elsewhere be told of a path."""
    try:
        yield
    except ConfigurationError:
        raise
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{path} cannot be read: {shorten(str(error), 300)}") from error
