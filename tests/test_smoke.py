"""`trainer=smoke` takes two steps of every experiment on a CPU, whatever that asks for."""

import sys
from pathlib import Path

import pytest

from tarflow import TarFlow
from tarflow.cli import main
from tarflow.cli.settings import CONF
from tests.composing import composed, shrunk

EXPERIMENTS = sorted(
    path.stem
    for path in (CONF / "experiment").iterdir()
    if "tarflow train-tokenizer" not in path.read_text()
)
AT_HAND = ("digits",)
"""Data sets that come with a dependency; random images take the place of the others."""


def stand_in(experiment: str) -> list[str]:
    """What to train an experiment on where its data are not at hand: images of 16 patches."""
    config = composed("train", f"experiment={experiment}", with_hydra=True)
    if config.hydra.runtime.choices["data"] in AT_HAND:
        return []
    return ["data=random", f"data.data.image_size={4 * config.model.patch_size}"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_takes_two_small_steps(experiment, monkeypatch, capsys):
    arguments = [f"experiment={experiment}", "trainer=smoke", *stand_in(experiment)]
    monkeypatch.setattr(sys, "argv", ["tarflow", "train", *arguments])
    main()
    as_published = composed("train", f"experiment={experiment}").model
    [run] = (Path("outputs") / "smoke" / experiment).iterdir()
    assert [path.name for path in Path("outputs").iterdir()] == ["smoke"]
    flow = TarFlow.from_pretrained(run / "pretrained")
    assert flow.description.patch_size == as_published.patch_size
    assert sum(parameter.numel() for parameter in flow.parameters()) < 300_000
    assert (run / "grids" / "step_0000002.png").exists()
    assert (run / "checkpoints" / "last.ckpt").exists()
    rows = (run / "logs" / "version_0" / "metrics.csv").read_text().splitlines()
    assert {"perf/mfu", "train/nats_per_dim", "transform_1/log_det"} <= set(rows[0].split(","))
    assert "the trained model is in" in capsys.readouterr().out


GREEDY = """\
# @package _global_
defaults:
  - override /trainer: fsdp2
  - override /attention: fa4
  - override /logger: tensorboard
name: greedy
run_dir: precious
data: {batch_size: 4096, num_workers: 64, device_batch_size: 16}
model: {model_dim: 4096, num_layers: 99, num_transforms: 16, head_dim: 128, patch_size: 4}
module: {compile: true, checkpointed_layers: 3, products: tf32}
objective: {class_dropout: 0.2}
schedule: {warmup_steps: 5000}
trainer: {max_steps: 1000000, devices: 8, num_nodes: 4, precision: bf16-mixed, accelerator: gpu}
callbacks: {sample_grid: {num_samples: 1000}}
"""


def test_what_an_experiment_sets_does_not_make_it_large(tmp_path):
    (tmp_path / "more" / "experiment").mkdir(parents=True)
    (tmp_path / "more" / "experiment" / "greedy.yaml").write_text(GREEDY)
    where = f"hydra.searchpath=[file://{tmp_path}/more]"
    large = composed("train", where, "experiment=greedy")
    small = composed("train", where, "experiment=greedy", "trainer=smoke")
    assert large.trainer.devices == 8
    sets = shrunk()
    assert small.module.attention == {"_target_": "tarflow.nn.kernels.AutoAttention"}
    del sets.module.attention
    for section in ("data", "model", "module", "schedule", "trainer"):
        for key, value in sets[section].items():
            assert small[section][key] == value, key
    assert small.callbacks.sample_grid.num_samples == 2
    assert small.run_dir.startswith("outputs/smoke/greedy/")
    assert (small.model.patch_size, small.module.objective.class_dropout) == (4, 0.2)


def test_the_user_has_the_last_word_and_other_trainers_shrink_nothing():
    assert composed("train", "trainer=smoke", "trainer.max_steps=5").trainer.max_steps == 5
    for trainer in sorted(path.stem for path in (CONF / "trainer").iterdir()):
        config = composed("train", "experiment=digits_samples", f"trainer={trainer}")
        assert config.trainer.max_steps == (2 if trainer == "smoke" else 900)
