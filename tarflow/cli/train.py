"""`tarflow train`: fits a flow."""

from dataclasses import dataclass

from tarflow.cli.choices import find_pretrained
from tarflow.cli.command import instantiate
from tarflow.cli.fit import FitSettings, filled, fit
from tarflow.cli.settings import Section
from tarflow.cli.targets import find
from tarflow.data import DividedData, TableData
from tarflow.data.images import check_images
from tarflow.errors import ConfigurationError
from tarflow.evaluation.metrics import check_fit
from tarflow.flows.codec import Codec, Pixels
from tarflow.flows.flow import Flow
from tarflow.flows.noise import Noise, NoNoise
from tarflow.flows.vector_flow import VectorFlow
from tarflow.sampling.sample_folder import fingerprints
from tarflow.tokenizers import Tokenizer
from tarflow.training import FlowModule


@dataclass(frozen=True, kw_only=True)
class TrainSettings(FitSettings):
    """The settings of `tarflow train`."""

    codec: Section  # noise=uniform, noise=gaussian: which codec goes with which noise
    noise: Section
    model: Section
    attention: Section
    tokenizer: str | None = None  # a run or pretrained folder: its latents of the data's images
    # A flow to go on from, likewise, with its codec and noise, in place of a new one of `model`.
    checkpoint: str | None = None


def train(config: TrainSettings) -> float | None:
    """Fit a flow and leave a run folder; returns what a sweeper may make small.

    Which tokenizer was given, and which flow it began with, belongs to what a run must have as it
    was to go on.
    """
    directory = None if config.tokenizer is None else find_pretrained(config.tokenizer)
    start = None if config.checkpoint is None else find_pretrained(config.checkpoint)
    given = {"tokenizer": directory, "checkpoint": start}
    origin = {name: fingerprints(each) for name, each in given.items() if each is not None}

    def make(data: DividedData) -> FlowModule:
        if directory is not None:
            data = check_images(data).with_tokenizer(Tokenizer.from_pretrained(directory))
        if start is None:
            flow = make_flow(config.model, config.codec, config.noise, data)
        else:
            flow = Flow.from_pretrained(start)
            check_fit(flow, data)
        module: FlowModule = instantiate(config.module, flow=flow)
        module.objective.prepare(data)
        return module

    return fit(config, make, origin)


def make_flow(model: Section, codec: Section, noise: Section, data: DividedData) -> Flow:
    """Make the flow; what the data determines need not be configured.

    Raises:
        ConfigurationError: The model, or the noise, is not one for such data.
    """
    make, of_rows = find(model["_target_"]), isinstance(data, TableData)
    if of_rows != (isinstance(make, type) and issubclass(make, VectorFlow)):
        raise ConfigurationError(
            f"model._target_={model['_target_']} is not for the {data.noun} of {data.name}: give"
            f" model={'vectors' if of_rows else 'tarflow'}"
        )
    if isinstance(data, TableData):
        return _flow_of_rows(model, filled(noise, {}), data)
    determined = data.determined
    if model.get("num_classes", data.num_classes) != data.num_classes:
        del determined["class_names"]  # a model of other classes, or of none
    parts = {"codec": _codec(codec, data), "noise": filled(noise, determined)}
    return filled(model, determined | parts)


def _flow_of_rows(model: Section, noise: Noise, data: TableData) -> Flow:
    """Make a flow of the rows of a table, standardized by its training part.

    Raises:
        ConfigurationError: There is noise.
    """
    if not isinstance(noise, NoNoise):
        raise ConfigurationError(
            f"{noise} is in units of pixels, and {data.name} holds rows: give noise=no_noise"
        )
    flow: VectorFlow = filled(model, {**data.determined, "noise": noise})
    flow.standardize(data.rows["train"])
    return flow


def _codec(section: Section, data: DividedData) -> Codec:
    """The codec that the noise goes with; for latents, their tokenizer, which the data brings.

    Raises:
        ConfigurationError: The noise goes with a codec that latents do not have.
    """
    if not isinstance(data.codec, Tokenizer):
        return filled(section, data.determined)
    if find(section["_target_"]) is not Pixels:
        raise ConfigurationError(
            f"{section['_target_']}, as of noise=uniform, makes numbers of pixels, but {data.name}"
            " is of latents: give noise=gaussian noise.std=0.3, noise=levels or noise=no_noise"
        )
    return data.codec
