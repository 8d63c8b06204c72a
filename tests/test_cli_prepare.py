"""`tarflow prepare`, as a user runs it, and as it is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tarflow.cli import main
from tarflow.data import memory_mapped
from tarflow.errors import DataError

SMALL = ["data=random", "data.data.image_size=8", "num_workers=0", "output=out"]


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
    return str(caught.value.code)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("format", ["arrays", "shards"])
def test_prepared_images_can_be_trained_on(format, capsys):
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("cat", "dog", "wild"):
            (Path("faces") / part / name).mkdir(parents=True)
            for index in range(8):
                pixels = rng.integers(0, 256, (20, 20, 3), np.uint8)
                Image.fromarray(pixels).save(f"faces/{part}/{name}/{index}.png")
    afhq = ["data=afhq", "data.data.image_size=8", "data.data.check_counts=false"]
    tarflow("prepare", *afhq, "data.data.root=faces", f"format={format}", "output=faces8")
    printed = capsys.readouterr().out
    assert "faces8: AFHQ v2, 8 x 8" in printed
    assert "24 train, 24 test images of (3, 8, 8)" in printed
    tiny = ["model.model_dim=16", "model.head_dim=8", "model.num_layers=1", "data.num_workers=1"]
    tarflow("train", *afhq, "data.data.root=faces8", *tiny, "data.batch_size=8",
            "trainer.max_steps=2", "schedule.warmup_steps=1", "run_dir=run")  # fmt: skip
    assert Path("run/pretrained/model.safetensors").exists()


def test_a_killed_preparation_leaves_no_data_set():
    command = [sys.executable, "-m", "tarflow", "prepare", *SMALL, "format=shards"]
    endless = [*command, "data.data.num_train=100000000"]
    process = subprocess.Popen(endless, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(Path(".out.new").glob("train-*1.tar")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "another process prepares" in error_of("prepare", *SMALL)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(list(Path(".out.new").glob("train-*.tar"))) >= 2
    assert not Path("out").exists()
    for folder in ("out", ".out.new"):
        with pytest.raises(DataError, match=r"there is no .*meta.json"):
            memory_mapped(folder)
    message = error_of("train", "data=memory_mapped", "data.data.root=.out.new", "run_dir=run")
    assert "to make one: tarflow prepare data=NAME" in message.lower().replace("name", "NAME")
    few = ("data.data.num_train=30", "data.data.num_test=10")
    tarflow("prepare", *SMALL, "format=shards", *few)
    data = memory_mapped("out", verify=True)
    assert (len(data.train), len(data.test)) == (30, 10)
    assert len(list(Path("out").glob("train-*.tar"))) == 1
    assert not Path(".out.new").exists()


def test_errors_say_what_to_do():
    assert "data.data.root is needed" in error_of("prepare", "data=folder", "output=out")
    assert "output is needed" in error_of("prepare", "data=digits")
    message = error_of("prepare", "data=imagenet64", "data.data.root=nowhere", "output=out")
    assert "there is no folder nowhere. ImageNet 64, old version" in message
    assert "ROOT/train_64x64/*.png" in message
    tarflow("prepare", "data=digits", "output=out")
    assert "out exists already" in error_of("prepare", "data=digits", "output=out")


def test_the_data_to_prepare_has_to_be_named(capsys):
    message = error_of("prepare", "output=out")
    assert "data is needed: give data=..., one of afhq, arrays, cifar10" in message
    assert error_of("prepare", "--help") == "0"
    assert "imagenet64" in capsys.readouterr().out
