"""Stacks: transforms that read no conditions, and transforms that share their weights."""

import copy
import json
from functools import partial

import pytest
import torch
from torch import Tensor

import tarflow
from tarflow import (
    ConfigurationError,
    Context,
    Jacobi,
    LinearGuidance,
    Networks,
    Sequential,
    TarFlow,
    UniformLevels,
)
from tarflow.cli import run_command
from tarflow.cli.train import make_flow
from tarflow.data import random_images
from tarflow.sampling.calibration import calibrate
from tarflow.training.operations import training_operations
from tarflow.training.optimizers import adamw

from .composing import composed
from .models import tiny_flow
from .test_conditioning import GivenVector

LABELS = torch.tensor([0, 2, 1])


# --- Conditions of chosen transforms ------------------------------------------------------------


def deep_alone() -> TarFlow:
    """A flow whose last transform alone reads labels."""
    return tiny_flow(num_classes=3, conditioned=(False, False, True)).eval()


def silenced(alone: TarFlow) -> TarFlow:
    """The same as one that is conditioned everywhere, on labels that say nothing but there."""
    flow = tiny_flow(num_classes=3).eval()
    state = flow.state_dict()
    for key in state.keys() - alone.state_dict().keys():
        assert key.endswith("label_embedding.weight")
        state[key] = torch.zeros_like(state[key])
    flow.load_state_dict(state | alone.state_dict())
    return flow


def test_transforms_that_read_no_labels_learn_nothing_for_them():
    flow = deep_alone()
    embeddings = [name for name in flow.state_dict() if "label_embedding" in name]
    assert embeddings == ["transform.transforms.5.label_embedding.weight"]
    assert flow.num_classes == 3
    x = torch.randn(3, 2, 4, 4)
    torch.testing.assert_close(flow.log_prob(x, LABELS), silenced(flow).log_prob(x, LABELS))
    patches = torch.randn(3, 4, 8)
    for place, reads in ((1, False), (3, False), (5, True)):
        found = [flow.transform[place](patches, Context(y))[0] for y in (LABELS, LABELS.flip(0))]
        assert torch.equal(*found) != reads


def rows_seen(flow: TarFlow, decode) -> list[int]:
    """The largest number of rows that each network was given."""
    networks = [each.network for each in flow.transform if each.num_decoded]
    seen = [0] * len(networks)

    def look(index, network, inputs):
        seen[index] = max(seen[index], len(inputs[0]))

    hooks = [n.register_forward_pre_hook(partial(look, i)) for i, n in enumerate(networks)]
    decode()
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("decoder", [Sequential(), Jacobi(2, 1e-6)])
@pytest.mark.parametrize(
    ("temperature", "own", "rows"),
    [(1.0, None, [3, 3, 6]), (0.5, None, [6, 6, 6]), (1.0, 2.0, [6, 6, 6])],
)
@torch.no_grad()
def test_guidance_passes_over_transforms_where_it_changes_nothing(decoder, temperature, own, rows):
    flow, z = deep_alone(), torch.randn(3, 4, 8)
    given = None if own is None else torch.full((3,), own)
    context = Context(LABELS, given)
    guidance = LinearGuidance(1.5, temperature=temperature)
    found = {}

    def decode(each: TarFlow) -> Tensor:
        found[each] = each.inverse(z, context, guidance=guidance, decoder=decoder)
        return found[each]

    assert rows_seen(flow, lambda: decode(flow)) == rows
    full = silenced(flow)
    assert rows_seen(full, lambda: decode(full)) == [6, 6, 6]
    torch.testing.assert_close(found[flow], found[full], rtol=0, atol=1e-5)
    assert not torch.allclose(found[flow], flow.inverse(z, context), atol=1e-3)


@torch.no_grad()
def test_every_transform_reads_the_noise_level_and_guidance_keeps_it():
    options = {"num_classes": 3, "noise": UniformLevels(0.1, 0.5)}
    flow = tiny_flow(conditioned=(False, False, True), **options).eval()
    names = [name for name in flow.state_dict() if "noise_level_embedding.mlp.0.weight" in name]
    assert len(names) == 3
    full = tiny_flow(**options).eval()
    state = {name: torch.zeros_like(value) for name, value in full.state_dict().items()}
    full.load_state_dict(state | flow.state_dict())
    z, guidance = torch.randn(3, 4, 8), LinearGuidance(1.5)
    context = Context(LABELS, noise_level=torch.tensor([0.1, 0.3, 0.5]))
    found, expected = (each.inverse(z, context, guidance=guidance) for each in (flow, full))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_other_conditions_are_read_where_labels_are():
    flow = tiny_flow(conditioners=[GivenVector()], conditioned=(True, False, False))
    names = [name for name in flow.state_dict() if "vector_embedding" in name]
    assert {name.split(".")[2] for name in names} == {"1"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 3, "conditioned": False}, "conditioned False: no transform .* the label"),
        ({"num_classes": 3, "conditioned": (False,) * 3}, "no transform would read the label"),
        (
            {"conditioners": [GivenVector()], "conditioned": False},
            "no transform would read the vector",
        ),
        ({"conditioned": (True, False)}, "one for each of the 3 transforms"),
    ],
)
def test_conditions_that_nothing_reads_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        tiny_flow(**options)


def test_without_conditions_there_is_nothing_to_read():
    assert tiny_flow(conditioned=False).num_classes == 0


# --- Shared weights -----------------------------------------------------------------------------

SHARED = {"num_classes": 3, "networks": (0, 1, 1), "num_layers": (2, 1, 1)}


def shared(**options) -> TarFlow:
    return tiny_flow(**(SHARED | options)).eval()


def unshared(flow: TarFlow) -> TarFlow:
    """The same density with a network of its own for every transform."""
    copied = tiny_flow(**(SHARED | {"networks": None})).eval().to(flow.base.anchor.dtype)
    state = flow.state_dict()
    for key in copied.state_dict():  # the second transform is in place 3, the third in place 5
        state[key] = state.get(key, state[key.replace("transforms.5.", "transforms.3.")])
    copied.load_state_dict(state)
    return copied


def test_shared_weights_are_held_once():
    flow, other = shared(), tiny_flow(**(SHARED | {"networks": None}))
    state = flow.state_dict()
    assert state.keys() == {key for key in other.state_dict() if ".transforms.5." not in key}
    assert len({value.data_ptr() for value in state.values()}) == len(state)
    assert [name for name, _ in flow.named_parameters()] == [
        key for key in state if "base" not in key
    ]
    groups = adamw(flow.named_parameters()).param_groups
    assert sum(len(group["params"]) for group in groups) == len([*flow.parameters()])
    assert training_operations(flow) == training_operations(other)


@pytest.mark.parametrize("decoder", [Sequential(), Jacobi(2, 1e-9)])
def test_shared_weights_do_what_equal_ones_do(decoder):
    flow = shared().double()
    other, x = unshared(flow), torch.randn(3, 2, 4, 4, dtype=torch.float64)
    for each in (flow, other):
        each.log_prob(x, LABELS).sum().backward()
    assert torch.equal(flow.log_prob(x, LABELS), other.log_prob(x, LABELS))
    theirs = dict(other.named_parameters())
    for name, parameter in flow.named_parameters():
        twin = theirs.get(name.replace("transforms.3.", "transforms.5."))
        expected = theirs[name].grad + (twin.grad if "transforms.3." in name else 0)
        torch.testing.assert_close(parameter.grad, expected)
    z, guidance = torch.randn(3, 4, 8, dtype=torch.float64), LinearGuidance(1.0)
    options = {"guidance": guidance, "decoder": decoder}
    assert torch.equal(flow.inverse(z, LABELS, **options), other.inverse(z, LABELS, **options))
    back = flow.inverse(flow(x, LABELS)[0], LABELS, decoder=decoder)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-7)


@torch.no_grad()
def test_shared_networks_are_prepared_once():
    flow, z, networks = shared(), torch.randn(3, 4, 8), Networks(torch.bfloat16)
    found = flow.inverse(z, LABELS, networks=networks)
    assert len(networks.prepared) == 2
    assert torch.equal(found, unshared(flow).inverse(z, LABELS, dtype=torch.bfloat16))
    packed = flow.inverse(z, LABELS)
    exact = flow.double().inverse(z.double(), LABELS)
    torch.testing.assert_close(packed.double(), exact, rtol=0, atol=1e-5)


def test_shared_weights_are_saved_once_and_loaded_into_all(tmp_path):
    flow, x = shared(), torch.randn(3, 2, 4, 4)
    flow.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["flow"]["networks"] == [0, 1, 1]
    for other in (TarFlow.from_pretrained(tmp_path), copy.deepcopy(flow)):
        assert other.transform[3] is other.transform[5]
        assert torch.equal(other.log_prob(x, LABELS), flow.log_prob(x, LABELS))
        with torch.no_grad():
            next(other.transform[5].parameters()).add_(1)
        assert not torch.equal(other.log_prob(x, LABELS), flow.log_prob(x, LABELS))
    remade = flow.remade()
    assert remade.transform[3] is remade.transform[5]
    assert remade.state_dict().keys() == flow.state_dict().keys()


def test_more_transforms_than_tensors_may_share_a_network(tmp_path):
    flow = TarFlow(4, 2, 1, 40, 1, 8, 8, networks=(0,) * 40)
    assert len(flow.state_dict()) < 40
    flow.save_pretrained(tmp_path)
    assert TarFlow.from_pretrained(tmp_path).transform.num_decoded == 40


def test_a_report_and_a_plan_have_a_row_for_each_use():
    flow = shared()
    _, report = flow.sample_with_report(3, LABELS)
    assert len(report.transforms) == 3
    plan = calibrate(flow, 2, 1, windows=[2], repetitions=1)
    assert {measurement.depth for measurement in plan.measurements} == {0, 1, 2}


def test_what_is_not_finite_is_found_in_the_right_use():
    flow = shared()
    with torch.no_grad():
        flow.transform[3].network.proj_out.bias.fill_(-1e3)  # the log-scale of both uses
    with pytest.raises(tarflow.NonFiniteError) as caught:
        flow.check_finite(flow.log_prob(torch.ones(1, 2, 4, 4)), torch.ones(1, 2, 4, 4))
    assert caught.value.transform in (3, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"networks": (0, 0)}, "for each of the 3 transforms the index of the first"),
        ({"networks": (1, 1, 1)}, r"networks \(1, 1, 1\): give for each"),
        ({"networks": (0, 0, 1)}, "index of the first one whose network it uses"),
        ({"networks": (0, 1, 3)}, "give for each"),
        ({"networks": (0, 1, -1)}, "one of networks, -1 must be at least 0"),
        ({"num_layers": (1, 1, 2)}, "transforms 1 and 2 .* their num_layers differ: 1 and 2"),
        ({"model_dim": (8, 16, 8)}, "their model_dim differ: 16 and 8"),
        ({"head_dim": (8, 8, 4)}, "their head_dim differ: 8 and 4"),
        ({"patch_size": (2, 2, 1)}, "their patch_size differ: 2 and 1"),
        ({"dropout": (0.0, 0.0, 0.1)}, "their dropout differ: 0.0 and 0.1"),
        ({"conditioned": (True, True, False)}, "their conditioned differ: True and False"),
    ],
)
def test_networks_that_cannot_be_shared_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        shared(**options)


def test_the_deep_shallow_preset_has_as_many_parameters_as_the_equal_one():
    data = random_images(num_train=1, num_test=1, image_size=8, num_classes=10)
    counts = []
    for model in ("tarflow", "deep_shallow"):
        config = composed("train", f"model={model}")
        with torch.device("meta"):
            flow = make_flow(config.model, config.codec, config.noise, data)
        counts.append(sum(parameter.numel() for parameter in flow.parameters()))
    assert counts[0] == counts[1]
    assert flow.description.num_layers == (1, 1, 1, 5)


def test_the_command_trains_shared_weights_and_tells_of_every_use(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shape = ["model.num_transforms=3", "+model.networks=[0,1,1]", "model.num_layers=[2,1,1]"]
    steps = ["trainer.max_steps=2", "schedule.warmup_steps=1", "trainer.log_every_n_steps=1"]
    small = ["model.model_dim=16", "model.head_dim=8", "callbacks.sample_grid=null"]
    run_command("train", [*steps, *shape, *small, "run_dir=run"])
    header = (tmp_path / "run/logs/version_0/metrics.csv").read_text().splitlines()[0].split(",")
    assert {f"transform_{index}/log_det" for index in range(3)} <= set(header)
    checkpoint = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert not [key for key in checkpoint["state_dict"] if ".transforms.5." in key]
    flow = tarflow.load("run/pretrained")
    assert flow.transform[3] is flow.transform[5]
    run_command("sample", ["checkpoint=run", "num_samples=2"])
