"""The measure of the design: somebody else's package adds one idea of each kind, a file for each.

`tests/extensions/extra` touches nothing of `tarflow`. The commands are told of it by
TARFLOW_TARGETS, and train, go on, evaluate and sample with all of it at once.
"""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

import tarflow
from tarflow import CheckpointError, ExampleSeeds, GaussianNoise, Pixels, denoise

from . import fresh
from .fresh import Finished
from .models import tiny_flow

PACKAGE = Path(__file__).parent / "extensions"

PARTS = (
    *("data.data._target_=extra.data.bright_digits", "data.data.validation_fraction=0.1"),
    *("~model", "+model._target_=extra.flow.CoarseToFine"),
    "+model.scale={_target_: extra.scale.ArctanScale, bound: 1.5}",
    "+model.ordering={_target_: extra.ordering.EvenThenOdd}",
    "+model.layer={_target_: extra.layer.Parallel}",
    "+model.conditioners=[{_target_: extra.condition.BrightnessConditioner, num_waves: 3}]",
    *("~noise", "+codec={_target_: extra.codec.RootPixels}"),
    "+noise={_target_: extra.noise.LaplaceNoise, width: 0.1}",
    *("~objective", "+objective={_target_: extra.objective.PenalizedLikelihood, penalty: 0.02}"),
)
"""Options of `tarflow train`: everything that can be somebody else's is."""

SIZES = (
    *(
        "data.batch_size=16",
        "schedule={warmup_steps: 1, total_steps: 4}",
        "trainer.log_every_n_steps=1",
    ),
    *("callbacks.sample_grid.num_samples=4", "callbacks.sample_grid.every_n_steps=4"),
    *("trainer.check_val_every_n_epoch=null", "+trainer.val_check_interval=4", "run_dir=run"),
)


def run(folder: Path, *arguments: str, known: bool = True) -> Finished:
    """Run a command in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": f"{PACKAGE}:{os.environ.get('PYTHONPATH', '')}"}
    if known:
        environment["TARFLOW_TARGETS"] = "extra"
    return fresh.tarflow(folder, *arguments, environment=environment)


def told(done: Finished) -> str:
    """What a command printed, which has worked."""
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a run of four steps, of which the last two went on from a checkpoint."""
    folder = tmp_path_factory.mktemp("somebody")
    for steps in (2, 4):
        told(run(folder, "train", *PARTS, *SIZES, f"trainer.max_steps={steps}"))
    return folder


def test_training_logs_what_the_objective_tells_and_goes_on(folder):
    with (folder / "run/logs/version_1/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in ("penalized_nats_per_dim", "largest_square"):
        for part in ("train", "val"):
            assert [row for row in rows if row.get(f"{part}/{name}")], name
    assert not [key for key in rows[0] if key.endswith("/nats_per_dim")]
    assert (folder / "run/grids/step_0000004.png").exists()


def test_the_folder_names_every_part_and_is_read_where_the_package_is_known(folder):
    content = json.loads((folder / "run/pretrained/config.json").read_text())["flow"]
    assert content["type"] == "CoarseToFine"
    assert content["conditioners"] == [{"type": "BrightnessConditioner", "num_waves": 3}]
    assert content["scale"] == {"type": "ArctanScale", "bound": 1.5}
    assert content["codec"] == {"type": "RootPixels", "levels": 17}
    with pytest.raises(CheckpointError, match=r"not known here: import .* or .*TARFLOW_TARGETS"):
        tarflow.load(folder / "run/pretrained")


def test_a_configuration_may_name_the_package_only_where_the_user_does(folder):
    refused = run(folder, "train", *PARTS, *SIZES, "run_dir=other", known=False)
    assert refused.returncode == 1
    assert "set the environment variable TARFLOW_TARGETS" in refused.stderr
    assert not (folder / "other/pretrained").exists()


def test_the_metric_is_evaluated_and_so_are_those_of_the_package(folder):
    data = ("data.data._target_=extra.data.bright_digits",)
    metric = ("~metrics", "+metrics._target_=extra.metric.BrightnessError")
    told(run(folder, "evaluate", "checkpoint=run", *data, *metric))
    report = json.loads((folder / "run/evaluation/brightness/report.json").read_text())
    assert 0 < report["brightness_error"] < 1
    assert "nats/dim" in told(run(folder, "evaluate", "checkpoint=run", *data))
    smaller = ("metrics=samples", "metrics.num_samples=8", "metrics.seeds=[0,1]")
    assert "pixels" in told(run(folder, "evaluate", "checkpoint=run", *data, *smaller))


def test_samples_are_drawn_with_the_rule_and_the_decoder_under_the_condition(folder):
    rule = ("guidance=1", "guidance_rule._target_=extra.guidance.WideGuidance")
    decoders = {
        "whole": ("~decoder", "+decoder._target_=extra.decoder.WholePasses"),
        "sequential": ("decoder=sequential",),
    }
    found = {}
    for name, decoder in decoders.items():
        options = (*rule, *decoder, "num_samples=6", "save_npz=true", f"output={name}")
        told(run(folder, "sample", "checkpoint=run", *options, "+context.brightness=[0.1,0.4]"))
        found[name] = np.load(folder / name / "samples.npz")["images"]
    assert found["whole"].shape == (6, 1, 8, 8)
    assert np.array_equal(found["whole"], found["sequential"])
    other = ("num_samples=6", "save_npz=true", "output=bright", "+context.brightness=0.9", *rule)
    told(run(folder, "sample", "checkpoint=run", *other))
    assert not np.array_equal(np.load(folder / "bright/samples.npz")["images"], found["whole"])
    wrong = run(folder, "sample", "checkpoint=run", "+context.brightness=7", "output=wrong")
    assert wrong.returncode == 1
    assert "brightness is from 0 to 1" in wrong.stderr


def test_samples_lose_their_noise_as_the_denoiser_says(folder):
    flow = tiny_flow(num_channels=1, codec=Pixels(17), noise=GaussianNoise(0.3))
    flow.save_pretrained(folder / "noisy")
    halfway = ("~denoiser", "+denoiser._target_=extra.denoiser.Halfway")
    told(run(folder, "sample", "checkpoint=noisy", *halfway, "num_samples=3", "save_npz=true"))
    x = flow.eval().sample(3, source=ExampleSeeds(0, range(3)))
    expected = flow.codec.decode((x + denoise(flow, x)) / 2)
    assert np.array_equal(np.load(folder / "samples_noisy/samples.npz")["images"], expected)


def test_a_file_holds_an_idea_and_the_package_is_known_to_nothing():
    files = sorted(path.stem for path in (PACKAGE / "extra").glob("*.py"))
    assert len(files) == 15
    root = Path(tarflow.__file__).parent
    named = [path for path in root.rglob("*.py") if "brightness" in path.read_text()]
    assert not named
