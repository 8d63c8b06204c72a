"""The commands, as a user runs them."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tarflow import UniformDequantization, load
from tarflow.cli import main

ROOT = Path(__file__).parents[1]
TINY = [
    "model.model_dim=16",
    "model.head_dim=8",
    "model.num_layers=1",
    "model.num_transforms=2",
    "data.batch_size=16",
    "schedule.warmup_steps=1",
    "callbacks.sample_grid.num_samples=10",
]


def tarflow(*arguments: str) -> None:
    """Run a command in this process."""
    before = sys.argv
    sys.argv = ["tarflow", *arguments]
    try:
        main()
    finally:
        sys.argv = before


def error_of(*arguments: str) -> str:
    """The message with which a command ends."""
    with pytest.raises(SystemExit) as caught:
        tarflow(*arguments)
    assert caught.value.code != 0
    return str(caught.value.code)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run folder of two steps with Gaussian noise."""
    run = tmp_path_factory.mktemp("trained") / "run"
    tarflow("train", "experiment=digits_samples", "trainer.max_steps=2", f"run_dir={run}", *TINY)
    return run


def test_a_finished_run_is_not_trained_again(trained, capsys):
    weights = (trained / "pretrained" / "model.safetensors").stat().st_mtime_ns
    tarflow(
        "train", "experiment=digits_samples", "trainer.max_steps=2", f"run_dir={trained}", *TINY
    )
    assert "is trained already: 2 steps" in capsys.readouterr().out
    assert (trained / "pretrained" / "model.safetensors").stat().st_mtime_ns == weights


def test_evaluate_writes_a_report(trained, tmp_path, capsys):
    tarflow("evaluate", f"checkpoint={trained}", "data=digits", f"output={tmp_path}/report")
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["count"] == 360
    assert set(report["noisy_nats_per_dim"]) == {"mean", "standard_error", "interval_95"}
    weights = (trained / "pretrained" / "model.safetensors").read_bytes()
    assert report["checkpoint_sha256"] == hashlib.sha256(weights).hexdigest()
    assert len((tmp_path / "report" / "per_image.csv").read_text().splitlines()) == 361
    assert "360 test images" in capsys.readouterr().out


def test_two_processes_evaluate_as_one(trained, tmp_path):
    reports = {}
    for world_size in (1, 2):
        for rank in reversed(range(world_size)):
            options = ["metrics.batch_size=50", f"rank={rank}", f"world_size={world_size}"]
            options += [f"+data.num_workers={world_size - 1}"]
            folder = tmp_path / str(world_size)
            tarflow("evaluate", f"checkpoint={trained}", *options, f"output={folder}")
            assert (folder / "report.json").exists() == (rank == 0)
        reports[world_size] = [
            (folder / name).read_bytes() for name in ("report.json", "per_image.csv")
        ]
        assert sorted(path.name for path in folder.iterdir()) == ["per_image.csv", "report.json"]
    assert reports[1] == reports[2]


def test_evaluate_compares_with_a_baseline(trained, tmp_path, capsys):
    options = ["data=digits", f"baseline={trained}/pretrained", f"output={tmp_path}/report"]
    tarflow("evaluate", f"checkpoint={trained}", *options)
    report = json.loads((tmp_path / "report" / "comparison" / "report.json").read_text())
    assert report["noisy_nats_per_dim_difference"]["mean"] == 0
    assert report["baseline"] == f"{trained}/pretrained"
    assert report["baseline_sha256"] == report["checkpoint_sha256"]
    assert "image by image, on 360 images" in " ".join(capsys.readouterr().out.split())
    message = error_of("evaluate", f"checkpoint={trained}", *options, "metrics=samples")
    assert "baseline= compares likelihoods" in message


def test_evaluate_samples_compares_guidance_and_denoising(trained, tmp_path):
    options = ["metrics=samples", "metrics.num_samples=80", "metrics.seeds=[0,1]", "guidance=2.0"]
    tarflow("evaluate", f"checkpoint={trained}", *options, f"output={tmp_path}/report")
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert set(report["samples"]) == {
        "guidance 2, denoised",
        "guidance 2, not denoised",
        "no guidance, denoised",
        "no guidance, not denoised",
        "real held-out images",
    }
    real = report["samples"]["real held-out images"]
    assert real["accuracy"]["mean"] == pytest.approx(356 / 360)


def test_sample_writes_pictures_and_arrays_that_do_not_depend_on_the_batch_size(trained, tmp_path):
    arrays = []
    for batch_size in (3, 8):
        output = tmp_path / str(batch_size)
        what = [
            "num_samples=8",
            "guidance=1.0",
            "label=[3,7]",
            "seed=5",
            f"batch_size={batch_size}",
        ]
        where = ["save_png=true", "save_npz=true", "data=digits", f"output={output}"]
        tarflow("sample", f"checkpoint={trained}", *what, *where)
        arrays.append(np.load(output / "samples.npz"))
        assert len(list((output / "images").iterdir())) == 8
        assert (output / "grid.png").exists()
    assert arrays[0]["labels"].tolist() == [3, 7] * 4
    assert arrays[0]["images"].shape == (8, 1, 8, 8)
    # a number at the edge of two levels may be rounded either way
    difference = arrays[0]["images"].astype(int) - arrays[1]["images"].astype(int)
    assert np.abs(difference).max() <= 1
    assert np.mean(difference != 0) < 0.01


def test_convert_makes_a_folder_that_samples(tmp_path):
    tensors = load_file(ROOT / "tests/data/class_conditional.safetensors")
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k[:7] == "weights"}
    torch.save(weights, tmp_path / "weights.pth")
    tarflow("convert", "weights.pth", "converted", "noise_std=0.05")
    tarflow("sample", "checkpoint=converted", "num_samples=5", "output=drawn")
    assert Path("drawn/grid.png").exists()
    flow = load("converted")
    z, _ = flow(tensors["x"], tensors["y"])
    torch.testing.assert_close(z, tensors["cond.z"], rtol=0, atol=1e-5)
    assert "holds a model already" in error_of("convert", "weights.pth", "converted")


def test_folders_of_images_and_arrays_can_be_trained_on(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for index in range(20):
            pixels = rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{index}.png")
    np.savez("arrays.npz", images=rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8))
    sources = {
        "folder": ["data.data.root=pets", "data.data.image_size=8", "data.num_workers=0"],
        "arrays": ["data.data.path=arrays.npz"],
    }
    for data, options in sources.items():
        tarflow("train", f"data={data}", *options, "trainer.max_steps=2", f"run_dir={data}", *TINY)
        flow = load(f"{data}/pretrained")
        assert flow.num_classes == (2 if data == "folder" else 0)
        assert flow.image_shape == (3, 8, 8)
        assert flow.codec == UniformDequantization(256)
        tarflow("evaluate", f"checkpoint={data}", f"data={data}", *options)
        report = json.loads(Path(f"{data}/evaluation/likelihood/report.json").read_text())
        assert report["bits_per_dim"]["mean"] == pytest.approx(8, abs=0.6)
        assert flow.class_names == (("cat", "dog") if data == "folder" else ())
    tarflow("sample", "checkpoint=folder", "num_samples=2", "label=dog", "output=dogs")
    tarflow("sample", "checkpoint=folder", "num_samples=2", "label=1", "output=ones")
    assert Path("dogs/grid.png").read_bytes() == Path("ones/grid.png").read_bytes()
    asked = ("sample", "checkpoint=folder", "output=cows")
    assert "label=cow is unknown: give all, none" in error_of(*asked, "label=cow")
    assert "this model knows 0 ... 1 (cat, dog)" in error_of(*asked, "label=[dog,cow]")


def test_images_of_any_number_of_channels(tmp_path):
    rng = np.random.default_rng(0)
    for channels in (2, 5):
        images = rng.integers(0, 256, (40, 8, 8, channels), dtype=np.uint8)
        np.savez("arrays.npz", images=images)
        run, grids = f"run{channels}", ["callbacks.sample_grid.every_n_steps=2"]
        options = ["data=arrays", "data.data.path=arrays.npz", "noise=gaussian", "noise.std=0.1"]
        tarflow("train", *options, *grids, "trainer.max_steps=2", f"run_dir={run}", *TINY)
        with Image.open(next(Path(run).glob("grids/*.png"))) as grid:
            assert grid.mode == ("L" if channels == 2 else "RGB")
        tarflow("sample", f"checkpoint={run}", "num_samples=2", "save_png=true")
        with np.load(f"{run}/samples/samples.npz") as arrays:
            assert arrays["images"].shape == (2, channels, 8, 8)


def test_errors_say_what_to_do(trained, tmp_path):
    (tmp_path / "empty").mkdir()
    train, sample = ["train", "trainer.max_steps=2"], ["sample", f"checkpoint={trained}"]
    assert "patch_size 3 does not divide the image size 8 x 8" in error_of(
        *train, "model.patch_size=3", "run_dir=a"
    )
    assert "model_dim 60 is not a multiple of head_dim 32" in error_of(
        *train, "model.model_dim=60", "run_dir=b"
    )
    np.savez("grey.npz", images=np.zeros((40, 8, 8), np.uint8), labels=np.arange(40))
    arrays = [*train, "data=arrays", "data.data.path=grey.npz", "run_dir=e"]
    assert "channel" in error_of(*arrays, "+data.data.num_channels=3")
    assert "39" in error_of(*arrays, "+data.data.num_classes=10")
    assert "there is no folder nowhere" in error_of(
        *train, "data=folder", "data.data.root=nowhere", "run_dir=c"
    )
    assert "batch_size 2000 exceeds the 1437 training images" in error_of(
        *train, "data.batch_size=2000", "run_dir=d"
    )
    assert "is neither a pretrained folder" in error_of("sample", "checkpoint=empty")
    assert "this model knows 0 ... 9" in error_of(*sample, "label=10")
    assert "weight -1" in error_of(*sample, "guidance=-1.0")
    assert "other settings, on which its result depends" in error_of(
        *train, "experiment=digits_samples", f"run_dir={trained}", *TINY, "model.model_dim=32"
    )
    assert "image_size=..." in error_of("convert", "weights.pth", "out", "size=3")
    assert "checkpoint is needed" in error_of("sample")
    assert "data.data.root is needed" in error_of(*train, "data=folder", "run_dir=f")
    assert "usage: tarflow COMMAND" in error_of("draw")


def test_tensorboard_gets_curves_and_pictures(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = ["logger=tensorboard", "trainer.log_every_n_steps=1", "trainer.max_steps=2"]
    tarflow("train", *options, "callbacks.sample_grid.every_n_steps=2", "run_dir=run", *TINY)
    [events] = Path("run/tensorboard").rglob("events.out.*")
    found = EventAccumulator(str(events)).Reload().Tags()
    assert "train/nats_per_dim" in found["scalars"]
    assert found["images"] == ["samples"]


@pytest.mark.slow
def test_wandb_logs_offline(tmp_path):
    command = [sys.executable, "-m", "tarflow", "train", "logger=wandb"]
    options = [
        "logger.wandb.offline=true",
        "trainer.max_steps=2",
        "callbacks.sample_grid.every_n_steps=2",
        "run_dir=run",
    ]
    finished = subprocess.run([*command, *options, *TINY], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    [folder] = Path("run/wandb").glob("offline-run-*")
    assert list(folder.glob("*.wandb"))
    assert list(folder.glob("files/media/images/samples*.png"))


def test_a_killed_run_goes_on_from_its_checkpoint(capsys):
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "run_dir=run", *TINY]
    command += ["schedule.total_steps=3000", "callbacks.checkpoint.every_n_steps=2"]
    checkpoint = Path("run/checkpoints/last.ckpt")
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*command, "trainer.max_steps=3000"], **silent)
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    state = torch.load(checkpoint, weights_only=True)
    step = state["global_step"]
    assert 0 < step < 3000
    average = state["averaging"]["averages"][0.9999]
    weights = {name.removeprefix("flow."): value for name, value in state["state_dict"].items()}
    assert any(not torch.equal(value, weights[name]) for name, value in average.items())
    # A kill during a write leaves a partial file beside the whole one, which is not looked at.
    checkpoint.with_name(".last.ckpt.new").write_bytes(b"half a file")
    shorter = [*command[3:], f"trainer.max_steps={step + 5}"]
    tarflow("train", "run_dir=run", *shorter)
    told = capsys.readouterr().out
    assert f"going on from run/checkpoints/last.ckpt at step {step}" in told
    assert torch.load(checkpoint, weights_only=True)["global_step"] == step + 5
    versions = sorted(path.name for path in Path("run/logs").iterdir())
    assert versions == ["version_0", "version_1"]
    tarflow("train", "run_dir=straight", *shorter)
    killed, never_killed = (
        torch.load(f"{name}/checkpoints/last.ckpt", weights_only=True)
        for name in ("run", "straight")
    )
    killed["average"], never_killed["average"] = (
        content["averaging"]["averages"][0.9999] for content in (killed, never_killed)
    )
    for weights in ("state_dict", "average"):
        for name, value in never_killed[weights].items():
            assert torch.equal(killed[weights][name], value), name


def test_the_wheel_works_from_any_directory(tmp_path):
    """Build it, install it beside the dependencies of this environment, and train with it."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
    subprocess.run([*build, "--outdir", "dist", str(ROOT)], check=True, capture_output=True)
    [wheel] = Path("dist").glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--quiet"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    [packages] = (tmp_path / "venv").glob("lib/python*/site-packages")
    dependencies = Path(torch.__file__).parents[1]
    (packages / "dependencies.pth").write_text(f"{dependencies}\n")
    where = subprocess.run(
        [python, "-c", "from tarflow.cli.settings import CONF; print(CONF)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.strip() == str(packages / "tarflow" / "conf")
    command = [python.parent / "tarflow", "train", "experiment=digits_likelihood"]
    settings = ["trainer.max_steps=2", "run_dir=run", *TINY]
    finished = subprocess.run([*command, *settings], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert load("run/pretrained").codec.levels == 17
