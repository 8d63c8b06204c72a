"""Published models of all noise levels, whose transforms may differ in every size."""

import re

import pytest
import torch
import torch.nn.functional as F

from tarflow import (
    CheckpointError,
    ConfigurationError,
    Context,
    ContextError,
    ExpScale,
    Pixels,
    TarFlow,
    UniformLevels,
)
from tarflow.cli.convert import convert
from tarflow.flows.published import from_published, read_published

from .published import golden, random_state


def saved(state, tmp_path):
    """The path of a state dict that was written by `torch.save`."""
    torch.save(state, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


UNEQUAL = {
    "blocks": 3,
    "length": (16, 4, 16),
    "patch_dim": (12, 48, 12),
    "width": (64, 128, 192),
    "layers": (2, 1, 3),
    "expansion": (4, 2, 1),
    "classes": (0, 0, 5),
}


def test_every_argument_of_a_noise_conditional_model_is_inferred(tmp_path):
    state, _, case = golden("noise_conditional")
    flow = read_published(saved(state, tmp_path), noise_levels=(case["t0"], case["t1"]))
    expected = {
        "image_size": (case["img_size"], case["img_size"]),
        "patch_size": case["patch_sizes"][0],
        "num_channels": case["in_channels"],
        "num_transforms": case["num_blocks"],
        "num_layers": tuple(case["layers_per_block"]),
        "model_dim": case["channels"][0],
        "head_dim": 64,
        "expansion": 4,
        "num_classes": case["num_classes"],
        "scale": ExpScale(),
        "codec": Pixels(256),
        "noise": UniformLevels(case["t0"], case["t1"]),
        "conditioned": True,
    }
    assert {key: getattr(flow.description, key) for key in expected} == expected


@torch.no_grad()
def test_a_noise_conditional_model_computes_what_the_published_code_does(tmp_path):
    state, tensors, _ = golden("noise_conditional")
    flow = read_published(saved(state, tmp_path))
    for prefix, label in (("", tensors["y"]), ("uncond.", None)):
        context = Context(label, noise_level=tensors["noise_level"])
        z, log_det = flow(tensors["x"], context)
        torch.testing.assert_close(z, tensors[f"{prefix}z"], rtol=0, atol=1e-5)
        mean = log_det / flow.num_dims
        torch.testing.assert_close(mean, tensors[f"{prefix}logdet_mean"], rtol=0, atol=1e-5)


def test_every_size_may_differ_between_transforms(tmp_path):
    flow = read_published(saved(random_state("head_blocks", **UNEQUAL), tmp_path))
    expected = {
        "image_size": (8, 8),
        "patch_size": (2, 4, 2),
        "num_channels": 3,
        "num_layers": (2, 1, 3),
        "model_dim": (64, 128, 192),
        "expansion": (4, 2, 1),
        "num_classes": 5,
        "conditioned": (False, False, True),
        "noise": None,
    }
    assert {key: getattr(flow.description, key) for key in expected} == expected
    flow.save_pretrained(tmp_path / "pretrained")
    x, context = torch.randn(2, 3, 8, 8), {"label": torch.tensor([4, -1]), "noise_level": 0.2}
    loaded = TarFlow.from_pretrained(tmp_path / "pretrained")
    assert torch.equal(loaded.log_prob(x, context), flow.log_prob(x, context))


@torch.no_grad()
def test_unequal_transforms_compute_what_their_equations_say():
    state = random_state("head_blocks", **UNEQUAL)
    state = {key: value.double() - 0.05 for key, value in state.items()}  # of either sign
    flow = from_published(state).double()
    x, y = torch.randn(2, 3, 8, 8).double(), torch.tensor([4, 1])
    level = torch.tensor([0.05, 0.2]).double()
    z, log_det = flow(x, Context(y, noise_level=level))
    image, total = x, torch.zeros(2).double()
    for index, size in enumerate((2, 4, 2)):
        weights = {
            key.removeprefix(f"blocks.{index}."): value
            for key, value in state.items()
            if key.startswith(f"blocks.{index}.")
        }
        patches = F.unfold(image, size, stride=size).mT  # numbers of a patch: channel, row, column
        patches, log_scale = step(weights, patches, y, level, reverse=index % 2 == 1)
        image = F.fold(patches.mT, (8, 8), size, stride=size)
        total -= log_scale.sum(dim=(1, 2))
    torch.testing.assert_close(z, F.unfold(image, 2, stride=2).mT)
    torch.testing.assert_close(log_det, total)


def step(w, x, y, level, reverse):
    """One transform of METHOD, sections 1 and 4, by its equations: z and the log-scale."""
    order = slice(None) if not reverse else list(range(x.shape[1]))[::-1]
    x, pos = x[:, order], w["pos_embed"][order]
    half = pos.shape[1] // 2
    angle = level.log()[:, None] * 10000 ** (-torch.arange(half).double() / half)
    waves = torch.cat([angle.sin(), angle.cos()], dim=1)
    h = F.gelu(linear(w, "time_embed.mlp.0", waves))
    h = linear(w, "proj_in", x) + pos + linear(w, "time_embed.mlp.2", h)[:, None]
    if "class_embed" in w:
        h = h + w["class_embed"][y]
    for layer in sorted({key[: len("head_blocks.0.")] for key in w if "head_blocks" in key}):
        normed = norm(w, f"{layer}attention.norm", h)
        q, k, v = linear(w, f"{layer}attention.qkv", normed).unflatten(2, (3, -1, 64)).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + linear(w, f"{layer}attention.proj", attended.transpose(1, 2).flatten(2))
        hidden = F.gelu(linear(w, f"{layer}mlp.main.0", norm(w, f"{layer}mlp.norm", h)))
        h = h + linear(w, f"{layer}mlp.main.2", hidden)
    log_scale, shift = linear(w, "proj_out", h[:, :-1]).chunk(2, dim=2)
    log_scale, shift = (F.pad(part, (0, 0, 1, 0)) for part in (log_scale, shift))
    return ((x - shift) * (-log_scale).exp())[:, order], log_scale


def linear(w, name, x):
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def norm(w, name, x):
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])


@pytest.mark.parametrize(
    ("lengths", "patch_dims", "image_size", "sizes"),
    [
        ((9, 4), (4, 9), None, ((6, 6), (2, 3), 1)),
        ((16, 4), (48, 192), None, ((16, 16), (4, 8), 3)),
        ((16, 4), (4, 16), 8, ((8, 8), (2, 4), 1)),
        ((16, 4), (4, 16), 4, ((4, 4), (1, 2), 4)),
        ((16, 4), (20, 80), (4, 16), ((4, 16), (2, 4), 5)),
    ],
)
def test_patches_of_two_sizes_tell_the_images(lengths, patch_dims, image_size, sizes):
    state = random_state("head_blocks", 2, length=lengths, patch_dim=patch_dims)
    description = from_published(state, image_size).description
    found = description.image_size, description.patch_size, description.num_channels
    assert found == sizes


def test_patches_of_two_sizes_may_leave_the_images_open():
    state = random_state("head_blocks", 2, length=(16, 4), patch_dim=(4, 16))
    message = r"\(16 patches of 4 numbers, 4 of 16\) .* give image_size=8 or image_size=4$"
    with pytest.raises(CheckpointError, match=message):
        from_published(state)
    with pytest.raises(CheckpointError, match=r"image_size 6 x 6 does not fit .* 4 of 16"):
        from_published(state, 6)


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("blocks.1.pos_embed", (9, 64), r"has shape \(9, 64\).*\(16, 64\)"),
        ("blocks.1.proj_in.weight", (64, 13), r"has shape \(64, 13\).*\(64, 12\)"),
        ("blocks.2.pos_embed", (16, 128), r"has shape \(16, 128\).*\(16, 64\)"),
        ("blocks.1.time_embed.mlp.0.weight", (256, 32), r"has shape \(256, 32\).*\(256, 64\)"),
        ("blocks.2.class_embed", (4, 1, 64), r"has shape \(4, 1, 64\).*\(3, 64\)"),
    ],
)
def test_what_does_not_fit_the_other_transforms_is_named(key, shape, message):
    state = random_state("head_blocks", 3, classes=3) | {key: torch.zeros(shape)}
    with pytest.raises(CheckpointError, match=f"'{re.escape(key)}' {message}"):
        from_published(state)


def test_noise_is_told_in_the_way_of_the_family(tmp_path):
    path = saved(random_state("head_blocks"), tmp_path)
    with pytest.raises(CheckpointError, match="knows the noise level: give noise_levels=LOW:HIGH"):
        read_published(path, noise_std=0.05)
    with pytest.raises(ConfigurationError, match="0 < low < high"):
        read_published(path, noise_levels=(0.3, 0.01))
    convert([str(path), str(tmp_path / "converted"), "noise_levels=0.01:0.3"])
    assert TarFlow.from_pretrained(tmp_path / "converted").noise == UniformLevels(0.01, 0.3)
    plain = saved(random_state(), tmp_path)
    with pytest.raises(CheckpointError, match=r"one noise: give noise_std=.* in place of noise_l"):
        read_published(plain, noise_levels=(0.01, 0.3))


@pytest.mark.parametrize("text", ["", "0.3", "0.01:", "a:b", "0.01:0.2:0.3"])
def test_noise_levels_that_cannot_be_read(tmp_path, text):
    path = saved(random_state("head_blocks"), tmp_path)
    with pytest.raises(SystemExit, match=r"cannot be read: write .*noise_levels="):
        convert([str(path), str(tmp_path / "converted"), f"noise_levels={text}"])
    assert not (tmp_path / "converted").exists()


@torch.no_grad()
def test_a_model_without_its_levels_needs_one_of_each_example():
    flow, x = from_published(golden("noise_conditional")[0]), torch.randn(2, 3, 8, 8)
    assert flow.noise is None
    with pytest.raises(ContextError, match="noise_level"):
        flow.log_prob(x)
    assert flow.log_prob(x, {"noise_level": torch.tensor([0.1, 0.2])}).shape == (2,)
    assert flow.sample(2, {"noise_level": torch.tensor([0.1, 0.2])}).isfinite().all()
