"""`tarflow prepare`: converts a data set, once, into what is read fast."""

from dataclasses import dataclass

from tarflow.cli.command import instantiate
from tarflow.cli.settings import Section, Settings
from tarflow.data import prepare as write


@dataclass(frozen=True, kw_only=True)
class PrepareSettings(Settings):
    """The settings of `tarflow prepare`."""

    data: Section
    format: Section
    output: str = "???"  # the folder to make; the source is data.data.root
    num_workers: int | None = None  # processes that read and decode; by default one for each core


def prepare(config: PrepareSettings) -> None:
    """Read a data set as it was published and leave a folder of arrays or shards."""
    # The data module would want batches; only its data set is needed.
    data = instantiate(config.data.data)
    description = write(data, config.output, instantiate(config.format), config.num_workers)
    counts = ", ".join(f"{count:,} {part}" for part, count in description.counts.items())
    print(f"{config.output}: {description.name}; {counts} images of {description.image_shape}")
