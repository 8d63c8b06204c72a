"""A full disk, or a folder that cannot be written: told of at the start; nothing is lost."""

import contextlib
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tarflow import Flow, GaussianNoise, Pixels

from .models import tiny_flow
from .test_cli import error_of, tarflow


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A pretrained folder of a tiny flow of digits."""
    flow = tiny_flow(
        8, 2, 1, num_classes=3, num_layers=1, codec=Pixels(17), noise=GaussianNoise(0.3)
    )
    flow.save_pretrained(tmp_path / "run" / "pretrained")
    return tmp_path / "run" / "pretrained"


@pytest.fixture
def computed(monkeypatch) -> list[str]:
    """What the flow was asked for: these are called as ever, and counted."""
    asked: list[str] = []
    for name in ("decode", "forward"):
        original = getattr(Flow, name)

        def counted(self, *args, original=original, name=name, **options):
            asked.append(name)
            return original(self, *args, **options)

        monkeypatch.setattr(Flow, name, counted)
    return asked


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A small disk of its own, at a folder `disk`."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ["-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Leave no room on it; returns the file that takes it."""
    path = disk / "filling"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return path


@contextlib.contextmanager
def no_room() -> Iterator[None]:
    """Files stay small, as where a share is used up; what is printed may be a file too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """The disk is for reading alone."""
    remount = ["mount", "-o"]
    subprocess.run([*remount, "remount,ro", str(disk)], check=True)
    try:
        yield
    finally:
        subprocess.run([*remount, "remount,rw", str(disk)], check=True)


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "filling"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


COMMANDS = {
    "sample": ["num_samples=6", "batch_size=3"],
    "evaluate": [
        *("data=random", "data.data.image_size=8", "data.data.num_channels=1"),
        *("data.data.num_classes=3", "data.data.levels=17", "data.data.num_test=6"),
    ],
}


@pytest.fixture(params=COMMANDS)
def command(request, checkpoint) -> list[str]:
    """A command that computes, without its output."""
    return [request.param, f"checkpoint={checkpoint}", *COMMANDS[request.param]]


def test_a_full_disk(command, disk, computed):
    filling = fill(disk)
    message = error_of(*command, f"output={disk}/out")
    assert str(disk / "out") in message
    assert "No space left" in message
    assert "run the same command again" in message or "give the same command again" in message
    assert computed == []
    filling.unlink()
    tarflow(*command, f"output={disk}/out")
    assert computed
    assert contents(disk / "out")


def test_a_share_of_a_disk_that_is_used_up(command, tmp_path, computed):
    with no_room():
        message = error_of(*command, f"output={tmp_path}/out")
    assert f"{tmp_path}/out" in message
    assert "File too large" in message
    assert computed == []
    tarflow(*command, f"output={tmp_path}/out")
    assert computed


def test_a_disk_that_is_for_reading_alone(command, disk, computed):
    tarflow(*command, f"output={disk}/out")
    before = contents(disk)
    computed.clear()
    more = [*command, f"output={disk}/out", "num_samples=9"]
    if command[0] == "evaluate":
        more[-1] = "metrics.seed=1"
    with read_only(disk):
        message = error_of(*more)
        assert contents(disk) == before
    assert str(disk / "out") in message
    assert "Read-only file system" in message
    assert computed == []
    tarflow(*more)
    assert computed


def test_a_file_in_place_of_the_folder(command, tmp_path, computed):
    (tmp_path / "out").write_text("kept")
    assert f"{tmp_path}/out" in error_of(*command, f"output={tmp_path}/out")
    assert computed == []
    assert (tmp_path / "out").read_text() == "kept"


def test_samples_that_were_drawn_survive_a_full_disk(checkpoint, disk, computed):
    command = ["sample", f"checkpoint={checkpoint}", "batch_size=3", f"output={disk}/out"]
    tarflow(*command, "num_samples=6")
    before = {name: held for name, held in contents(disk).items() if "shards/0" in name}
    computed.clear()
    filling = fill(disk)
    error_of(*command, "num_samples=9")
    assert computed == []
    assert before.items() <= contents(disk).items()
    filling.unlink()
    tarflow(*command, "num_samples=9")
    assert before.items() <= contents(disk).items()
    assert "out/shards/000006-000008.npz" in contents(disk)


def test_a_plan_on_a_full_disk(checkpoint, disk, computed):
    shutil.copytree(checkpoint, disk / "pretrained")
    before, filling = contents(disk), fill(disk)
    command = ["calibrate", f"checkpoint={disk}/pretrained", "batch_size=2", "repetitions=1"]
    message = error_of(*command)
    assert f"{disk}/pretrained" in message
    assert "No space left" in message
    assert computed == []
    assert contents(disk) == before
    filling.unlink()
    tarflow(*command)
    assert before.items() < contents(disk).items()


def test_a_data_set_on_a_full_disk(tmp_path, disk):
    np.savez(tmp_path / "images.npz", images=np.zeros((99, 32, 32, 3), np.uint8))
    command = ["prepare", "data=arrays", f"data.data.path={tmp_path}/images.npz"]
    command += ["num_workers=0", f"output={disk}/out"]
    filling = fill(disk)
    for room in (0, 100_000):  # the second holds a part of the images
        with filling.open("r+b") as file:
            file.truncate(filling.stat().st_size - room)
        message = error_of(*command)
        assert str(disk / "out") in message
        assert "No space left" in message
        assert contents(disk) == {}
    filling.unlink()
    tarflow(*command)
    assert (disk / "out" / "meta.json").exists()


def test_a_conversion_on_a_full_disk(tmp_path, disk):
    from safetensors.torch import load_file

    tensors = load_file(Path(__file__).parent / "data" / "class_conditional.safetensors")
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k[:7] == "weights"}
    torch.save(weights, tmp_path / "weights.pth")
    filling = fill(disk)
    message = error_of("convert", f"{tmp_path}/weights.pth", f"{disk}/out")
    assert f"{disk}/out" in message
    assert "No space left" in message
    assert contents(disk) == {}
    filling.unlink()
    tarflow("convert", f"{tmp_path}/weights.pth", f"{disk}/out")
    assert {"out/config.json", "out/model.safetensors"} == contents(disk).keys()
