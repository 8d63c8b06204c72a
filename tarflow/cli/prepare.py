"""`tarflow prepare`: converts a data set, once, into what is read fast, images or latents."""

from dataclasses import dataclass

from tarflow.cli.choices import device_of, find_pretrained
from tarflow.cli.command import instantiate
from tarflow.cli.settings import Section, Settings
from tarflow.data import Arrays, prepare_latents
from tarflow.data import prepare as write
from tarflow.errors import ConfigurationError
from tarflow.tokenizers import Tokenizer


@dataclass(frozen=True, kw_only=True)
class PrepareSettings(Settings):
    """The settings of `tarflow prepare`."""

    data: Section
    format: Section
    output: str = "???"  # the folder to make; the source is data.data.root
    num_workers: int | None = None  # processes that read and decode; by default one for each core
    tokenizer: str | None = None  # a run folder or a pretrained folder: latents, not images
    dtype: str = "float32"  # of latents; float16 takes half the space
    device: str = "auto"  # that encodes: or cpu, cuda, cuda:1, mps


def prepare(config: PrepareSettings) -> None:
    """Read a data set as it was published and leave a folder of arrays, shards or latents."""
    # The data module would want batches; only its data set is needed.
    data, format = instantiate(config.data.data), instantiate(config.format)
    if config.tokenizer is None:
        description, what = write(data, config.output, format, config.num_workers), "images"
        shape = description.image_shape
    else:
        if not isinstance(format, Arrays):
            raise ConfigurationError("latents are kept as arrays: leave format out")
        tokenizer = Tokenizer.from_pretrained(find_pretrained(config.tokenizer))
        tokenizer = tokenizer.to(device_of(config.device))
        told = (config.output, config.dtype, config.num_workers)
        description, what = prepare_latents(data, tokenizer, *told), "latents"
        shape = description.latent_shape
    counts = ", ".join(f"{count:,} {part}" for part, count in description.counts.items())
    print(f"{config.output}: {description.name}; {counts} {what} of {shape}")
