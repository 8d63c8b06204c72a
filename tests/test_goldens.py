"""Our numbers against those of the published code, every tensor of every golden file."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tarflow import (
    Composition,
    ConstantSchedule,
    Context,
    GaussianGuidance,
    LinearGuidance,
    LinearScaleGuidance,
    LinearSchedule,
    OneStep,
    ProbabilityFlow,
    Reverse,
    StandardNormal,
    TarFlow,
    UnitScale,
    denoise,
)
from tarflow.training import MaximumLikelihood

from .published import load_golden

INPUTS = {"x", "y", "noise", "dropped.y", "noise_level"}


ONE_LEVEL = ["class_conditional", "unconditional", "volume_preserving"]


@pytest.mark.parametrize("name", [*ONE_LEVEL, "noise_conditional"])
def test_every_golden_tensor_is_reproduced(name):
    flow, golden, case = load_golden(name)
    compute = reproduce if name in ONE_LEVEL else reproduce_levels
    computed = dict(compute(flow, golden, case))
    assert computed.keys() == golden.keys() - INPUTS
    for key, value in computed.items():
        tolerance = 1e-4 if "denoised" in key or "sample" in key else 1e-5
        torch.testing.assert_close(value, golden[key], rtol=0, atol=tolerance, msg=key)


def reproduce(flow: TarFlow, golden: dict[str, Tensor], case: dict) -> Iterator:
    """Compute the tensors of a file under their keys."""
    x, y = golden["x"], golden.get("y")
    for index, options in enumerate(case["samples"]):
        yield f"sample{index}", sample(flow, golden["noise"], y, options)
    if not case["nvp"]:
        # Published code scales base noise by the variance, but trains, hence denoises, as if it
        # were one.
        flow.base = StandardNormal(*flow.base.shape)
    conditions = {"uncond": None} if y is None else {"cond": y, "uncond": None}
    for prefix, label in conditions.items():
        yield from density(flow, prefix, x, label)
        yield from states(flow, prefix, x, label)
        yield f"{prefix}.denoised", denoise(flow, x, label)
    if y is not None:
        z, log_det = flow(x, golden["dropped.y"])
        yield "dropped.z", z.detach()
        yield "dropped.logdet_mean", log_det.detach() / flow.num_dims


@torch.no_grad()
def reproduce_levels(flow: TarFlow, golden: dict[str, Tensor], case: dict) -> Iterator:
    """Compute the tensors of a file of many noise levels under their keys."""
    x, y, level = golden["x"], golden["y"], golden["noise_level"]
    for prefix, label in {"": y, "uncond.": None}.items():
        z, log_det = flow(x, Context(label, noise_level=level))
        yield f"{prefix}z", z
        yield f"{prefix}logdet_mean", log_det / flow.num_dims
    known, objective = Context(y, noise_level=level), MaximumLikelihood(level_power=1)
    nats = -flow.log_prob(x, known) / flow.num_dims - 0.5 * math.log(2 * math.pi)
    yield "loss_weighted_by_noise_level", objective.weighted(nats, known).mean()
    rules = {
        "tarflow": lambda weight: LinearScaleGuidance(weight, schedule=LinearSchedule()),
        "starflow": GaussianGuidance,
    }
    for index, options in enumerate(case["samples"]):
        rule = rules[options.get("lerp_style", "starflow")](options["guidance"])
        yield f"sample{index}", flow.inverse(golden["noise"], y, guidance=rule)
    noisy, ladder = golden["sample0"], ProbabilityFlow(case["steps"])
    yield "denoised_at_t1", denoise(flow, noisy, y, denoiser=OneStep())
    yield "iteratively_denoised", denoise(flow, noisy, y, denoiser=ladder)


@torch.no_grad()
def sample(flow: TarFlow, noise: Tensor, label: Tensor | None, options: dict) -> Tensor:
    """Invert base noise as the options of a sample say."""
    what = options.get("guide_what", "ab")
    guidance = LinearGuidance(
        options["guidance"],
        temperature=options.get("attn_temp", 1.0),
        schedule=LinearSchedule() if options.get("annealed_guidance") else ConstantSchedule(),
        on_log_scale="a" in what,
        on_shift="b" in what,
    )
    if isinstance(flow.description.scale, UnitScale):
        noise = noise * flow.base.variance.sqrt()
    return flow.inverse(noise, label, guidance=guidance)


@torch.no_grad()
def density(flow: TarFlow, prefix: str, x: Tensor, label: Tensor | None) -> Iterator:
    """Noise, log-determinants per dimension, and the loss: without the base's constant."""
    z, log_det = flow(x, label)
    yield f"{prefix}.z", z
    yield f"{prefix}.logdet_mean", log_det / flow.num_dims
    nats_per_dim = -flow.log_prob(x, label).mean() / flow.num_dims
    yield f"{prefix}.loss", nats_per_dim - 0.5 * math.log(2 * math.pi)


@torch.no_grad()
def states(flow: TarFlow, prefix: str, x: Tensor, label: Tensor | None) -> Iterator:
    """The state after each autoregressive transform, in raster order."""
    blocks, reversed_ = 0, False
    for length, transform in enumerate(flow.transform, start=1):
        reversed_ ^= isinstance(transform, Reverse)
        if transform.num_decoded:
            z, _ = Composition(flow.transform[i] for i in range(length))(x, Context(label))
            yield f"{prefix}.block{blocks}", z.flip(1) if reversed_ else z
            blocks += 1
