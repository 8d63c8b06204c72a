"""What the command line offers for layers and positions."""

import pytest
from omegaconf import OmegaConf

from tarflow import (
    AdaptiveNorm,
    LearnedPositions,
    PreNorm,
    RootMeanSquare,
    RotaryGrid,
    RotaryPositions,
    SwiGLU,
)
from tarflow.cli.settings import CONF
from tarflow.cli.targets import completed
from tarflow.cli.train import make_flow
from tarflow.data import random_images

from .composing import composed

LAYERS = {
    "pre_norm": PreNorm(),
    "modern": PreNorm(RootMeanSquare(), SwiGLU(), RootMeanSquare()),
    "adaptive": AdaptiveNorm(),
}
POSITIONS = {
    "learned": LearnedPositions(),
    "rotary": RotaryPositions(),
    "rotary_grid": RotaryGrid(),
    "both": RotaryGrid(added=LearnedPositions()),
}


def described(*options: str):
    """What a flow is made from that `tarflow train` makes."""
    config = composed("train", *options)
    data = random_images(num_train=1, num_test=1, image_size=8, num_classes=3)
    return make_flow(config.model, config.codec, config.noise, data).description


def test_every_file_is_a_choice():
    for folder, choices in (("layer", LAYERS), ("positions", POSITIONS)):
        assert {path.stem for path in (CONF / "model" / folder).iterdir()} == set(choices)


def test_layers_and_positions_are_chosen_by_name_and_parts_by_key():
    for name, layer in LAYERS.items():
        assert described(f"model/layer={name}").layer == layer
    for name, positions in POSITIONS.items():
        assert described(f"model/positions={name}").positions == positions
    norm = ("model.layer.norm={_target_: tarflow.RootMeanSquare}", "+model.layer.norm.eps=1.0e-6")
    assert described("model/layer=adaptive", *norm).layer == AdaptiveNorm(RootMeanSquare(1e-6))
    modern, plain = described("model=modern"), described()
    found = (modern.layer, modern.positions, modern.output_norm)
    assert found == (LAYERS["modern"], POSITIONS["both"], RootMeanSquare())
    assert (plain.layer, plain.positions, plain.output_norm) == (
        PreNorm(),
        LearnedPositions(),
        None,
    )


@pytest.mark.parametrize("choices", [[], ["model=deep_shallow"]])
def test_runs_from_before_layers_were_chosen_go_on(choices):
    now = OmegaConf.to_container(composed("train", *choices).model)
    then = {k: v for k, v in now.items() if k not in ("layer", "positions", "output_norm")}
    assert completed(now) == completed(then)
