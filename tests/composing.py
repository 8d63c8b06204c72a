"""What the commands compose from their arguments."""

from importlib import import_module

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from tarflow.cli.command import settings_of
from tarflow.cli.settings import CONF


def composed(command: str, *overrides: str, with_hydra: bool = False) -> DictConfig:
    """The configuration of a command."""
    command = command.replace("-", "_")
    settings_of(getattr(import_module(f"tarflow.cli.{command}"), command))
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(command, list(overrides), return_hydra_config=with_hydra)
