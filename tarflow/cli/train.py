"""`tarflow train`: fits a flow."""

from dataclasses import dataclass

from tarflow.cli.command import instantiate
from tarflow.cli.fit import FitSettings, filled, fit
from tarflow.cli.settings import Section
from tarflow.data import ImageData
from tarflow.flows.flow import Flow
from tarflow.training import FlowModule


@dataclass(frozen=True, kw_only=True)
class TrainSettings(FitSettings):
    """The settings of `tarflow train`."""

    codec: Section  # noise=uniform, noise=gaussian: which codec goes with which noise
    noise: Section
    model: Section
    attention: Section


def train(config: TrainSettings) -> float | None:
    """Fit a flow and leave a run folder; returns what a sweeper may make small."""

    def make(data: ImageData) -> FlowModule:
        flow = make_flow(config.model, config.codec, config.noise, data)
        return instantiate(config.module, flow=flow)

    return fit(config, make)


def make_flow(model: Section, codec: Section, noise: Section, data: ImageData) -> Flow:
    """Make the flow; what the data determines need not be configured."""
    determined = data.determined
    if model.get("num_classes", data.num_classes) != data.num_classes:
        del determined["class_names"]  # a model of other classes, or of none
    parts = {"codec": filled(codec, determined), "noise": filled(noise, determined)}
    return filled(model, determined | parts)
