"""`tarflow prepare`: converts a data set, once, into what is read fast."""

from omegaconf import DictConfig

from tarflow.cli.command import CONF, instantiate
from tarflow.data import prepare as write
from tarflow.errors import ConfigurationError


def prepare(config: DictConfig) -> None:
    """Read a data set as it was published and leave a folder of arrays or shards."""
    if config.get("data") is None:
        choices = ", ".join(sorted(path.stem for path in (CONF / "data").glob("*.yaml")))
        raise ConfigurationError(f"data is needed: give data=..., one of {choices}")
    if config.output is None:
        raise ConfigurationError("output=None: give output=..., the folder to make")
    # The data module would want batches; only its data set is needed.
    data = instantiate(config.data.data)
    description = write(data, config.output, instantiate(config.format), config.num_workers)
    counts = ", ".join(f"{count:,} {part}" for part, count in description.counts.items())
    print(f"{config.output}: {description.name}; {counts} images of {description.image_shape}")
