"""Pretrained folders: what is written is read back, and whatever is wrong with one is named."""

import json
import os
import pickle
from dataclasses import dataclass

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import tarflow
from tarflow import (
    CheckpointError,
    ExpScale,
    Flow,
    GaussianNoise,
    NoNoise,
    Part,
    Pixels,
    Raster,
    Reverse,
    Scale,
    SoftClipScale,
    SoftplusScale,
    SplineScale,
    StandardNormal,
    TarFlow,
    UniformDequantization,
    UnitScale,
)
from tarflow.flows import checkpoint

from .models import tiny_flow

SCALES = [
    Scale(),
    ExpScale(),
    SoftClipScale(bound=2.5),
    SoftplusScale(),
    UnitScale(),
    SplineScale(5),
]
DATA = [(None, None), (UniformDequantization(17), NoNoise()), (Pixels(17), GaussianNoise(0.1))]
KEY = "transform.transforms.1.network.proj_in.weight"


@pytest.fixture
def folder(tmp_path):
    """A pretrained folder."""
    tiny_flow().save_pretrained(tmp_path / "pretrained")
    return tmp_path / "pretrained"


def edit_config(folder, **changes):
    """Change the constructor arguments that a folder holds; None removes one."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["flow"] |= changes
    content["flow"] = {key: value for key, value in content["flow"].items() if value is not None}
    path.write_text(json.dumps(content))


def edit_weights(folder, change):
    """Change the tensors that a folder holds."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_same(flow, loaded, x, label=None):
    assert loaded.description == flow.description
    assert (loaded.codec, loaded.noise) == (flow.codec, flow.noise)
    assert not loaded.training
    assert loaded.state_dict().keys() == flow.state_dict().keys()
    assert torch.equal(loaded.log_prob(x, label), flow.log_prob(x, label))


@pytest.mark.parametrize("num_classes", [0, 3])
@pytest.mark.parametrize(("codec", "noise"), DATA, ids=repr)
@pytest.mark.parametrize("scale", SCALES, ids=repr)
def test_flow_survives_saving(tmp_path, scale, codec, noise, num_classes):
    flow = tiny_flow(num_classes=num_classes, scale=scale, codec=codec, noise=noise)
    flow.save_pretrained(tmp_path)
    label = torch.tensor([0, 2, -1, 1]) if num_classes else None
    assert_same(flow, TarFlow.from_pretrained(tmp_path), torch.randn(4, 2, 4, 4), label)


def test_every_argument_survives_saving(tmp_path):
    options = {"expansion": 3, "dropout": 0.25, "num_layers": 1, "num_transforms": 2}
    flow = tiny_flow((4, 6), num_channels=1, model_dim=8, **options).eval()
    flow.save_pretrained(str(tmp_path / "deep" / "folder"))
    loaded = TarFlow.from_pretrained(str(tmp_path / "deep" / "folder"))
    assert_same(flow, loaded, torch.randn(4, 1, 4, 6))
    assert loaded.image_shape == (1, 4, 6)
    assert loaded.description.image_size == (4, 6)


def test_one_value_for_each_transform_survives_saving(tmp_path):
    options = {"patch_size": (2, 4, 2), "num_layers": (1, 2, 1), "model_dim": (16, 8, 24)}
    flow = tiny_flow(4, num_channels=1, ordering=Raster(), **options).eval()
    flow.save_pretrained(tmp_path)
    assert_same(flow, TarFlow.from_pretrained(tmp_path), torch.randn(4, 1, 4, 4))


def test_a_flow_without_a_description_cannot_be_saved(tmp_path):
    flow = Flow([Reverse()], StandardNormal(4, 2))
    with pytest.raises(CheckpointError, match="a Flow cannot be saved"):
        flow.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_class_is_found_by_its_name(tmp_path):
    class OtherFlow(TarFlow):
        pass

    class NarrowFlow(TarFlow):
        def __init__(self, model_dim: int = 8):
            super().__init__(4, 2, 1, 1, 1, model_dim, 8)

    with pytest.raises(CheckpointError, match="a NarrowFlow cannot be saved"):
        NarrowFlow().save_pretrained(tmp_path)
    OtherFlow(4, 2, 1, 1, 1, 8, 8).save_pretrained(tmp_path)
    assert type(tarflow.load(tmp_path)) is OtherFlow
    assert type(TarFlow.from_pretrained(tmp_path)) is OtherFlow
    tiny_flow().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="holds a TarFlow, which is not a OtherFlow"):
        OtherFlow.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["Flow", "ExpScale", "os.system", "Unheard", "", None, 3, ["x"]])
def test_what_is_not_a_known_flow_is_refused(folder, name):
    edit_config(folder, type=name)
    with pytest.raises(CheckpointError, match=r"which is not a known|cannot make|damaged"):
        tarflow.load(folder)


def test_learned_variance_is_saved(tmp_path):
    flow = tiny_flow(scale=UnitScale())
    flow.base.update((3 * torch.randn(50, 4, 8)).square().mean(dim=0))
    flow.save_pretrained(tmp_path)
    loaded = TarFlow.from_pretrained(tmp_path)
    assert torch.equal(loaded.base.variance, flow.base.variance)
    assert loaded.base.variance.min() > 1
    assert_same(flow, loaded, torch.randn(4, 2, 4, 4))


def test_scale_of_the_user(tmp_path):
    @dataclass(frozen=True)
    class FlatterScale(SoftClipScale):
        slope: float = 0.5

        def log_scale(self, raw):
            return super().log_scale(self.slope * raw)

    flow = tiny_flow(scale=FlatterScale(bound=3.0, slope=0.25))
    flow.save_pretrained(tmp_path)
    assert_same(flow, TarFlow.from_pretrained(tmp_path), torch.randn(4, 2, 4, 4))


def test_files_of_a_folder(folder):
    assert sorted(contents(folder)) == ["config.json", "model.safetensors"]
    content = json.loads((folder / "config.json").read_text())
    assert content["format"] == 2
    assert content["flow"]["scale"] == {"type": "ExpScale"}
    weights = (folder / "model.safetensors").read_bytes()
    header = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
    assert header.keys() - {"__metadata__"} == tiny_flow().state_dict().keys()
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor(KEY), tiny_state()[KEY])


def tiny_state():
    """The weights that the fixture saved: the same seed was set before both."""
    torch.manual_seed(0)
    return tiny_flow().state_dict()


def test_noncontiguous_weights_are_saved(tmp_path):
    weights = {"a": torch.randn(3, 4).mT}
    checkpoint.save(tmp_path, ("TarFlow", ExpScale()), weights)
    assert torch.equal(checkpoint.read_weights(tmp_path)["a"], weights["a"])


def test_saving_replaces_an_older_folder(folder):
    flow = tiny_flow(num_classes=3, num_layers=1)
    flow.save_pretrained(folder)
    assert sorted(contents(folder)) == ["config.json", "model.safetensors"]
    assert_same(flow, TarFlow.from_pretrained(folder), torch.randn(4, 2, 4, 4))


def test_missing_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere is not a pretrained folder.*config\.json"):
        TarFlow.from_pretrained(tmp_path / "nowhere")


def test_missing_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        TarFlow.from_pretrained(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"format": 1, "model": {',
        b"no JSON",
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b'{"format": 1}',
        b'{"model": {}}',
        b'{"format": 1, "model": 3}',
        b'{"format": 1, "model": ["image_size"]}',
        b'{"format": 2}',
        b'{"format": 2, "flow": {}}',
        b'{"format": 2, "flow": 3}',
    ],
)
def test_damaged_configuration(folder, content):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        TarFlow.from_pretrained(folder)


@pytest.mark.parametrize("number", [0, 3, "1", None])
def test_unknown_format(folder, number):
    content = json.loads((folder / "config.json").read_text()) | {"format": number}
    (folder / "config.json").write_text(json.dumps(content))
    message = f"has format {number!r}, but this version of tarflow reads formats 1 and 2"
    with pytest.raises(CheckpointError, match=message):
        TarFlow.from_pretrained(folder)


@pytest.mark.parametrize("argument", ["scale", "noise"])
@pytest.mark.parametrize(
    "named",
    [
        "os.system",
        "system",
        "eval",
        "tarflow.flows.affine.ExpScale",
        "TarFlow",
        "LinearGuidance",
        "",
        3,
        ["x"],
        {"a": 1},
    ],
)
def test_unknown_kind(folder, argument, named):
    edit_config(folder, **{argument: {"type": named}})
    with pytest.raises(CheckpointError, match=r"which is not known here|is not a|cannot make a"):
        TarFlow.from_pretrained(folder)


@pytest.mark.parametrize("key", ["type", "_target_", "__reduce__"])
@pytest.mark.parametrize("function", ["os.mkdir", "posix.mkdir", "mkdir"])
def test_no_code_is_run(folder, tmp_path, key, function):
    marker = tmp_path / "marker"
    edit_config(folder, noise={key: function, "path": str(marker), "_args_": [str(marker)]})
    with pytest.raises(CheckpointError, match=r"config\.json names"):
        TarFlow.from_pretrained(folder)
    assert not marker.exists()


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def test_weights_are_never_unpickled(folder, tmp_path):
    content = pickle.dumps(Bomb(tmp_path / "marker"))
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        TarFlow.from_pretrained(folder)
    assert not (tmp_path / "marker").exists()
    pickle.loads(content)
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, "unexpected keyword argument 'colour'"),
        ({"image_size": [8]}, "cannot make the model"),
        ({"patch_size": 3}, "cannot make the model: .*3 does not divide"),
        ({"head_dim": 5}, "cannot make the model: .*5"),
        ({"head_dim": 0}, "cannot make the model"),
        ({"model_dim": -16}, "cannot make the model"),
        ({"model_dim": "16"}, "cannot make the model"),
        ({"num_classes": -1}, "cannot make the model"),
        ({"image_size": None}, "cannot make the model: .*'image_size'"),
        ({"scale": {"type": "GaussianNoise"}}, "cannot make the model"),
        ({"num_layers": [1, 2]}, "cannot make the model: .*one for each of the 3 transforms"),
        ({"scale": {"type": "SoftClipScale", "width": 1}}, "a SoftClipScale: .*'width'"),
        ({"codec": {"type": "Pixels", "levels": 1}}, "a Pixels: levels 1 must be"),
        ({"noise": {"type": "GaussianNoise", "std": -1.0}}, "a GaussianNoise: noise std -1.0"),
        ({"noise": {"type": "Noise"}}, "cannot make a Noise"),
    ],
)
def test_arguments_that_make_no_model(folder, changes, message):
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        TarFlow.from_pretrained(folder)


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 500, 0.3, 0.5, 0.9, -1])
def test_truncated_weights(folder, kept):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if 0 < kept < 1 else kept])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged or truncated"):
        TarFlow.from_pretrained(folder)


def test_missing_key(folder):
    edit_weights(folder, lambda weights: weights.pop(KEY))
    with pytest.raises(CheckpointError, match=f"pretrained: the key '{KEY}' is missing"):
        TarFlow.from_pretrained(folder)


def test_misshapen_key(folder):
    edit_weights(folder, lambda weights: weights.update({KEY: torch.zeros(16, 7)}))
    message = rf"'{KEY}' has shape \(16, 7\), but the model needs \(16, 8\)"
    with pytest.raises(CheckpointError, match=message):
        TarFlow.from_pretrained(folder)


def test_unknown_key(folder):
    edit_weights(folder, lambda weights: weights.update({"extra": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match="the model has no 'extra'"):
        TarFlow.from_pretrained(folder)


def test_configuration_of_another_model(folder):
    edit_config(folder, num_layers=1)
    with pytest.raises(CheckpointError, match=r"the model has no '.*blocks\.1"):
        TarFlow.from_pretrained(folder)


def test_refused_weights_leave_the_module_alone():
    flow = tiny_flow()
    before = {key: value.clone() for key, value in flow.state_dict().items()}
    weights = {key: value + 1 for key, value in before.items()}
    del weights[list(weights)[-1]]
    with pytest.raises(CheckpointError, match="is missing"):
        checkpoint.load_weights(flow, weights, "here")
    assert all(torch.equal(value, before[key]) for key, value in flow.state_dict().items())


def test_failing_save_leaves_the_folder_as_it_was(folder):
    @dataclass(frozen=True)
    class Holding(Part):
        value: object

    before = contents(folder)
    shared = torch.zeros(3)
    with pytest.raises(CheckpointError, match=r"value .* cannot be saved: config.json holds"):
        checkpoint.save(folder, ("TarFlow", Holding(object())), {"a": shared})
    with pytest.raises(RuntimeError, match="share memory"):
        checkpoint.save(folder, ("TarFlow", ExpScale()), {"a": shared, "b": shared})
    assert contents(folder) == before
    TarFlow.from_pretrained(folder)


def test_failing_replacement_leaves_the_configuration_as_it_was(folder):
    config = (folder / "config.json").read_bytes()
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    with pytest.raises(IsADirectoryError):
        tiny_flow(num_layers=1).save_pretrained(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert (folder / "config.json").read_bytes() == config


def test_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "taken").write_text("kept")
    with pytest.raises(FileExistsError):
        tiny_flow().save_pretrained(tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "kept"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_a_flow_comes_back_in_the_dtype_it_was_saved_in(tmp_path, dtype):
    tiny_flow().to(dtype).save_pretrained(tmp_path)
    loaded = TarFlow.from_pretrained(tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}


def test_both_files_can_be_read_by_the_same_people(tmp_path):
    tiny_flow().save_pretrained(tmp_path)
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1
