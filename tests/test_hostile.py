"""Files from others: no code that they bring, or name, is ever run."""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from tarflow import (
    CheckpointError,
    ConfigurationError,
    DataError,
    ExpScale,
    GaussianNoise,
    Pixels,
    TarFlow,
)
from tarflow.cli.command import instantiate
from tarflow.cli.hydra_section import check_section
from tarflow.cli.settings import check
from tarflow.data import arrays, memory_mapped
from tarflow.data.storage.npz_batches import NpzBatches
from tarflow.flows.published import read_published
from tarflow.registry import KNOWN
from tarflow.training.run import NEEDED, Run

from .models import tiny_flow
from .test_cli import error_of


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.fixture
def marker(tmp_path) -> Path:
    """A folder that code in a file would make."""
    return tmp_path / "marker"


@pytest.fixture(autouse=True)
def nothing_ran(marker):
    """After every test there is no such folder."""
    yield
    assert not marker.exists()


def read_state(path: Path) -> None:
    """Read a state of training, as `tarflow train` does before it goes on."""
    run = Run(path.parent.parent)
    run.step()
    run.check(torch.nn.ModuleDict({"flow": tiny_flow()}))


@pytest.mark.parametrize("kind", ["plain", "within"])
def test_states_of_training(tmp_path, marker, kind):
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    bomb = Bomb(marker)
    if kind == "plain":
        path.write_bytes(pickle.dumps(bomb))
    else:
        torch.save({key: {"x": bomb} for key in NEEDED} | {"global_step": 1}, path)
    with pytest.raises(CheckpointError, match=r"last\.ckpt cannot be read"):
        read_state(path)


@pytest.mark.parametrize("kind", ["plain", "within", "as a tensor"])
def test_published_weights(tmp_path, marker, kind):
    path, bomb = tmp_path / "weights.pth", Bomb(marker)
    content = {"blocks.0.pos_embed": bomb if kind == "as a tensor" else torch.zeros(2), "x": bomb}
    path.write_bytes(pickle.dumps(bomb)) if kind == "plain" else torch.save(content, path)
    with pytest.raises(
        CheckpointError, match=r"weights\.pth is damaged, truncated, or holds more"
    ):
        read_published(path)
    message = error_of("convert", str(path), str(tmp_path / "converted"))
    assert "holds more than tensors" in message


@pytest.mark.parametrize("content", ["pickle", "torch"])
def test_pickles_in_place_of_safetensors(tmp_path, marker, content):
    tiny_flow().save_pretrained(tmp_path / "pretrained")
    path = tmp_path / "pretrained" / "model.safetensors"
    if content == "pickle":
        path.write_bytes(pickle.dumps(Bomb(marker)))
    else:
        torch.save({"x": Bomb(marker)}, path)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        TarFlow.from_pretrained(tmp_path / "pretrained")


@pytest.mark.parametrize("key", ["images", "labels"])
def test_objects_in_arrays(tmp_path, marker, key):
    content = {"images": np.zeros((9, 8, 8), np.uint8), "labels": np.zeros(9, int)}
    content[key] = np.array([Bomb(marker)] * 9, object)
    np.savez(tmp_path / "bad.npz", **content)
    np.save(tmp_path / "bad.npy", content[key])
    for name in ("bad.npz", "bad.npy") if key == "images" else ("bad.npz",):
        with pytest.raises(DataError, match="Python objects are never loaded"):
            arrays(tmp_path / name)


def test_a_pickle_with_the_name_of_an_array(tmp_path, marker):
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as archive:
        archive.writestr("images.npy", pickle.dumps(Bomb(marker)))
    (tmp_path / "bad.npy").write_bytes(pickle.dumps(Bomb(marker)))
    for name in ("bad.npz", "bad.npy"):
        with pytest.raises(DataError, match=rf"{name}"):
            arrays(tmp_path / name)
    with pytest.raises(DataError, match=r"bad\.npz"):
        NpzBatches([tmp_path / "bad.npz"], 4)


def test_objects_in_prepared_data(tmp_path, marker):
    meta = '{"format": "arrays", "name": "x", "levels": 256, "num_classes": 0, "image_shape":'
    meta += ' [1, 2, 2], "class_names": [], "counts": {"train": 1, "test": 1}, "sha256": {}}'
    (tmp_path / "meta.json").write_text(meta)
    for part in ("train", "test"):
        for kind in ("images", "labels"):
            np.save(tmp_path / f"{part}_{kind}.npy", np.array([Bomb(marker)], object))
    with pytest.raises(DataError, match=r"train_images\.npy .* cannot be read"):
        memory_mapped(tmp_path)


def make(section):
    """Check a section and make what it describes, as the commands do."""
    check(OmegaConf.to_container(section, resolve=True))
    return instantiate(section)


TARGETS = [
    *("os.system", "os.mkdir", "posix.mkdir", "builtins.exec", "builtins.eval", "builtins.print"),
    *("subprocess.Popen", "subprocess.run", "shutil.rmtree", "pathlib.Path", "pickle.loads"),
    *("torch.load", "numpy.load", "importlib.import_module", "evil_module.run", "", "mkdir"),
    *("tarflow.machine.files.os.mkdir", "tarflow.training.checkpoints.subprocess.run"),
    *(
        "tarflow.sampling.sample_folder.shutil.rmtree",
        "tarflow.data.arrays.np.load",
        "tarflow.data.arrays.torch.load",
    ),
    *("tarflow.training.checkpoints._scontrol", "tarflow.__builtins__.exec"),
    *("lightning.pytorch.callbacks.os.mkdir", "lightning.pytorch.loggers.csv_logs.os.mkdir"),
    *("torch.optim.adam.torch.load", "torch.optim._functional.os.mkdir", "torch.optimize.me"),
    *("tarflow.nothing", "tarflow", "tarflow."),
    *("tarflow.flows.checkpoint.save", "tarflow.data.prepare", "tarflow.TarFlow.from_pretrained"),
    *("tarflow.machine.files.write_atomically", "tarflow.machine.files.check_writable"),
    *("tarflow.training.checkpoints.requeue", "tarflow.cli.run_command", "tarflow.registry.Part"),
    *("lightning.Trainer.fit", "lightning.pytorch.loggers.csv_logs.rank_zero_only"),
    *("lightning.pytorch.callbacks.model_checkpoint.log", "lightning.LightningModule.load"),
    *("torch.optim.swa_utils.get_ema_avg_fn", "torch.optim.adam.adam"),
]


@pytest.mark.parametrize("target", TARGETS)
def test_targets(tmp_path, marker, monkeypatch, target):
    evil = f"import os\nos.mkdir({str(marker)!r})\ndef run(*a, **k): os.mkdir({str(marker)!r})\n"
    (tmp_path / "evil_module.py").write_text(evil)
    monkeypatch.syspath_prepend(tmp_path)
    hostile = {"_target_": target, "_args_": [str(marker)]}
    fit = {"_target_": "tarflow.LinearGuidance", "weight": 1.0}
    for config in (
        hostile,
        {**fit, "schedule": hostile},
        {**fit, "schedule": [{"deeper": hostile}]},
        {**hostile, "_partial_": True},
    ):
        with pytest.raises(ConfigurationError, match=r"_target_=.*(not called|not to be found)"):
            make(OmegaConf.create(config))


def test_a_target_by_way_of_another_key(marker):
    config = OmegaConf.create(
        {"name": "os.mkdir", "section": {"_target_": "${name}", "_args_": [str(marker)]}}
    )
    with pytest.raises(ConfigurationError, match=r"_target_='os\.mkdir' is not called"):
        make(config.section)


def test_targets_of_commands(tmp_path, marker, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_flow(8, 2, 1, codec=Pixels(17), noise=GaussianNoise(0.1)).save_pretrained("pretrained")
    hostile = f"{{_target_: os.mkdir, _args_: ['{marker}']}}"
    for arguments in (
        [
            "sample",
            "checkpoint=pretrained",
            "decoder._target_=os.mkdir",
            f"+decoder.path={marker}",
        ],
        ["evaluate", "checkpoint=pretrained", "metrics._target_=os.mkdir"],
        ["evaluate", "checkpoint=pretrained", "data.data._target_=os.mkdir"],
        ["prepare", "data=digits", "output=o", "data.data._target_=os.mkdir"],
        ["train", "trainer=smoke", "run_dir=r", "data._target_=os.mkdir"],
        ["train", "trainer=smoke", "run_dir=r", "optimizer._target_=os.mkdir"],
        ["train", "trainer=smoke", "run_dir=r", "callbacks.export._target_=os.mkdir"],
        ["train", "trainer=smoke", "run_dir=r", "model.scale._target_=os.mkdir"],
    ):
        assert "os.mkdir" in error_of(*arguments), arguments
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    text = f"# @package _global_\ndata: {{data: {hostile}}}\n"
    (folder / "theirs.yaml").write_text(text)
    command = ["train", f"hydra.searchpath=[file://{tmp_path}/conf]", "experiment=theirs"]
    assert "os.mkdir" in error_of(*command, "run_dir=r")


SETTINGS = [
    "callbacks: {evil: {_target_: os.mkdir, _args_: [MARKER]}}",
    "callbacks: {evil: {_target_: hydra.experimental.callbacks.os.mkdir, _args_: [MARKER]}}",
    "callbacks: {evil: {_target_: '${oc.select:evil,os.mkdir}', _args_: [MARKER]}}",
    "sweeper: {_target_: evil_module.Sweeper}",
    "launcher: {_target_: evil_module.Launcher}",
    "job_logging: {handlers: {evil: {(): os.mkdir, path: MARKER}}}",
    "hydra_logging: {handlers: {evil: {class: logging.os.mkdir, path: MARKER}}}",
    "hydra_logging: {handlers: {console: {stream: 'ext://evil_module.stream'}}}",
    "job: {env_set: {TARFLOW_TARGETS: os}}",
    "launcher: {setup: [mkdir MARKER]}",
]


@pytest.mark.parametrize("more", [[], ["--multirun"]])
@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_hydra_in_a_file(tmp_path, marker, monkeypatch, setting, more):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil_module.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    launcher = ""
    if setting.startswith("launcher: {setup"):
        launcher = "defaults: [{override /hydra/launcher: submitit_slurm}]\n"
    text = f"# @package _global_\n{launcher}hydra: {{{setting}}}\n".replace("MARKER", str(marker))
    (folder / "theirs.yaml").write_text(text)
    command = ["train", *more, f"--config-dir={tmp_path}/conf", "experiment=theirs"]
    error = error_of(*command, "trainer=smoke", "run_dir=r")
    assert error.startswith("tarflow: hydra."), error
    assert "is not called" in error or "is not taken from a file" in error
    assert not Path("r").exists()


def test_what_users_set_of_hydra_is_taken():
    settings = OmegaConf.create({"job": {"env_set": {"NCCL_DEBUG": "INFO"}}})
    check_section(settings, ["hydra.job.env_set.NCCL_DEBUG=INFO"])
    check_section(settings, ["+hydra.job.env_set.NCCL_DEBUG=INFO"])
    with pytest.raises(ConfigurationError, match=r"hydra\.job\.env_set is not taken from a file"):
        check_section(settings, ["experiment=theirs"])


def test_a_package_of_the_users_own_may_be_named(tmp_path, monkeypatch):
    (tmp_path / "own_package.py").write_text("def make(): return 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = OmegaConf.create({"_target_": "own_package.make"})
    with pytest.raises(ConfigurationError, match="TARFLOW_TARGETS"):
        make(config)
    monkeypatch.setenv("TARFLOW_TARGETS", "another,own_package")
    assert make(config) == 3


def test_a_package_of_the_users_own_gives_no_name_to_what_is_not_registered(tmp_path, monkeypatch):
    lines = "import os\nfrom tarflow.data import prepare\nfrom tarflow import ExpScale\n"
    (tmp_path / "borrowing.py").write_text(lines)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TARFLOW_TARGETS", "borrowing")
    for name in ("borrowing.os.mkdir", "borrowing.prepare", "borrowing._private"):
        with pytest.raises(ConfigurationError, match="is not called"):
            make(OmegaConf.create({"_target_": name}))
    assert make(OmegaConf.create({"_target_": "borrowing.ExpScale"})) == ExpScale()


def test_the_users_own_packages_are_imported_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    lines = "from tarflow import ExpScale\nclass ScaleOfSomebody(ExpScale): pass\n"
    (tmp_path / "of_somebody.py").write_text(lines)
    monkeypatch.setenv("TARFLOW_TARGETS", "of_somebody")
    assert "is neither a pretrained folder" in error_of("sample", "checkpoint=nowhere")
    assert "ScaleOfSomebody" in KNOWN
    monkeypatch.setenv("TARFLOW_TARGETS", "of_somebody,not_there")
    message = error_of("sample", "checkpoint=nowhere")
    assert "TARFLOW_TARGETS names not_there, which cannot be imported" in message


@pytest.mark.parametrize("option", ["--experimental-rerun", "--exp"])
def test_pickled_configurations(tmp_path, marker, option):
    (tmp_path / "config.pickle").write_bytes(pickle.dumps(Bomb(marker)))
    assert "would read a pickle" in error_of("train", f"{option}={tmp_path}/config.pickle")


def test_everything_is_checked_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_flow(8, 2, 1, codec=Pixels(17), noise=GaussianNoise(0.1)).save_pretrained("pretrained")
    command = ["sample", "checkpoint=pretrained", "num_samples=2", "data=digits"]
    assert "os.mkdir" in error_of(*command, "data.data._target_=os.mkdir")
    assert "validation_fraction='x'" in error_of(*command, "data.data.validation_fraction=x")
    assert not (tmp_path / "samples").exists()
