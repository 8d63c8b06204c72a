"""Files in the format of the published code: what is inferred from them, and what is refused."""

import collections
import os
import pickle

import pytest
import torch

from tarflow import (
    CheckpointError,
    ExpScale,
    GaussianNoise,
    Pixels,
    TarFlow,
    UnitScale,
)
from tarflow.cli.convert import convert
from tarflow.flows.published import from_published, read_published

from .published import golden, random_state

FAMILIES = pytest.mark.parametrize("family", ["attn_blocks", "head_blocks"])
NAMES = pytest.mark.parametrize(
    "name", ["class_conditional", "unconditional", "volume_preserving"]
)


@pytest.fixture
def write(tmp_path):
    """Write anything with `torch.save`, and return the path."""

    def write(content, **options):
        torch.save(content, tmp_path / "weights.pth", **options)
        return tmp_path / "weights.pth"

    return write


def shapes_of(state):
    return {key: value.shape for key, value in state.items()}


def test_random_state_has_the_keys_of_a_published_one():
    for name in ("class_conditional", "unconditional", "volume_preserving"):
        state, _, case = golden(name)
        length, patch_dim = state["var"].shape
        mine = random_state(
            length=length,
            patch_dim=patch_dim,
            blocks=case["num_blocks"],
            layers=case["layers_per_block"],
            outputs=2 if case["nvp"] else 1,
            classes=case["num_classes"],
        )
        assert shapes_of(mine) == shapes_of(state)
    state, _, case = golden("noise_conditional")
    layers, classes = tuple(case["layers_per_block"]), case["num_classes"]
    mine = random_state("head_blocks", case["num_blocks"], layers=layers, classes=classes)
    assert shapes_of(mine) == shapes_of(state)


@NAMES
@pytest.mark.parametrize("zipped", [True, False])
def test_every_argument_is_inferred(name, zipped, write):
    state, _, case = golden(name)
    path = write(state, _use_new_zipfile_serialization=zipped)
    flow = read_published(path, case["img_size"], case["noise_std"])
    assert not flow.training
    expected = {
        "image_size": (case["img_size"], case["img_size"]),
        "patch_size": case["patch_size"],
        "num_channels": case["in_channels"],
        "num_transforms": case["num_blocks"],
        "num_layers": case["layers_per_block"],
        "model_dim": case["channels"],
        "head_dim": 64,
        "expansion": 4,
        "dropout": 0.0,
        "num_classes": case["num_classes"],
        "scale": ExpScale() if case["nvp"] else UnitScale(),
        "codec": Pixels(256),
        "noise": GaussianNoise(case["noise_std"]),
    }
    assert {key: getattr(flow.description, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("sizes", "arguments"),
    [
        ({"width": 128}, {"model_dim": 128, "head_dim": 64}),
        ({"expansion": 2}, {"expansion": 2}),
        ({"blocks": 11}, {"num_transforms": 11}),
        ({"layers": 12}, {"num_layers": 12}),
        ({"classes": 1}, {"num_classes": 1}),
        ({"outputs": 1}, {"scale": UnitScale()}),
        ({"length": 64, "patch_dim": 48}, {"image_size": (32, 32), "patch_size": 4}),
        ({"length": 1}, {"image_size": (2, 2), "patch_size": 2}),
        ({"patch_dim": 3}, {"image_size": (4, 4), "patch_size": 1, "num_channels": 3}),
    ],
)
def test_other_sizes_are_inferred(sizes, arguments):
    description = from_published(random_state(**sizes)).description
    assert {key: getattr(description, key) for key in arguments} == arguments


@NAMES
@pytest.mark.parametrize("prefix", ["", "attn_blocks.0.attention."])
def test_noise_is_the_published_one_and_masks_are_ignored(name, prefix, write):
    state, tensors, case = golden(name)
    masks = {
        f"blocks.{index}.{prefix}attn_mask": torch.ones(16, 16).tril()
        for index in range(case["num_blocks"])
    }
    flow = read_published(write(state | masks), case["img_size"])
    conditions = {"uncond.z": None} | ({"cond.z": tensors["y"]} if case["num_classes"] else {})
    for key, label in conditions.items():
        z, _ = flow(tensors["x"], label)
        torch.testing.assert_close(z, tensors[key], rtol=0, atol=1e-5)


@NAMES
def test_round_trip_through_a_pretrained_folder(name, write, tmp_path):
    state, tensors, case = golden(name)
    flow = read_published(write(state), case["img_size"], 0.07)
    flow.save_pretrained(tmp_path / "pretrained")
    loaded = TarFlow.from_pretrained(tmp_path / "pretrained")
    assert loaded.description == flow.description
    label = tensors.get("y")
    assert torch.equal(loaded.log_prob(tensors["x"], label), flow.log_prob(tensors["x"], label))


def test_noise_is_kept_if_it_is_given():
    state = random_state()
    assert from_published(state).noise is None
    assert from_published(state, noise_std=0.05).noise == GaussianNoise(0.05)


def test_learned_variance_is_read():
    state = random_state(outputs=1)
    assert torch.equal(from_published(state).base.variance, state["var"])


def test_class_embeddings_of_either_shape():
    state = random_state(classes=3)
    flat = state | {"blocks.0.class_embed": state["blocks.0.class_embed"][:, 0]}
    x, label = torch.randn(3, 3, 8, 8), torch.tensor([0, 1, 2])
    expected = from_published(state).log_prob(x, label)
    assert torch.equal(from_published(flat).log_prob(x, label), expected)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"patch_dim": 4}, "16 patches of 4 numbers.* give image_size=8 or image_size=4$"),
        ({"patch_dim": 16}, "give image_size=16 or image_size=8$"),
        ({"patch_dim": 8}, r"give image_size=\.\.\.$"),
        ({"length": 8}, r"8 patches of 12 numbers.* give image_size=\.\.\.$"),
    ],
)
def test_open_image_size_is_asked_for(sizes, message, write):
    path = write(random_state(**sizes))
    with pytest.raises(CheckpointError, match=message) as caught:
        read_published(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("sizes", "image_size", "patch_size", "num_channels"),
    [
        ({"patch_dim": 4}, 8, 2, 1),
        ({"patch_dim": 4}, 4, 1, 4),
        ({"patch_dim": 8}, 8, 2, 2),
        ({"length": 8}, (4, 8), 2, 3),
        ({"length": 8}, (8, 4), 2, 3),
        ({"length": 16}, (4, 16), 2, 3),
    ],
)
def test_given_image_size(sizes, image_size, patch_size, num_channels):
    flow = from_published(random_state(**sizes), image_size)
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    assert flow.image_shape == (num_channels, height, width)
    assert flow.description.patch_size == patch_size


@pytest.mark.parametrize("image_size", [0, 1, 2, 6, 7, 12, 16, (8, 4), (1, 64)])
def test_image_size_that_does_not_fit(image_size):
    with pytest.raises(CheckpointError, match=r"image_size \d+ x \d+ does not fit the weights"):
        from_published(random_state(), image_size)


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing\.pth does not exist"):
        read_published(tmp_path / "nothing.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_file(write, zipped):
    path = write(random_state(), _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    for kept in [*range(0, 4000, 61), len(content) // 2, len(content) - 1]:
        path.write_bytes(content[:kept])
        with pytest.raises(CheckpointError, match=r"weights\.pth is damaged, truncated"):
            read_published(path)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04", b"\x80\x02.", b"\x80\x02N."])
def test_file_of_another_kind(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"weights\.pth is damaged|is not a state dict"):
        read_published(path)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_code_is_run(write, tmp_path, zipped):
    state = random_state() | {"var": Bomb(tmp_path / "marker")}
    path = write(state, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        read_published(path)
    assert not (tmp_path / "marker").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "marker").exists()


def test_no_code_of_a_plain_pickle_is_run(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "marker"), protocol=2))
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        read_published(path)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    "content",
    [
        torch.zeros(3),
        [torch.zeros(3)],
        {"model": {"var": torch.zeros(3)}},
        {"epoch": 3},
    ],
    ids=["tensor", "list", "nested", "number"],
)
def test_other_content(write, content):
    with pytest.raises(CheckpointError, match="is not a state dict"):
        read_published(write(content))


def test_a_key_that_is_not_a_name(write):
    with pytest.raises(CheckpointError, match="'3' does not belong to a TarFlow"):
        read_published(write(random_state() | {3: torch.zeros(3)}))


# --- Checkpoints of a training ------------------------------------------------------------------


def with_prefix(state, prefix, **others):
    """The same tensors under other names."""
    return {prefix + key: value for key, value in state.items()} | others


def compiled_within(state):
    """Names of a flow of which each block was compiled, then the whole put into DDP."""
    return {
        f"module.{key}".replace("blocks.0.", "blocks.0._orig_mod."): state[key] for key in state
    }


def first_bias(flow):
    """Of the first block's input."""
    found = [value for key, value in flow.state_dict().items() if key.endswith("proj_in.bias")]
    return found[0]


STEPS = {"optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]}}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"model": state, "epoch": 3, **STEPS},
        lambda state: {"state_dict": with_prefix(state, "module."), **STEPS},
        lambda state: with_prefix(state, "_orig_mod."),
        lambda state: with_prefix(state, "module._orig_mod."),
        lambda state: with_prefix(state, "_orig_mod.module.", n_averaged=torch.tensor(7)),
        lambda state: {
            "state_dict": with_prefix(state, "net.", **{"metric.total": torch.ones(1)})
        },
        lambda state: {"training": {"ema": with_prefix(state, "flow.model.")}},
        lambda state: collections.OrderedDict(compiled_within(state)),
    ],
    ids=["model", "ddp", "compiled", "both", "averaged", "lightning", "nested", "layers"],
)
def test_a_model_is_found_within_a_checkpoint(write, wrap):
    state = random_state(classes=3)
    expected = from_published(state).state_dict()
    found = read_published(write(wrap(state))).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_one_of_several_models_is_chosen_by_name(write, tmp_path, monkeypatch):
    model, ema = random_state(), random_state()
    path = write({"model": with_prefix(model, "module."), "ema": ema, "step": 3})
    with pytest.raises(
        CheckpointError, match="several models: give one of model=model, model=ema"
    ):
        read_published(path)
    with pytest.raises(CheckpointError, match="no model 'best': give one of model=model, model="):
        read_published(path, model="best")
    for name, state in {"model": model, "ema": ema}.items():
        found = first_bias(read_published(path, model=name))
        assert torch.equal(found, state["blocks.0.proj_in.bias"])
    convert([str(path), str(tmp_path / "converted"), "model=ema"])
    assert (tmp_path / "converted" / "config.json").exists()


def test_two_models_in_one_state_dict(write):
    student, teacher = random_state(), random_state()
    path = write(with_prefix(student, "net.") | with_prefix(teacher, "net_ema."))
    with pytest.raises(CheckpointError, match="give one of model=net, model=net_ema"):
        read_published(path)
    found = first_bias(read_published(path, model="net"))
    assert torch.equal(found, student["blocks.0.proj_in.bias"])


@FAMILIES
@pytest.mark.parametrize("outputs", [1, 2])
def test_every_missing_key_is_named(family, outputs):
    state = random_state(family, blocks=2, layers=2, classes=3, outputs=outputs)
    unneeded = {"blocks.0.class_embed"} | ({"var"} if outputs == 2 else set())
    if family == "head_blocks":  # whose transforms may differ in what they read
        unneeded.add("blocks.1.class_embed")
    for key in state.keys() - unneeded:
        remaining = {other: value for other, value in state.items() if other != key}
        with pytest.raises(CheckpointError, match=f"the key '{key}' is missing"):
            from_published(remaining)


def test_empty_state():
    with pytest.raises(CheckpointError, match=r"the key 'blocks\.0\.pos_embed' is missing"):
        from_published({})


@pytest.mark.parametrize(
    ("family", "key"),
    [
        (family, key)
        for family in ("attn_blocks", "head_blocks")
        for key in sorted(random_state(family, blocks=2, classes=3))
    ],
)
def test_misshapen_key_is_named(family, key):
    state = random_state(family, blocks=2, classes=3, outputs=1)
    # A matrix would tell another size, and make the keys wrong that depend on it.
    telling = ("blocks.0.pos_embed", "blocks.0.proj_in.weight", "blocks.0.class_embed")
    state[key] = torch.zeros(5, 5, 5) if key in telling else torch.zeros(5, 7)
    with pytest.raises(CheckpointError, match=f"'{key}' has shape"):
        from_published(state)


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("blocks.1.pos_embed", (9, 64), r"'blocks\.1\.pos_embed' has shape \(9, 64\).*\(16, 64\)"),
        ("blocks.0.proj_in.weight", (64,), "weight' has shape .64,., not 2 dimensions"),
        ("blocks.0.pos_embed", (0, 64), r"pos_embed' has shape \(0, 64\)"),
        ("blocks.0.pos_embed", (16, 0), r"pos_embed' has shape \(16, 0\)"),
        ("blocks.0.class_embed", (3, 2, 64), r"class_embed' has shape \(3, 2, 64\)"),
        ("blocks.0.proj_out.weight", (30, 64), r"proj_out.weight' has shape \(30, 64\)"),
        ("blocks.0.attn_blocks.0.mlp.main.0.weight", (250, 64), r"has shape \(250, 64\)"),
    ],
)
def test_misshapen_tensors(key, shape, message):
    state = random_state(blocks=2, classes=3) | {key: torch.zeros(shape)}
    with pytest.raises(CheckpointError, match=message):
        from_published(state)


@pytest.mark.parametrize(
    "key", ["extra", "blocks.0.extra", "blocks.0.class_embed2", "optimizer.step", "blocks.0.var"]
)
def test_foreign_key_is_named(key):
    with pytest.raises(CheckpointError, match=f"the key '{key}' does not belong to a TarFlow"):
        from_published(random_state() | {key: torch.zeros(3)})


def test_foreign_block_is_noticed():
    with pytest.raises(CheckpointError, match=r"the key 'blocks\.1\..*' is missing"):
        from_published(random_state() | {"blocks.1.extra": torch.zeros(3)})


@pytest.mark.parametrize("width", [32, 96])
def test_width_that_holds_no_whole_heads(width):
    with pytest.raises(CheckpointError, match=f"the width {width} is not a multiple of"):
        from_published(random_state(width=width))
