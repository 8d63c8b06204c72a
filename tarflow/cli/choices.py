"""What the values of a command's configuration mean."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig

from tarflow.cli.command import instantiate
from tarflow.cli.settings import Section
from tarflow.errors import CheckpointError, ConfigurationError
from tarflow.flows.checkpoint import CONFIG, WEIGHTS
from tarflow.flows.decoding import DecodeOptions
from tarflow.flows.flow import Flow
from tarflow.flows.guidance import Guidance
from tarflow.flows.pretrained import load
from tarflow.nn.networks import Networks
from tarflow.nn.precisions import PRECISIONS
from tarflow.sampling.plan import Conditions, Planned
from tarflow.sampling.sample_folder import fingerprints
from tarflow.students.student import Student
from tarflow.tokenizers import Tokenizer


def find_pretrained(checkpoint: str) -> Path:
    """The pretrained folder that a path means: itself, or the one in a run folder.

    Raises:
        CheckpointError: There is none.
    """
    path = Path(checkpoint)
    for candidate in (path, path / "pretrained"):
        if (candidate / CONFIG).is_file() and (candidate / WEIGHTS).is_file():
            return candidate
    raise CheckpointError(
        f"{path} is neither a pretrained folder ({CONFIG} and {WEIGHTS}) nor a run folder with one"
        " in `pretrained`: train first, or convert a published checkpoint"
    )


def load_model(
    directory: Path, device: torch.device, of_flows: Sequence[str], of_students: Sequence[str]
) -> Any:
    """Read a flow or a student, and refuse settings that were given and mean nothing for it.

    Args:
        directory: The pretrained folder.
        device: Where the model is to be.
        of_flows: Settings that mean something for flows alone.
        of_students: Those for students alone.

    Raises:
        ConfigurationError: There is such a setting.
    """
    model = load(directory)
    is_student = isinstance(model, Student)
    kinds, others = ("a student", "flows") if is_student else ("a flow", "students")
    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    keys = [re.split(r"[=.@]", each.lstrip("+~"))[0] for each in given]
    if wrong := [key for key in keys if key in (of_flows if is_student else of_students)]:
        raise ConfigurationError(
            f"{wrong[0]} is a setting of {others}, and {directory} holds {kinds}, a"
            f" {type(model).__name__}: leave it out"
        )
    return model.to(device)


def put_tokenizer(model: Any, checkpoint: str | None) -> dict[str, str]:
    """Let a model of latents decode them by another tokenizer of the same; what tells which.

    Raises:
        CheckpointError: The model is not one of latents, or the tokenizer has others.
    """
    if checkpoint is None:
        return {}
    directory = find_pretrained(checkpoint)
    tokenizer = Tokenizer.from_pretrained(directory)
    if not isinstance(model.codec, Tokenizer):
        raise CheckpointError(
            f"tokenizer={checkpoint} decodes latents, but the model is one of pixels: leave it out"
        )
    for what, own, other in model.codec.compared(tokenizer):
        if own != other:
            raise CheckpointError(
                f"tokenizer={checkpoint} has {what} {other}, but the model was trained on {own}:"
                " give one that differs in its decoder alone, as `tarflow tune-decoder` makes them"
            )
    model.codec = tokenizer.to(model.base.anchor.device).held()
    return {"tokenizer": fingerprints(directory)[WEIGHTS]}


def beside(pretrained: Path, name: str) -> Path:
    """The folder of what is made of a model, when none is given: one for each model.

    Example:
        >>> beside(Path("run/pretrained_0.5"), "samples")
        PosixPath('run/samples_0.5')
    """
    own = pretrained.absolute().name.removeprefix("pretrained").removeprefix("_")
    return pretrained.parent / (f"{name}_{own}" if own else name)


def device_of(name: str, local_rank: int = 0) -> torch.device:
    """The device to compute on; `auto` is the accelerator if there is one, this process's own."""
    if name != "auto":
        try:
            torch.zeros(1, device=name).item()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            problem = str(error).splitlines()[0]
            raise ConfigurationError(
                f"device={name} cannot be used ({problem}): give auto, cpu, cuda, cuda:1 or mps"
            ) from error
        return torch.device(name)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    count = torch.accelerator.device_count()
    if count > 1:
        device = torch.device(device.type, local_rank % count)
        # Graphs and kernels go to the current one.
        torch.accelerator.set_device_index(device.index)
    return device


def read_precision(name: str | None) -> torch.dtype | str | None:
    """Read the name of a precision, a dtype where it is one; None is that of the weights."""
    names = [each for each in PRECISIONS if each != "float64"]
    if name not in (None, *names):
        raise ConfigurationError(f"dtype={name} is unknown: give {', '.join(names)}")
    return getattr(torch, name, name) if name else None


def read_dtype(name: str | None) -> torch.dtype | None:
    """Read the name of a precision of all tensors; None is that of the weights."""
    dtype = read_precision(name)
    if isinstance(dtype, str):
        raise ConfigurationError(
            f"dtype={name} is one of flows: give float32, bfloat16, float16 for a student"
        )
    return dtype


def guidance_of(section: Section, weight: float, flow: Flow) -> Guidance | None:
    """The guidance, where its weight is not 0."""
    rule = instantiate(section)  # with its checks, also where it is off
    rule.check_depths(flow.transform.num_decoded)
    return rule if weight != 0 else None


def decode_options(
    config: Any, flow: Flow, directory: Path, batch_size: int, guidance: Guidance | None
) -> DecodeOptions:
    """How to decode a flow of a folder, under settings with a decoder, a dtype and `compile`.

    A precision that is not one of all tensors, or that a plan chose, is one of decoding alone.
    """
    decoder, dtype = instantiate(config.decoder), read_precision(config.dtype)
    options = DecodeOptions(guidance, compile=config.compile, certify=True)
    if isinstance(dtype, str):
        options = replace(options, networks=Networks(dtype, config.compile))
    else:
        options = replace(options, dtype=dtype)
    if isinstance(decoder, Planned):
        told = (batch_size, options, decoder.tolerance, fingerprints(directory)[WEIGHTS])
        conditions = Conditions.of(flow, *told)
        if dtype is None:
            own, conditions = conditions, decoder.settle(directory, conditions)
            if conditions != own:  # its deviation is known, and accepted
                networks = Networks(conditions.dtype, config.compile)
                options = replace(options, networks=networks, certify=False)
        decoder, message = decoder.choose(directory, conditions)
        print(message)
    return replace(options, decoder=decoder)
