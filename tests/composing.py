"""What the commands compose from their arguments."""

from importlib import import_module

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from tarflow.cli.command import settings_of
from tarflow.cli.settings import CONF

OF_TRANSFORMERS = ("shrink/two_steps", "shrink/transformers")
OF_TOKENIZERS = ("shrink/two_steps", "shrink_tokenizer/smoke")
SHRINK = {
    "train": (*OF_TRANSFORMERS, "shrink/smoke"),
    "distill": (*OF_TRANSFORMERS, "shrink_student/smoke"),
    "train-tokenizer": OF_TOKENIZERS,
    "tune-decoder": OF_TOKENIZERS,
}
"""Where it is said what `trainer=smoke` shrinks, of commands that fit something."""


def shrunk(command: str = "train") -> DictConfig:
    """What `trainer=smoke` sets."""
    merged = OmegaConf.merge(*(OmegaConf.load(CONF / f"{name}.yaml") for name in SHRINK[command]))
    assert isinstance(merged, DictConfig)
    del merged["defaults"]
    return merged


def composed(command: str, *overrides: str, with_hydra: bool = False) -> DictConfig:
    """The configuration of a command."""
    command = command.replace("-", "_")
    settings_of(getattr(import_module(f"tarflow.cli.{command}"), command))
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(command, list(overrides), return_hydra_config=with_hydra)
