"""`tarflow tune-decoder`: lets the decoder of a tokenizer learn to remove noise from latents."""

from dataclasses import dataclass

from tarflow.cli.choices import find_pretrained
from tarflow.cli.command import instantiate
from tarflow.cli.fit import FitSettings, check_whole, fit
from tarflow.data import ImageData
from tarflow.errors import ConfigurationError
from tarflow.sampling.sample_folder import fingerprints
from tarflow.tokenizers import Tokenizer
from tarflow.training import TokenizerModule
from tarflow.training.tokenization.decoder_objective import to_tune


@dataclass(frozen=True, kw_only=True)
class TuneDecoderSettings(FitSettings):
    """The settings of `tarflow tune-decoder`."""

    name: str | int = "decoder"
    checkpoint: str = "???"  # the tokenizer: a run folder or a pretrained folder
    noise_std: float = 0.3  # standard deviation of the noise in latents, as of the flow's training


def tune_decoder(config: TuneDecoderSettings) -> float | None:
    """Fit the decoder of a tokenizer and leave a run folder, with the whole tokenizer.

    Its latents are the same, so that it takes the place of the former one in flows of these.
    Which weights it began with belongs to what a run must have as it was to go on.
    """
    check_whole(config.trainer)
    directory = find_pretrained(config.checkpoint)

    def make(data: ImageData) -> TokenizerModule:
        objective = instantiate(config.objective)
        objective.prepare(data)
        tokenizer = to_tune(Tokenizer.from_pretrained(directory), config.noise_std)
        if data.image_shape != tokenizer.image_shape or data.codec != tokenizer.pixels:
            raise ConfigurationError(
                f"{data.name} has images of shape {data.image_shape} ({data.codec.words}), but"
                f" {directory} was made for {tokenizer.image_shape} ({tokenizer.pixels.words})"
            )
        return instantiate(config.module, tokenizer=tokenizer, objective=objective)

    return fit(config, make, {"checkpoint": fingerprints(directory)})
