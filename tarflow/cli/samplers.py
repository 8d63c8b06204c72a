"""What `tarflow sample` draws by, for each kind of model."""

from pathlib import Path
from typing import Any

from tarflow.cli.choices import decode_options, find_pretrained, guidance_of, read_dtype
from tarflow.cli.command import instantiate
from tarflow.errors import CheckpointError, ConfigurationError
from tarflow.flows.checkpoint import WEIGHTS
from tarflow.flows.flow import Flow
from tarflow.sampling.drawing import read_classes, read_others
from tarflow.sampling.flow_sampler import FlowSampler
from tarflow.sampling.sample_folder import fingerprints
from tarflow.sampling.sampler import Sampler
from tarflow.students.judged_sampler import JudgedSampler
from tarflow.students.student import Student
from tarflow.students.student_sampler import StudentSampler


def sampler_of(config: Any, model: Any, directory: Path) -> tuple[Sampler, dict[str, str]]:
    """What draws from a model of a folder under settings, and what tells the model.

    Raises:
        CheckpointError: The model does not know its data.
        ConfigurationError: A setting is wrong.
    """
    if isinstance(model, Student):
        return _of_student(config, model, directory)
    return _of_flow(config, model, directory)


def _of_flow(config: Any, flow: Flow, directory: Path) -> tuple[Sampler, dict[str, str]]:
    """What draws from a flow, and what tells the flow."""
    if flow.noise is None or flow.codec is None:
        raise CheckpointError(
            f"{directory} does not name the noise of its training: convert it with noise_std=..."
        )
    origin = fingerprints(directory)
    classes = read_classes(config.label, flow.num_classes, flow.class_names)
    guidance = guidance_of(config.guidance_rule, config.guidance, flow)
    options = decode_options(config, flow, directory, config.batch_size, guidance)
    others = read_others(config.composed["context"], flow)
    denoiser = instantiate(config.denoiser)
    told = (flow, config.seed, classes, others)
    certify = options.certify if config.certify is None else config.certify
    return FlowSampler(*told, config.denoise, options, denoiser, certify), origin


def _of_student(config: Any, student: Student, directory: Path) -> tuple[Sampler, dict[str, str]]:
    """What draws from a student, and what tells the student and the flow that judges it."""
    origin, dtype = fingerprints(directory), read_dtype(config.dtype)
    classes = read_classes(config.label, student.num_classes, student.class_names)
    others = read_others(config.composed["context"], student)
    student = student if dtype is None else student.to(dtype)
    told = (student, config.seed, classes, others, config.guidance, config.steps)
    if config.flow is None:
        if config.best_of != 1:
            raise ConfigurationError(
                f"best_of={config.best_of} keeps the likeliest of several draws, which a flow has"
                " to tell: give flow=RUN"
            )
        return StudentSampler(*told), origin
    judge = find_pretrained(config.flow)
    flow = Flow.from_pretrained(judge).to(student.base.anchor.device)
    sampler = JudgedSampler(*told, flow=flow, count=config.best_of)
    return sampler, {**origin, "flow": fingerprints(judge)[WEIGHTS]}
