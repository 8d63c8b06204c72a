"""`tarflow train-tokenizer`: fits an autoencoder, in whose latents flows are trained."""

from dataclasses import dataclass

from tarflow.cli.command import instantiate
from tarflow.cli.fit import FitSettings, check_whole, filled, fit
from tarflow.cli.settings import Section
from tarflow.cli.targets import find
from tarflow.data import ImageData
from tarflow.errors import ConfigurationError
from tarflow.tokenizers import Autoencoder
from tarflow.training import TokenizerModule


@dataclass(frozen=True, kw_only=True)
class TrainTokenizerSettings(FitSettings):
    """The settings of `tarflow train-tokenizer`."""

    name: str | int = "tokenizer"
    model: Section


def train_tokenizer(config: TrainTokenizerSettings) -> float | None:
    """Fit an autoencoder and leave a run folder; returns what a sweeper may make small."""
    check_whole(config.trainer)

    def make(data: ImageData) -> TokenizerModule:
        objective = instantiate(config.objective)
        objective.prepare(data)
        tokenizer = make_tokenizer(config.model, data)
        return instantiate(config.module, tokenizer=tokenizer, objective=objective)

    return fit(config, make)


def make_tokenizer(model: Section, data: ImageData) -> Autoencoder:
    """Make the autoencoder; what the data determines need not be configured."""
    kind = find(model["_target_"])
    if not (isinstance(kind, type) and issubclass(kind, Autoencoder)):
        raise ConfigurationError(
            f"model._target_={model['_target_']} is not a kind of Autoencoder, which learns from"
            " images"
        )
    return filled(model, {**data.determined, "pixels": data.codec})
