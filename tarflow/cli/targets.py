"""Which classes and functions a configuration may name."""

import os
from typing import Any

import hydra.utils
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from tarflow.arguments import shown
from tarflow.errors import ConfigurationError

ALLOWED = (
    "tarflow.",
    "lightning.Trainer",
    "lightning.pytorch.callbacks.",
    "lightning.pytorch.loggers.",
    "lightning.pytorch.plugins.",
    "lightning.pytorch.profilers.",
    "lightning.pytorch.strategies.",
    "torch.optim.",
)
"""What a name may begin with."""

PACKAGES = ("tarflow", "lightning", "torch.optim")
"""Where what is named has to come from: a module's imports can be reached by its name too."""

VARIABLE = "TARFLOW_TARGETS"
"""Environment variable that names more packages, with commas between them."""


def check_targets(config: Any) -> None:
    """Refuse a configuration that names a class or function of any other package.

    A configuration may come from somebody else; what it names would be called.

    Raises:
        ConfigurationError: It does.
    """
    if OmegaConf.is_config(config):
        config = OmegaConf.to_container(config, resolve=True)
    if isinstance(config, dict):
        if "_target_" in config:
            _check(config["_target_"])
        config = list(config.values())
    if isinstance(config, list | tuple):
        for part in config:
            check_targets(part)


def own_packages() -> tuple[str, ...]:
    """The packages that the user allows besides."""
    return tuple(name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip())


def _check(target: Any) -> None:
    """Refuse one name."""
    own = own_packages()
    # The name is looked at before anything is imported, since that runs code too.
    if not isinstance(target, str) or not _begins(target, own):
        _refuse(target)
    try:
        module = getattr(hydra.utils.get_object(target), "__module__", None) or ""
    except (InstantiationException, ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"_target_={target} is not to be found: {error}") from error
    packages = (*PACKAGES, *own)
    if not any(f"{module}.".startswith(f"{package}.") for package in packages):
        _refuse(target)


def _begins(target: str, own: tuple[str, ...]) -> bool:
    """Whether a name begins as it may, and has no private part."""
    private = any(part.startswith("_") for part in target.split("."))
    return not private and target.startswith((*ALLOWED, *(f"{name}." for name in own)))


def _refuse(target: Any) -> None:
    """Tell what is allowed."""
    raise ConfigurationError(
        f"_target_={shown(target)} is not called: a configuration may name classes and functions"
        f" of tarflow, of torch.optim, and Lightning's; for a package of your own, set the"
        f" environment variable {VARIABLE} to its name"
    )
